//! A download that broke is gone on with where the source shows that it may be.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{
    source::{Asked, Source, give, head, say},
    *,
};
use crate::support::DEADLINE;

const LENGTH: usize = 3 << 20;
const BREAK: usize = 2 << 20;

/// Sends an answer up to a place in the file, and then closes.
async fn give_some(asked: &Asked, stream: &mut tokio::net::TcpStream, file: &[u8], etag: &str) {
    let (from, head) = head(asked, file.len(), etag);
    say(stream, head.as_bytes()).await;
    say(stream, &file[from..BREAK.max(from)]).await;
}

async fn fetch(service: &Service, source: &Source) -> String {
    let name = unique("asset");
    run(service, with(service, &name, &[asset("A", &source.url("/a.bin"))])).await;
    exec(&name, "sha256sum < $A").trim_end_matches(" -").trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_broke_off_is_gone_on_with_by_range() {
    let service = service().await;
    let file = Arc::new(bytes(LENGTH));
    let whole = file.clone();
    let source = Source::start(move |asked, mut stream| {
        let file = whole.clone();
        async move {
            match asked.before {
                0 => give_some(&asked, &mut stream, &file, "\"a\"").await,
                _ => give(&asked, &mut stream, &file, "\"a\"").await,
            }
        }
    })
    .await;
    assert_eq!(fetch(&service, &source).await, sha256(&file));
    let seen = source.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[1].from(), seen[1].header("if-range")), (BREAK, "\"a\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_range_or_validator_it_begins_anew() {
    let service = service().await;
    let file = Arc::new(bytes(LENGTH));
    for etag in ["\"a\"", "W/\"a\"", ""] {
        let whole = file.clone();
        let source = Source::start(move |asked, mut stream| {
            let file = whole.clone();
            async move {
                let plain = Asked { headers: Default::default(), ..asked.clone() };
                match asked.before {
                    0 => give_some(&plain, &mut stream, &file, etag).await,
                    _ => give(&plain, &mut stream, &file, etag).await,
                }
            }
        })
        .await;
        assert_eq!(fetch(&service, &source).await, sha256(&file), "{etag}");
        let asked = source.seen()[1].from();
        assert_eq!(asked, if etag == "\"a\"" { BREAK } else { 0 }, "{etag}");
    }
}

/// A source that knows its file by a date alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_date_of_change_will_do_to_go_on_and_to_ask_again() {
    const DATE: &str = "Tue, 03 Nov 2026 10:00:00 GMT";
    const LATER: &str = "Tue, 03 Nov 2026 10:00:01 GMT";
    let service = service().await;
    let file = Arc::new(bytes(LENGTH));
    let whole = file.clone();
    let source = Source::start(move |asked, mut stream| {
        let file = whole.clone();
        async move {
            let common = format!("Date: {LATER}\r\nLast-Modified: {DATE}\r\nConnection: close\r\n");
            if asked.header("if-modified-since") == DATE {
                let head = format!("HTTP/1.1 304 Not Modified\r\n{common}\r\n");
                return say(&mut stream, head.as_bytes()).await;
            }
            let from = if asked.header("if-range") == DATE { asked.from() } else { 0 };
            let (left, last) = (LENGTH - from, LENGTH - 1);
            let head = match from {
                0 => format!("200 OK\r\nContent-Length: {left}"),
                _ => format!(
                    "206 Partial Content\r\nContent-Length: {left}\r\n\
                     Content-Range: bytes {from}-{last}/{LENGTH}"
                ),
            };
            say(&mut stream, format!("HTTP/1.1 {head}\r\n{common}\r\n").as_bytes()).await;
            let to = if asked.before == 0 { BREAK } else { LENGTH };
            say(&mut stream, &file[from..to]).await;
        }
    })
    .await;
    let (name, plain) = (unique("asset"), asset("A", &source.url("/a.bin")));
    run(&service, with(&service, &name, std::slice::from_ref(&plain))).await;
    assert_eq!(exec(&name, "sha256sum < $A").split(' ').next(), Some(sha256(&file).as_str()));
    let fresh = pb::Asset { refresh: Some(true), ..plain };
    let same = run(&service, with(&service, &name, &[fresh])).await;
    assert_eq!(same.action(), pb::RunAction::Unchanged);
    let seen = source.seen();
    let asked = |at: usize, header: &str| seen[at].header(header).to_owned();
    assert_eq!((seen.len(), seen[1].from(), asked(1, "if-range")), (3, BREAK, DATE.to_owned()));
    assert_eq!((asked(2, "if-modified-since"), asked(2, "range")), (DATE.into(), String::new()));
}

