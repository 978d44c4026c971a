//! A registry on loopback that is a real one behind, and goes wrong when it is told to.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Layers are longer, and what describes an image is shorter.
const LAYER: usize = 512 << 10;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This status with these headers and no more, in place of an answer.
    Answer(u16, &'static str),
    /// 429 with these headers for who comes with a credential.
    Limit(&'static str),
    /// Nothing at all, for ever.
    Mute,
    /// All but the last hundredth of the body, and then nothing for ever.
    Stall,
    /// The same for a layer alone, and not for what is small.
    StallLayer,
    /// A layer in ten pieces, each after so long.
    SlowLayer(Duration),
    /// The body with its last byte changed.
    Change,
}

#[derive(Debug, Default)]
struct State {
    /// For which paths, what, and how often.
    fault: Option<(&'static str, Fault, usize)>,
    /// Paths that were asked for, and whether a credential came along.
    seen: Vec<(String, bool)>,
}

/// The proxy; it ends when it is dropped.
pub struct FaultProxy {
    /// As it stands in an image's name.
    pub host: String,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// In front of a registry.
    #[expect(clippy::disallowed_methods, reason = "the test owns the proxy")]
    pub async fn before(real: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let real: SocketAddr = real.parse().expect("an address");
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = shared.clone();
                // Errors are what the proxy is for.
                tokio::spawn(async move { drop(serve(client, real, &state).await) });
            }
        });
        Self { host, state, task }
    }

    /// The name that an image of the real registry has here.
    pub fn name(&self, image: &str) -> String {
        let (_, rest) = image.split_once('/').expect("a registry");
        format!("{}/{rest}", self.host)
    }

    /// The next so many requests whose path contains this go wrong.
    pub fn set(&self, path: &'static str, fault: Fault, times: usize) {
        let mut state = self.lock();
        state.fault = Some((path, fault, times));
        state.seen.clear();
    }

    /// All goes well from now on.
    pub fn pass(&self) {
        let mut state = self.lock();
        state.fault = None;
        state.seen.clear();
    }

    /// How many requests for such paths came since, with a credential.
    pub fn seen(&self, path: &str, with_credential: bool) -> usize {
        let state = self.lock();
        let fits = |(asked, credential): &&(String, bool)| {
            asked.contains(path) && (*credential || !with_credential)
        };
        state.seen.iter().filter(fits).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("unpoisoned")
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut client: TcpStream,
    real: SocketAddr,
    state: &Mutex<State>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
        // The engine tries TLS first.
        if head[0] == 0x16 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let credential = head.to_lowercase().contains("\r\nauthorization:");
    let fault = {
        let mut state = state.lock().expect("unpoisoned");
        state.seen.push((path.clone(), credential));
        match &mut state.fault {
            Some((fits, fault, left)) if path.contains(*fits) && *left > 0 => {
                *left -= 1;
                Some(fault.clone())
            }
            _ => None,
        }
    };
    let fault = match fault {
        Some(Fault::Limit(headers)) => credential.then_some(Fault::Answer(429, headers)),
        fault => fault,
    };
    if let Some(Fault::Answer(status, headers)) = fault {
        let answer = format!(
            "HTTP/1.1 {status} Fault\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        return client.write_all(answer.as_bytes()).await;
    }
    if fault == Some(Fault::Mute) {
        return until_left(&mut client).await;
    }
    let mut server = TcpStream::connect(real).await?;
    server.write_all(head.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes()).await?;
    let mut whole = Vec::new();
    server.read_to_end(&mut whole).await?;
    let body = whole.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    let layer = whole.len() - body > LAYER;
    match fault {
        Some(Fault::StallLayer) if !layer => {}
        Some(Fault::Stall | Fault::StallLayer) => {
            let end = whole.len() - (whole.len() - body) / 100 - 1;
            client.write_all(&whole[..end]).await?;
            return until_left(&mut client).await;
        }
        Some(Fault::SlowLayer(wait)) if layer => {
            let mut ticks = tokio::time::interval(wait);
            for piece in whole.chunks(whole.len().div_ceil(10)) {
                ticks.tick().await;
                client.write_all(piece).await?;
            }
            return client.shutdown().await;
        }
        Some(Fault::Change) => {
            if let Some(last) = whole.last_mut() {
                *last ^= 1;
            }
        }
        Some(Fault::Answer(..) | Fault::Limit(_) | Fault::Mute | Fault::SlowLayer(_)) | None => {}
    }
    client.write_all(&whole).await?;
    client.shutdown().await
}

/// Waits until whoever asked has left.
async fn until_left(client: &mut TcpStream) -> std::io::Result<()> {
    while client.read(&mut [0; 64]).await? > 0 {}
    Ok(())
}
