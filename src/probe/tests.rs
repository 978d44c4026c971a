//! What probes make of servers that are well, ill, silent and odd.

use std::time::Instant;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

const LIMIT: Duration = Duration::from_secs(5);

/// A server that answers one connection with these bytes and closes, or never.
async fn server(answer: Option<&'static [u8]>) -> (String, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    #[expect(clippy::disallowed_methods, reason = "the test owns the server")]
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = [0; 4096];
        let read = stream.read(&mut request).await.expect("a request");
        match answer {
            Some(answer) if read > 0 => drop(stream.write_all(answer).await),
            _ => drop(stream.read(&mut request).await),
        }
    });
    ("127.0.0.1".to_owned(), port)
}

fn get(path: &str) -> Probe {
    Probe::Http { port: 1, path: path.to_owned() }
}

#[tokio::test]
async fn a_good_status_is_a_success_and_another_is_told_with_its_body() {
    for (answer, well, told) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", true, "HTTP 200 OK"),
        ("HTTP/1.1 302 Found\r\nlocation: /x\r\n\r\n", true, "HTTP 302 Found"),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnope", false, "nope"),
        ("HTTP/1.0 500 Oh\r\n\r\nwithout a length", false, "without a length"),
        ("SSH-2.0-OpenSSH\r\n", false, "no HTTP answer"),
        ("HTTP/1.1 200", false, "no HTTP answer"),
        ("HTTP/1.1 503 Busy\r\ncontent-length: 900\r\n\r\ncut short", false, "cut short"),
    ] {
        let got = ask(&get("/health"), &server(Some(answer.as_bytes())).await, LIMIT).await;
        assert_eq!(got.is_ok(), well, "{answer:?}: {got:?}");
        let text = got.unwrap_or_else(|why| why);
        assert!(text.contains(told), "{answer:?}: {text}");
    }
}

#[tokio::test]
async fn one_that_is_silent_fails_within_the_limit_and_one_that_is_away_at_once() {
    let begin = Instant::now();
    let limit = Duration::from_millis(100);
    let silent = server(None).await;
    let got = ask(&get("/"), &silent, limit).await.expect_err("silent");
    assert!(got.contains("within 100ms"), "{got}");
    assert!(begin.elapsed() < LIMIT);

    let away = {
        let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        ("127.0.0.1".to_owned(), gone.local_addr().expect("an address").port())
    };
    for probe in [get("/"), Probe::Tcp { port: 1 }, Probe::Grpc { port: 1, service: String::new() }]
    {
        let got = ask(&probe, &away, LIMIT).await.expect_err("away");
        assert!(got.contains("takes no connection"), "{got}");
    }
}

#[tokio::test]
async fn an_endless_answer_takes_no_memory() {
    static BODY: [u8; 1 << 20] = [b'x'; 1 << 20];
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let place = ("127.0.0.1".to_owned(), listener.local_addr().expect("an address").port());
    let serve = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let head = b"HTTP/1.1 500 Oh\r\ncontent-type: text/plain\r\n\r\n";
        stream.write_all(head).await.expect("written");
        while stream.write_all(&BODY).await.is_ok() {}
    };
    let probe = get("/");
    let (got, ()) = tokio::join!(ask(&probe, &place, LIMIT), serve);
    assert!(got.expect_err("ill").len() <= crate::domain::health::LONGEST_OUTPUT);
}
