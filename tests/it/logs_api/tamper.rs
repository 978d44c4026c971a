//! A socket in front of the engine's that breaks the frames of its logs.

use std::time::Duration;

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
};

use crate::proxy::engine_socket;

/// What becomes of a log behind so many whole frames.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// A frame of a stream that does not exist.
    BadStream,
    /// A frame of 4 GiB.
    Huge,
    /// The end, behind so many bytes of a frame.
    Cut(usize),
    /// Silence, behind so many bytes of a frame.
    Hang(usize),
    /// Silence towards a follower, and to nobody else.
    Mute,
    /// The engine's word that it cannot read on.
    SystemError,
    /// Each byte by itself, with a pause.
    Drip(Duration),
}

/// The proxy; it ends when it is dropped.
pub(super) struct Tamper {
    dir: TempDir,
    fault: watch::Sender<(Fault, usize)>,
    accepting: JoinHandle<()>,
}

impl Tamper {
    #[expect(clippy::disallowed_methods, reason = "the test owns the proxy")]
    pub(super) fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("sock")).expect("a socket");
        let fault = watch::Sender::new((Fault::None, 0));
        let faults = fault.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let (fault, frames) = *faults.borrow();
                tokio::spawn(async move { drop(serve(client, fault, frames).await) });
            }
        });
        Self { dir, fault, accepting }
    }

    pub(super) fn address(&self) -> String {
        format!("unix://{}", self.dir.path().join("sock").display())
    }

    /// Behaves so on connections that are opened from now on.
    pub(super) fn set(&self, fault: Fault, frames: usize) {
        self.fault.send_replace((fault, frames));
    }
}

impl Drop for Tamper {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut client: UnixStream, fault: Fault, frames: usize) -> std::io::Result<()> {
    let head = head(&mut client).await?;
    let mut engine = UnixStream::connect(engine_socket()).await?;
    // An answer in HTTP/1.0 is not chunked, so that its frames stand in it as they are.
    engine.write_all(head.replacen("HTTP/1.1", "HTTP/1.0", 1).as_bytes()).await?;
    let answer = self::head(&mut engine).await?;
    client.write_all(answer.as_bytes()).await?;
    let wanted = match fault {
        Fault::Mute => head.contains("follow=1"),
        _ => head.contains("/logs?"),
    };
    let fault = if wanted { fault } else { Fault::None };
    if matches!(fault, Fault::None) {
        tokio::io::copy(&mut engine, &mut client).await?;
        return Ok(());
    }
    for _ in 0..frames {
        let Some(frame) = frame(&mut engine).await? else { return Ok(()) };
        client.write_all(&frame).await?;
    }
    match fault {
        Fault::None => {}
        Fault::BadStream => client.write_all(&[7, 0, 0, 0, 0, 0, 0, 1]).await?,
        Fault::Huge => {
            client.write_all(&[1, 0, 0, 0, 255, 255, 255, 255]).await?;
            // As long as the client takes it.
            while client.write_all(&[b'x'; 4096]).await.is_ok() {}
        }
        Fault::SystemError => {
            client.write_all(b"\x03\0\0\0\0\0\0\x08it broke").await?;
        }
        // Until the client leaves.
        Fault::Mute => drop(client.read_u8().await?),
        Fault::Cut(bytes) | Fault::Hang(bytes) => {
            if let Some(frame) = frame(&mut engine).await? {
                client.write_all(&frame[..bytes.min(frame.len() - 1)]).await?;
            }
            if matches!(fault, Fault::Hang(_)) {
                // Until the client leaves.
                client.read_u8().await?;
            }
        }
        Fault::Drip(pause) => {
            let mut pause = tokio::time::interval(pause.max(Duration::from_micros(1)));
            while let Ok(byte) = engine.read_u8().await {
                client.write_all(&[byte]).await?;
                pause.tick().await;
            }
        }
    }
    Ok(())
}

async fn frame(engine: &mut UnixStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut frame = vec![0; 8];
    if engine.read_exact(&mut frame).await.is_err() {
        return Ok(None);
    }
    let length = u32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]);
    frame.resize(8 + usize::try_from(length).expect("fits"), 0);
    engine.read_exact(&mut frame[8..]).await?;
    Ok(Some(frame))
}

async fn head(from: &mut UnixStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(from.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
