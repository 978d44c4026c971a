//! Sources that are busy, that stop just before the end, or that send something else
//! (F16): waited for as they ask, within bounds, and never half a file.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    source::{Asked, Source, give, head, say},
    *,
};

const LENGTH: usize = 200_000;
/// Where the last hundredth begins.
const NEARLY: usize = LENGTH / 100 * 99;

fn busy(wait: &str) -> String {
    format!(
        "HTTP/1.1 429 Too Many Requests\r\nRetry-After: {wait}\r\nContent-Length: 0\r\n\
         Connection: close\r\n\r\n"
    )
}

async fn fetch(service: &Service, plain: pb::Asset) -> Result<String, tonic::Status> {
    let name = unique("asset");
    service.grpc().await.run_container(with(service, &name, &[plain])).await?;
    Ok(exec(&name, "sha256sum < $A").split(' ').next().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_busy_is_asked_again_when_it_says() {
    let service = service().await;
    let source = Source::start(|asked, mut stream| async move {
        match asked.before {
            0 => say(&mut stream, busy("2").as_bytes()).await,
            _ => give(&asked, &mut stream, b"weights", "\"a\"").await,
        }
    })
    .await;
    let begin = Instant::now();
    let got = fetch(&service, asset("A", &source.url("/a"))).await.expect("it comes");
    assert_eq!((got, source.seen().len()), (sha256(b"weights"), 2));
    assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_asks_for_too_long_a_wait_is_not_waited_for() {
    let service = service().await;
    for wait in ["3600", "99999999999999999999", "Fri, 31 Dec 2100 23:59:59 GMT"] {
        let source = Source::saying(busy(wait)).await;
        let begin = Instant::now();
        let error = fetch(&service, asset("A", &source.url("/a?sig=1"))).await.expect_err("busy");
        assert_eq!(error.code(), tonic::Code::FailedPrecondition, "{error:?}");
        for words in ["429", "try again in", "as it asks", "?[redacted]"] {
            assert!(error.message().contains(words), "{words} in {error:?}");
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
        assert_eq!((source.seen().len(), files(&service, "files").len()), (1, 0));
    }
    // One whose wish cannot be read, and one that is busy for ever, are given up.
    for wait in ["soon", "0"] {
        let source = Source::saying(busy(wait)).await;
        fetch(&service, asset("A", &source.url("/a"))).await.expect_err("busy");
        assert_eq!((source.seen().len(), files(&service, "files").len()), (4, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_are_busy_hold_up_no_other() {
    const AT_ONCE: usize = 16;
    let service = service().await;
    let source = Source::start(|asked, mut stream| async move {
        match asked.before < AT_ONCE {
            true => say(&mut stream, busy("20").as_bytes()).await,
            false => give(&asked, &mut stream, b"weights", "\"a\"").await,
        }
    })
    .await;
    let quick = Source::of(b"quick".to_vec(), "\"q\"").await;
    let waiting: Vec<_> =
        (0..AT_ONCE).map(|at| asset(&format!("A{at}"), &source.url(&format!("/{at}")))).collect();
    let (slow, other) = (unique("asset"), unique("asset"));
    let meanwhile = async {
        let all = || async { source.seen().len() == AT_ONCE };
        eventually("each is told to come again", all).await;
        let asked = async {
            eventually("another is fetched", || async { !quick.seen().is_empty() }).await;
            assert_eq!(source.seen().len(), AT_ONCE, "none of them was waited for");
        };
        tokio::join!(run(&service, with(&service, &other, &[asset("A", &quick.url("/a"))])), asked)
    };
    tokio::join!(run(&service, with(&service, &slow, &waiting)), meanwhile);
    assert_eq!(exec(&slow, "cat $A0 $A15"), "weightsweights");
}

/// Sends all but the last hundredth, and then nothing more.
async fn stall(asked: &Asked, stream: &mut tokio::net::TcpStream, file: &[u8]) {
    let (from, head) = head(asked, file.len(), "\"a\"");
    say(stream, head.as_bytes()).await;
    say(stream, &file[from..NEARLY.max(from)]).await;
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_stalls_at_the_last_hundredth_is_gone_on_with_or_given_up() {
    let service = Service::with(|config| {
        lenient(config);
        config.asset_stall_timeout = Duration::from_secs(3);
    })
    .await
    .synced()
    .await;
    let file = Arc::new(bytes(LENGTH));
    for heals in [true, false] {
        let whole = file.clone();
        let source = Source::start(move |asked, mut stream| {
            let file = whole.clone();
            async move {
                match asked.before {
                    1.. if heals => give(&asked, &mut stream, &file, "\"a\"").await,
                    _ => stall(&asked, &mut stream, &file).await,
                }
            }
        })
        .await;
        let got = fetch(&service, asset("A", &source.url("/a"))).await;
        assert!(source.seen()[1..].iter().all(|asked| asked.from() == NEARLY));
        if heals {
            assert_eq!(got.expect("it comes"), sha256(&file));
            assert_eq!((source.seen().len(), files(&service, "files").len()), (2, 1));
        } else {
            let error = got.expect_err("it stalls");
            assert!(error.message().contains("least rate"), "{error:?}");
            assert_eq!((source.seen().len(), files(&service, "files").len()), (4, 1));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_checksum_after_a_break_leaves_nothing_and_the_next_try_begins_anew() {
    let service = service().await;
    let (good, bad) = (Arc::new(bytes(LENGTH)), Arc::new(vec![7; LENGTH]));
    let (right, wrong) = (good.clone(), bad.clone());
    // It breaks, and goes on with other bytes under the same name of the content.
    let source = Source::start(move |asked, mut stream| {
        let (good, bad) = (right.clone(), wrong.clone());
        async move {
            match asked.before {
                0 => {
                    let (_, head) = head(&asked, LENGTH, "\"a\"");
                    say(&mut stream, head.as_bytes()).await;
                    say(&mut stream, &good[..NEARLY]).await;
                }
                1 => give(&asked, &mut stream, &bad, "\"a\"").await,
                _ => give(&asked, &mut stream, &good, "\"a\"").await,
            }
        }
    })
    .await;
    let checked = pb::Asset { sha256: Some(sha256(&good)), ..asset("A", &source.url("/a")) };
    let error = fetch(&service, checked.clone()).await.expect_err("it is another content");
    assert!(error.message().contains("nothing of it is kept"), "{error:?}");
    assert_eq!((files(&service, "files").len(), files(&service, "parts").len()), (0, 0));
    assert_eq!(fetch(&service, checked).await.expect("it is right now"), sha256(&good));
    assert_eq!(source.seen()[2].from(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_show_its_end_is_taken_only_with_a_checksum() {
    let service = service().await;
    let file = bytes(LENGTH);
    let head = b"HTTP/1.1 200 OK\r\nETag: \"a\"\r\nConnection: close\r\n\r\n";
    let whole = Source::saying([&head[..], &file].concat()).await;
    let cut = Source::saying([&head[..], &file[..NEARLY]].concat()).await;
    for source in [&whole, &cut] {
        let error = fetch(&service, asset("A", &source.url("/a"))).await.expect_err("unmeasured");
        assert_eq!(error.code(), tonic::Code::FailedPrecondition);
        assert!(error.message().contains("give its sha256"), "{error:?}");
        assert_eq!(source.seen().len(), 1, "another try would say the same");
    }
    let checked = |source: &Source| pb::Asset {
        sha256: Some(sha256(&file)),
        ..asset("A", &source.url("/a"))
    };
    let error = fetch(&service, checked(&cut)).await.expect_err("cut");
    assert!(error.message().contains("nothing of it is kept"), "{error:?}");
    assert_eq!((files(&service, "files").len(), files(&service, "parts").len()), (0, 0));
    assert_eq!(fetch(&service, checked(&whole)).await.expect("it is whole"), sha256(&file));
}
