//! Sources that do what they should not (F19): a clear error, and never a file in place.

use std::time::{Duration, Instant};

use super::{
    source::{Source, say},
    *,
};

/// A container with this asset is refused, and nothing of it is left as if it were whole.
async fn fails(service: &Service, url: &str, words: &[&str]) {
    let told = refused(service, json!([{"envVarKey": "A", "url": url}])).await;
    for word in words {
        assert!(told.contains(word), "{word} in {told}");
    }
    assert_eq!(files(service, "files"), [""; 0], "{told}");
}

/// An answer that does not tell how long it is.
const CHUNKED: &str = "200 OK\r\nTransfer-Encoding: chunked";

/// So many bytes of such an answer.
fn chunk(length: usize) -> Vec<u8> {
    [format!("{length:x}\r\n").as_bytes(), &vec![b'x'; length], b"\r\n"].concat()
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes(), body].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_where_no_request_may_go_is_refused_by_its_rule() {
    let service = service().await;
    for (target, words) in [
        ("http://169.254.169.254/latest/meta-data", "asset_allow_http"),
        ("https://169.254.169.254/latest/meta-data", "link-local"),
        ("https://[::ffff:169.254.169.254]/", "link-local"),
        ("https://100.100.100.200/", "metadata"),
        ("https://0/", "unspecified"),
        ("//[::1]:1/", "asset_allow_http"),
        ("https://localhost.localdomain:1/", "refused"),
        ("file:///etc/passwd", "scheme \"file\""),
        ("https://user:secret@files.example/", "user name"),
        ("ftp://user:secret@files.example/", "user name"),
    ] {
        let source = Source::saying(answer(&format!("302 Found\r\nLocation: {target}"), b"")).await;
        if target.contains("localdomain") {
            // Which resolves on many machines, and on others not at all.
            refused(&service, json!([{"envVarKey": "A", "url": source.url("/a")}])).await;
            continue;
        }
        fails(&service, &source.url("/a"), &["redirects", words, "assets[0].url"]).await;
        assert_eq!(source.seen().len(), 1, "it is not asked again");
    }
    let nowhere = Source::saying(answer("302 Found", b"")).await;
    fails(&service, &nowhere.url("/a"), &["no usable address"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_followed_five_times_and_no_more() {
    let service = service().await;
    let endless = Source::saying(answer("301 Moved\r\nLocation: /again", b"")).await;
    fails(&service, &endless.url("/a"), &["more than 5 times"]).await;
    assert_eq!(endless.seen().len(), 6);

    let patient = Source::start(|asked, mut stream| async move {
        let said = match asked.before {
            5 => answer("200 OK\r\nContent-Length: 3", b"end"),
            turn => answer(&format!("307 Moved\r\nLocation: /{turn}"), b""),
        };
        say(&mut stream, &said).await;
    })
    .await;
    let name = unique("asset");
    run(&service, with(&service, &name, &[asset("A", &patient.url("/a.txt"))])).await;
    assert_eq!(exec(&name, "echo $A; cat $A"), "/assets/A/a.txt\nend");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_whole_file_is_an_error_that_says_so() {
    let service = Service::with(|config| {
        lenient(config);
        config.asset_max_bytes = 1 << 20;
    })
    .await
    .synced()
    .await;
    let over = format!("200 OK\r\nContent-Length: {}", (1 << 20) + 1);
    for (said, words) in [
        (answer("404 Not Found\r\nContent-Length: 0", b""), "is not there"),
        (answer("403 Forbidden\r\nContent-Length: 0", b""), "403"),
        (answer("500 Oh\r\nContent-Length: 0", b""), "500"),
        (answer("200 OK\r\nContent-Length: 100", b"only some"), "broke the connection"),
        (answer(CHUNKED, b"5\r\nhello\r\n"), "broke the connection"),
        (answer("206 Partial Content\r\nContent-Range: bytes 5-9/10", b"later"), "changed"),
        (answer("304 Not Modified", b""), "304"),
        (answer(&over, b""), "asset_max_bytes"),
        (answer(CHUNKED, &chunk((1 << 20) + 1)), "asset_max_bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Le".to_vec(), "broke the connection"),
        (b"SSH-2.0-OpenSSH_9\r\n".to_vec(), "broke the connection"),
        (b"".to_vec(), "broke the connection"),
    ] {
        let source = Source::saying(said).await;
        fails(&service, &source.url("/a?sig=1"), &[words, "?[redacted]"]).await;
        assert!(source.seen().len() <= 4, "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gzip_bomb_is_neither_unpacked_nor_kept() {
    let service = service().await;
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..64 {
        std::io::Write::write_all(&mut bomb, &vec![0; 1 << 20]).expect("memory");
    }
    let bomb = bomb.finish().expect("memory");
    let head = format!("200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}", bomb.len());
    let source = Source::saying(answer(&head, &bomb)).await;
    fails(&service, &source.url("/a"), &["encoded as \"gzip\""]).await;

    // Without the header it is a file like any other, and stays as it is.
    let plain = Source::of(bomb.clone(), "\"b\"").await;
    let name = unique("asset");
    run(&service, with(&service, &name, &[asset("A", &plain.url("/a.gz"))])).await;
    assert_eq!(exec(&name, "wc -c < $A"), bomb.len().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_stands_still_or_drips_is_given_up() {
    let service = Service::with(|config| {
        lenient(config);
        config.asset_stall_timeout = Duration::from_secs(1);
        config.asset_min_rate = 1000;
    })
    .await
    .synced()
    .await;
    let mute = Source::start(|_, stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let still = Source::start(|_, mut stream| async move {
        say(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello").await;
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let drip = Source::start(|_, mut stream| async move {
        say(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n").await;
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        loop {
            ticks.tick().await;
            say(&mut stream, b"x").await;
        }
    })
    .await;
    for (source, words) in [(mute, "did not answer"), (still, "least rate"), (drip, "least rate")] {
        let begin = Instant::now();
        fails(&service, &source.url("/a"), &[words]).await;
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(30), "{words}: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_in_all_is_given_up() {
    let service = Service::with(|config| {
        lenient(config);
        config.asset_max_time = Duration::from_secs(2);
    })
    .await
    .synced()
    .await;
    let endless = Source::start(|_, mut stream| async move {
        say(&mut stream, &answer(CHUNKED, b"")).await;
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            say(&mut stream, &chunk(1000)).await;
        }
    })
    .await;
    fails(&service, &endless.url("/a"), &["after 2 s"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_checksum_leaves_nothing_and_touches_no_container() {
    let service = service().await;
    let source = Source::of(b"other".to_vec(), "\"a\"").await;
    let name = unique("asset");
    let before = run(&service, service.request(&name)).await;
    let checked = pb::Asset { sha256: Some("0".repeat(64)), ..asset("A", &source.url("/a")) };
    let error = service.grpc().await.run_container(with(&service, &name, &[checked])).await;
    let error = error.expect_err("it is refused");
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
    for part in [sha256(b"other"), "0".repeat(64)] {
        assert!(error.message().contains(&part), "{error:?}");
    }
    for folder in ["files", "parts"] {
        assert_eq!(files(&service, folder), [""; 0]);
    }
    assert_eq!(service.made(), [before.id], "the one that ran runs on");
    assert_eq!(docker(&["inspect", "-f", "{{.State.Running}}", &name]), "true");
    let (_, listed) = service.get("/container-svc/assets").await;
    assert_eq!(listed["assets"], json!([]));
}