/// Within the second of its date, a file may change and have the same date.
#[tokio::test(flavor = "multi_thread")]
async fn a_date_of_change_of_this_second_is_no_reason_to_go_on() {
    const DATE: &str = "Tue, 03 Nov 2026 10:00:00 GMT";
    let service = service().await;
    let [old, new] = [1, 2].map(|byte| Arc::new(vec![byte; LENGTH]));
    let second = new.clone();
    let source = Source::start(move |asked, mut stream| {
        let (old, new) = (old.clone(), second.clone());
        async move {
            let (file, to) = if asked.before == 0 { (old, BREAK) } else { (new, LENGTH) };
            let from = if asked.header("if-range") == DATE { asked.from() } else { 0 };
            let (left, last) = (LENGTH - from, LENGTH - 1);
            let status = match from {
                0 => "200 OK".to_owned(),
                _ => format!("206 Partial Content\r\nContent-Range: bytes {from}-{last}/{LENGTH}"),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {left}\r\nDate: {DATE}\r\n\
                 Last-Modified: {DATE}\r\nConnection: close\r\n\r\n"
            );
            say(&mut stream, head.as_bytes()).await;
            say(&mut stream, &file[from..to]).await;
        }
    })
    .await;
    assert_eq!(fetch(&service, &source).await, sha256(&new));
    assert_eq!(source.seen()[1].header("range"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_that_changed_in_between_is_never_mixed_with_the_old() {
    let service = service().await;
    let (old, new) = (Arc::new(bytes(LENGTH)), Arc::new(vec![7; LENGTH]));
    for liar in [false, true] {
        let (first, second) = (old.clone(), new.clone());
        let source = Source::start(move |asked, mut stream| {
            let (old, new) = (first.clone(), second.clone());
            async move {
                match (asked.before, liar && asked.from() > 0) {
                    (0, _) => give_some(&asked, &mut stream, &old, "\"old\"").await,
                    // One that sends the rest of another content all the same.
                    (_, true) => {
                        let (from, last) = (asked.from(), LENGTH - 1);
                        let head = format!(
                            "HTTP/1.1 206 Partial Content\r\nETag: \"new\"\r\nContent-Length: {}\r\n\
                             Content-Range: bytes {from}-{last}/{LENGTH}\r\n\r\n",
                            LENGTH - from
                        );
                        say(&mut stream, head.as_bytes()).await;
                        say(&mut stream, &new[from..]).await;
                    }
                    (_, false) => give(&asked, &mut stream, &new, "\"new\"").await,
                }
            }
        })
        .await;
        assert_eq!(fetch(&service, &source).await, sha256(&new));
    }
}

/// Puts a whole part there, as a kill between the last byte and the publication leaves it.
fn leave_part(service: &Service, url: &str, key: &str, content: &[u8], boot: &str) {
    let parts = service.asset_folder().join("parts");
    let id = &sha256(url.as_bytes())[..32];
    let beside = json!({"url": url, "etag": "\"a\"", "last_modified": "",
        "total": content.len(), "boot": boot});
    fs::write(parts.join(format!("{id}{key}")), content).expect("a part");
    fs::write(parts.join(format!("{id}{key}.json")), beside.to_string()).expect("its companion");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_whole_before_a_kill_is_not_fetched_again() {
    let service = service().await;
    let file = bytes(1000);
    let source = Source::of(file.clone(), "\"a\"").await;
    let plain = asset("A", &source.url("/a.bin"));
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot");
    leave_part(&service, &plain.url, "", &file, boot.trim());
    assert_eq!(fetch(&service, &source).await, sha256(&file));
    assert_eq!(source.seen().len(), 0);
    assert_eq!(files(&service, "parts"), [""; 0]);

    // A part from before a crash of the machine may hold zeros.
    let other = Source::of(file.clone(), "\"a\"").await;
    leave_part(&service, &other.url("/a.bin"), "", &[0; 1000], "another");
    assert_eq!(fetch(&service, &other).await, sha256(&file));
    assert_eq!((other.seen().len(), other.seen()[0].from()), (1, 0));

    // Nor is it good for one who wants it fresh.
    let newer = Source::of(vec![9; 1000], "\"b\"").await;
    let fresh = pb::Asset { refresh: Some(true), ..asset("A", &newer.url("/a.bin")) };
    for key in ["", "-fresh"] {
        leave_part(&service, &fresh.url, key, &file, boot.trim());
    }
    let name = unique("asset");
    run(&service, with(&service, &name, &[fresh])).await;
    assert_eq!(exec(&name, "sha256sum < $A").split(' ').next(), Some(&*sha256(&[9; 1000])));
    assert_eq!((newer.seen().len(), newer.seen()[0].from()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_was_killed_goes_on_where_it_was() {
    let mut service = Service::program(lenient).await.synced().await;
    let file = Arc::new(bytes(LENGTH));
    let (whole, given) = (file.clone(), Arc::new(AtomicUsize::new(0)));
    let sent = given.clone();
    let source = Source::start(move |asked, mut stream| {
        let (file, sent) = (whole.clone(), sent.clone());
        async move {
            if asked.before > 0 {
                return give(&asked, &mut stream, &file, "\"a\"").await;
            }
            give_some(&asked, &mut stream, &file, "\"a\"").await;
            sent.store(BREAK, Ordering::SeqCst);
            std::future::pending::<()>().await;
            drop(stream);
        }
    })
    .await;
    let (name, mut client) = (unique("asset"), service.grpc().await);
    let request = with(&service, &name, &[asset("A", &source.url("/a.bin"))]);
    let cut = request.clone();
    let mut broken = Box::pin(client.run_container(cut));
    let parts = service.asset_folder().join("parts");
    let written = || {
        let entries = fs::read_dir(&parts).into_iter().flatten().filter_map(Result::ok);
        entries.filter_map(|entry| entry.metadata().ok()).map(|about| about.len()).max()
    };
    tokio::select! {
        ended = &mut broken => panic!("it ended: {ended:?}"),
        () = eventually("most of it is written", || async {
            written().unwrap_or(0) as usize >= BREAK && given.load(Ordering::SeqCst) > 0
        }) => {}
    }
    service.kill();
    drop(broken);
    assert_eq!(files(&service, "files"), [""; 0], "no half file in place");
    service.resume().await;
    let service = service.synced().await;
    run(&service, request).await;
    assert_eq!(exec(&name, "sha256sum < $A").split(' ').next(), Some(sha256(&file).as_str()));
    assert_eq!(source.seen()[1].from(), BREAK);
    assert_eq!(files(&service, "parts"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rest_that_is_too_short_is_not_taken_for_the_end() {
    let service = service().await;
    let file = Arc::new(bytes(LENGTH));
    let whole = file.clone();
    // The first answer does not tell how much there is, and breaks.
    let source = Source::start(move |asked, mut stream| {
        let file = whole.clone();
        async move {
            if asked.before == 0 {
                let head = "HTTP/1.1 200 OK\r\nETag: \"a\"\r\nTransfer-Encoding: chunked\r\n\r\n";
                say(&mut stream, format!("{head}{BREAK:x}\r\n").as_bytes()).await;
                say(&mut stream, &file[..BREAK]).await;
                return;
            }
            let (from, last) = (asked.from(), LENGTH - 1);
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nETag: \"a\"\r\nConnection: close\r\n\
                 Content-Range: bytes {from}-{last}/{LENGTH}\r\n\r\n"
            );
            // And the second one ends early, as if that were its end.
            let to = if asked.before == 1 { from.midpoint(LENGTH) } else { LENGTH };
            say(&mut stream, head.as_bytes()).await;
            say(&mut stream, &file[from..to]).await;
        }
    })
    .await;
    assert_eq!(fetch(&service, &source).await, sha256(&file));
    assert_eq!(source.seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_does_not_wait_for_a_download() {
    let change = |config: &mut Config| {
        lenient(config);
        config.drain_timeout = DEADLINE * 4;
    };
    let mut service = Service::with(change).await.synced().await;
    let source = Source::start(|_, mut stream| async move {
        say(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nsome").await;
        std::future::pending::<()>().await;
    })
    .await;
    let request = with(&service, &unique("asset"), &[asset("A", &source.url("/a"))]);
    let mut client = service.grpc().await;
    let (status, ()) = tokio::join!(client.run_container(request), async {
        eventually("the download has begun", || async { !source.seen().is_empty() }).await;
        // It must end in much less than it would wait for what goes on.
        service.stop().await;
    });
    assert_eq!(status.expect_err("it stopped").code(), tonic::Code::Cancelled);
}
