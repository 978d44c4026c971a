//! A web server of the test's own, as honest or as hostile as the test wants it.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// One question.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Path and query.
    pub path: String,
    /// By names in lower case.
    pub headers: BTreeMap<String, String>,
    /// How many came before it.
    pub before: usize,
}

impl Asked {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Where the part begins that is asked for.
    pub fn from(&self) -> usize {
        let range = self.header("range").trim_start_matches("bytes=").trim_end_matches('-');
        range.parse().unwrap_or(0)
    }
}

/// The server; it ends when it is dropped.
pub struct Source {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Source {
    /// Gives each question, and the connection to answer it on, to a handler.
    #[expect(clippy::disallowed_methods, reason = "the test owns the server")]
    pub async fn start<F: Future<Output = ()> + Send + 'static>(
        handler: impl Fn(Asked, TcpStream) -> F + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::<Mutex<Vec<Asked>>>::default();
        let log = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, log) = (handler.clone(), log.clone());
                tokio::spawn(async move {
                    if let Some((asked, stream)) = read(stream, &log).await {
                        handler(asked, stream).await;
                    }
                });
            }
        });
        Self { address, seen, task }
    }

    /// One that answers everything with these bytes.
    pub async fn saying(answer: impl Into<Vec<u8>>) -> Self {
        let answer = Arc::new(answer.into());
        Self::start(move |_, mut stream| {
            let answer = answer.clone();
            async move { say(&mut stream, &answer).await }
        })
        .await
    }

    /// One that has a file, and knows ranges and conditions.
    pub async fn of(file: Vec<u8>, etag: &'static str) -> Self {
        let file = Arc::new(file);
        Self::start(move |asked, mut stream| {
            let file = file.clone();
            async move { give(&asked, &mut stream, &file, etag).await }
        })
        .await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn seen(&self) -> Vec<Asked> {
        self.seen.lock().expect("unpoisoned").clone()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(stream: TcpStream, log: &Mutex<Vec<Asked>>) -> Option<(Asked, TcpStream)> {
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let path = lines.first()?.split(' ').nth(1)?.to_owned();
    let headers = lines[1..].iter().filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let mut log = log.lock().expect("unpoisoned");
    let asked = Asked { path, headers, before: log.len() };
    log.push(asked.clone());
    Some((asked, stream.into_inner()))
}

/// Sends bytes; whoever asked may be gone.
pub async fn say(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
}

/// The head of an answer with a file.
pub fn head(asked: &Asked, length: usize, etag: &str) -> (usize, String) {
    let from = asked.from();
    let common = format!("ETag: {etag}\r\nAccept-Ranges: bytes\r\nConnection: close\r\n");
    if from > 0 && asked.header("if-range") == etag {
        let rest = length - from;
        let range = format!("Content-Range: bytes {from}-{}/{length}\r\n", length - 1);
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {rest}\r\n{range}{common}\r\n"
        );
        return (from, head);
    }
    (0, format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{common}\r\n"))
}

/// Answers as a good server does.
pub async fn give(asked: &Asked, stream: &mut TcpStream, file: &[u8], etag: &str) {
    if !etag.is_empty() && asked.header("if-none-match") == etag {
        let head = "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n";
        return say(stream, head.as_bytes()).await;
    }
    let (from, head) = head(asked, file.len(), etag);
    say(stream, head.as_bytes()).await;
    say(stream, &file[from..]).await;
}
