//! Both gateways over one backend, asked the same over TCP.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use axum::Router;
use container_svc::gateway::Gateway;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    status: u16,
    kind: String,
    body: String,
}

/// Both gateways over one backend.
pub(super) struct Both {
    real: SocketAddr,
    ours: SocketAddr,
    process: Child,
    _tasks: tokio::task::JoinSet<()>,
}

impl Drop for Both {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Both {
    pub(super) async fn start() -> Self {
        let mut tasks = tokio::task::JoinSet::new();
        let mut serve = async |router: Router| {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            tasks.spawn(async move { axum::serve(listener, router).await.expect("serves") });
            address
        };
        let backend = serve(Router::new().fallback(golden)).await;
        let gateway = Gateway::new(&pool(), Router::new().fallback(golden), 1 << 20, None);
        let ours = serve(Router::new().fallback(move |request| gateway.clone().handle(request)));
        let ours = ours.await;

        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/.cache/tools/bin/real-gateway");
        let mut process = Command::new(program)
            .arg(backend.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the real grpc-gateway; `make tools` builds it");
        let output = process.stdout.take().expect("a pipe");
        let output = tokio::process::ChildStdout::from_std(output).expect("a pipe");
        let mut address = String::new();
        tokio::io::BufReader::new(output).read_line(&mut address).await.expect("an address");
        let real = address.trim().parse().expect("an address");
        Self { real, ours, process, _tasks: tasks }
    }

    async fn ask(&self, method: &str, target: &str, body: &[u8]) -> (Told, Told) {
        tokio::join!(
            ask_over_tcp(self.real, method, target, body),
            ask_over_tcp(self.ours, method, target, body)
        )
    }

    /// What is not as it should be.
    pub(super) async fn differs(
        &self,
        method: &str,
        target: &str,
        body: &[u8],
        apart: Apart,
    ) -> Option<String> {
        let (real, ours) = self.ask(method, target, body).await;
        let expected = expected(&real, apart);
        let same = match apart {
            No | NoFrame => expected == ours,
            Words => {
                let code = |told: &Told| -> Option<i64> {
                    let body: serde_json::Value = serde_json::from_str(&told.body).ok()?;
                    body["message"].as_str().filter(|text| !text.is_empty())?;
                    body["code"].as_i64()
                };
                (real.status, &real.kind) == (ours.status, &ours.kind)
                    && real.status >= 400
                    && code(&real) == code(&ours)
            }
            Apart::Status { real: at, ours: own, .. } => (real.status, ours.status) == (at, own),
        };
        let body = String::from_utf8_lossy(body);
        let shown = |told: &Told| format!("{} {} {}", told.status, told.kind, told.body);
        let (expected, ours) = match apart {
            No | NoFrame => (shown(&expected), shown(&ours)),
            _ => (shown(&real), shown(&ours)),
        };
        // The answers are long; what is equal at their begin says nothing.
        let equal = expected.chars().zip(ours.chars()).take_while(|(a, b)| a == b).count();
        let part =
            |text: &str| text.chars().skip(equal.saturating_sub(20)).take(120).collect::<String>();
        let (expected, ours) = (part(&expected), part(&ours));
        (!same).then(|| {
            format!("{method} {target} {body} {apart:?}\n  real …{expected}\n  ours …{ours}\n")
        })
    }
}

/// What ours should answer, after what the real one answered.
fn expected(real: &Told, apart: Apart) -> Told {
    let mut body = real.body.clone();
    if let NoFrame = apart {
        let inner = body.strip_prefix("{\"error\":").and_then(|body| body.strip_suffix("}\n"));
        body = inner.expect("a frame").to_owned();
    }
    if real.status >= 400 {
        let json: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        body = body.replacen('{', &format!("{{\"error\":{},", json["message"]), 1);
    }
    Told { status: real.status, kind: real.kind.clone(), body }
}

async fn ask_over_tcp(address: SocketAddr, method: &str, target: &str, body: &[u8]) -> Told {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("writes");
    stream.write_all(body).await.expect("writes");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("reads");
    let answer = String::from_utf8(answer).expect("UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        let mut values = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        values.next().map_or(String::new(), |(_, value)| value.to_owned())
    };
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    let body = match header("transfer-encoding").as_str() {
        "chunked" => unchunked(body),
        _ => body.to_owned(),
    };
    Told { status, kind: header("content-type"), body }
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((length, more)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a length");
        if length == 0 {
            break;
        }
        body.push_str(&more[..length]);
        rest = &more[length + 2..];
    }
    body
}

pub(super) async fn compare(
    both: &Both,
    cases: impl IntoIterator<Item = (&str, String, Vec<u8>, Apart)>,
) {
    let mut differences = String::new();
    for (method, target, body, apart) in cases {
        if let Some(difference) = both.differs(method, &target, &body, apart).await {
            differences.push_str(&difference);
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
}

pub(super) fn post<'a>(
    path: &str,
    bodies: &[(&str, Apart)],
) -> Vec<(&'a str, String, Vec<u8>, Apart)> {
    let case =
        |(body, apart): &(&str, Apart)| ("POST", path.to_owned(), body.as_bytes().to_vec(), *apart);
    bodies.iter().map(case).collect()
}

pub(super) fn get<'a>(targets: &[(&str, Apart)]) -> Vec<(&'a str, String, Vec<u8>, Apart)> {
    targets.iter().map(|(target, apart)| ("GET", (*target).to_owned(), vec![], *apart)).collect()
}

/// What a backend sent, straight to both.
pub(super) fn raw(bytes: &[u8], apart: Apart) -> (&'static str, String, Vec<u8>, Apart) {
    let body = format!("{{\"data\":\"{}\"}}", STANDARD_NO_PAD.encode(bytes));
    ("POST", "/golden/raw".to_owned(), body.into_bytes(), apart)
}
