//! Lines are counted and kept to the byte, whatever they are and however short
//! their container lives (F5, F6, F7).

use std::time::Duration;

use super::{
    foreign::{Foreign, SOURCES, told, write_record},
    *,
};
use crate::support::{docker, image};

/// The exact bytes of a line.
fn bytes(line: &pb::Log) -> Vec<u8> {
    line.raw.clone().unwrap_or_else(|| line.content.clone().into_bytes())
}

/// Lines put together again where they were too long to be stored whole.
fn joined(lines: &[pb::Log]) -> Vec<Vec<u8>> {
    let (mut whole, mut open) = (Vec::new(), Vec::new());
    for line in lines {
        open.extend(bytes(line));
        if line.continues != Some(true) {
            whole.push(std::mem::take(&mut open));
        }
    }
    assert!(open.is_empty(), "the last part ends its line");
    whole
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_one_nanosecond_with_one_text_are_counted_across_restarts() {
    for source in SOURCES {
        let mut service = Service::with(|config| config.logs_source = source).await.synced().await;
        let container = Foreign::run(&[], "exec sleep 1000");
        let log = container.log_file();
        let now = jiff::Timestamp::now().as_nanosecond() as i64;
        let write = |count: usize, after: i64| {
            for _ in 0..count {
                write_record(&log, "the same", now + after);
            }
        };
        write(100, 0);
        assert_eq!(reaches(&service, &container.name, 100).await.len(), 100, "{source}");
        service.stop().await;
        write(100, 0);
        service.resume().await;
        assert_eq!(reaches(&service, &container.name, 200).await.len(), 200, "{source}");
        service.stop().await;
        service.resume().await;
        write(1, 0);
        write(1, 1);
        let lines = reaches(&service, &container.name, 202).await;
        assert_eq!(lines.len(), 202, "{source}");
        assert!(lines.iter().all(|line| line.content == "the same" && line.gap.is_none()));
        let times: Vec<_> = lines.iter().filter_map(|line| line.created_at).collect();
        assert!(times[..201].iter().all(|time| *time == times[0]) && times[201] != times[0]);
    }
}

/// Runs containers that print 5,000 lines and are gone at once, and answers with
/// their ids.
async fn flashes(count: usize) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a directory");
    let run = |at: usize| {
        let (file, name) = (dir.path().join(at.to_string()), unique("flash"));
        tokio::task::spawn_blocking(move || {
            let file_arg = file.display().to_string();
            let run = ["run", "--rm", "--network", "none", "--cidfile", &file_arg, "--name", &name];
            docker(&[&run[..], &[image(), "seq", "5000"]].concat());
            std::fs::read_to_string(file).expect("an id")
        })
    };
    let mut ids = Vec::new();
    for running in (0..count).map(run).collect::<Vec<_>>() {
        ids.push(running.await.expect("no panic"));
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_gone_at_once_is_captured_or_its_loss_is_told() {
    image();
    for source in SOURCES {
        let service = Service::with(|config| config.logs_source = source).await.synced().await;
        let mut ids = Vec::new();
        for _ in 0..4 {
            ids.extend(flashes(1).await);
        }
        ids.extend(flashes(3).await);
        ids.extend(flashes(3).await);
        for id in &ids {
            let request = pb::ListLogsRequest {
                container_id: id.clone(),
                page_size: 10_000,
                order: pb::LogOrder::OldestFirst.into(),
                view: pb::LogView::Full.into(),
                ..Default::default()
            };
            let lines = std::sync::Mutex::new(Vec::new());
            eventually(&format!("{source}: all of {id}, or a gap"), || async {
                let page = client(&service).await.list_logs(request.clone()).await;
                let Ok(page) = page else { return false };
                let got = page.into_inner().logs;
                let end = got.last().is_some_and(|l| l.content == "5000" || l.gap.is_some());
                *lines.lock().unwrap() = got;
                end
            })
            .await;
            let (count, gaps) = told(&lines.into_inner().unwrap(), 5000);
            assert!(count == 5000 || gaps > 0, "{source}: {count} lines of {id}");
        }
        // What is only told to be lost is still told after retention looked.
        let mut ticks = tokio::time::interval(Duration::from_secs(6));
        ticks.tick().await;
        ticks.tick().await;
        for id in &ids {
            let body = format!(r#"{{"containerId":"{id}"}}"#);
            let (status, answer) = service.rest("POST", "/container-svc/logs", &body).await;
            assert_eq!(status, 200, "{source}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_read_to_its_end_has_no_gap_when_it_is_removed() {
    for source in SOURCES {
        let service = Service::with(|config| config.logs_source = source).await.synced().await;
        let container = Foreign::run(&[], "seq 100");
        container.ended().await;
        reaches(&service, &container.name, 100).await;
        let database = rusqlite::Connection::open(service.log_database()).expect("a database");
        eventually("its log is read to the end", || async {
            let complete = database.query_row(
                "SELECT complete FROM log_sources WHERE container_id = ?1",
                [&container.id],
                |row| row.get::<_, bool>(0),
            );
            complete.expect("it is known")
        })
        .await;
        let name = container.name.clone();
        drop(container);
        eventually("its removal is seen", || async {
            service.get(&format!("/container-svc/container?name={name}")).await.0 == 404
        })
        .await;
        // Another container, begun later, is read: so the removal was too.
        let later = Foreign::run(&[], "seq 3");
        reaches(&service, &later.name, 3).await;
        let lines = all(&service, &name).await;
        assert_eq!(told(&lines, 100), (100, 0), "{source}");
        eventually("no collector stands still", || async {
            let metrics = service.raw("GET", "/metrics", "", &[]).await.2;
            metrics.contains("\ncontainer_svc_log_collectors_failing 0\n")
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_any_length_are_exact() {
    let lengths = [0, 1, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 1 << 20, (1 << 20) + 1];
    let words: Vec<_> = lengths.iter().map(ToString::to_string).collect();
    let script = format!(
        "for n in {}; do head -c $n /dev/zero | tr '\\0' x; echo; done; printf 'no newline'",
        words.join(" ")
    );
    for source in SOURCES {
        let service = Service::with(|config| config.logs_source = source).await.synced().await;
        for options in [&[][..], &["-t"]] {
            let container = Foreign::run(options, &script);
            container.ended().await;
            let lines = reaches(&service, &container.name, lengths.len() + 2).await;
            // A terminal ends its lines as terminals do.
            let end = if options.is_empty() { "" } else { "\r" };
            let got = joined(&lines);
            let expected: Vec<_> = lengths.iter().map(|n| n + end.len()).chain([10]).collect();
            let found: Vec<_> = got.iter().map(Vec::len).collect();
            assert_eq!(found, expected, "{source} {options:?}");
            for line in &got[..lengths.len()] {
                let (text, tail) = line.split_at(line.len() - end.len());
                assert!(text.iter().all(|byte| *byte == b'x') && tail == end.as_bytes());
            }
            assert_eq!(got.last().map(Vec::as_slice), Some(&b"no newline"[..]));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn carriage_returns_nuls_and_broken_text_are_kept_as_the_engine_keeps_them() {
    let script = r"printf 'a\rb\r\n'; printf 'nul\0s\0\n'; printf '\377\376 bad\n'; printf 'q\42 \\ \33[1m <&>\n'; printf '\303\251\n'";
    let expected: [&[u8]; 5] = [
        b"a\rb\r",
        b"nul\0s\0",
        // The json-file log has no other bytes than these.
        "\u{fffd}\u{fffd} bad".as_bytes(),
        b"q\" \\ \x1b[1m <&>",
        "é".as_bytes(),
    ];
    for source in SOURCES {
        let service = Service::with(|config| config.logs_source = source).await.synced().await;
        let container = Foreign::run(&[], script);
        container.ended().await;
        let lines = reaches(&service, &container.name, 5).await;
        assert_eq!(lines.iter().map(bytes).collect::<Vec<_>>(), expected, "{source}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_another_driver_keeps_are_exact() {
    let service = Service::start().await.synced().await;
    let container =
        Foreign::run(&["--log-driver", "local"], r"printf '\377\0\376 bad\n'; echo end");
    container.ended().await;
    let lines = reaches(&service, &container.name, 2).await;
    assert_eq!(lines[0].raw.as_deref(), Some(&b"\xff\0\xfe bad"[..]));
    assert_eq!(lines[0].content, "\u{fffd}\0\u{fffd} bad");
    assert_eq!((lines[1].raw.as_ref(), lines[1].content.as_str()), (None, "end"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_line_is_exact_in_bounded_memory() {
    const LENGTH: usize = 100 << 20;
    for source in SOURCES {
        let service = Service::program(|config| config.logs_source = source).await.synced().await;
        let idle = service.most_memory() >> 10;
        let container =
            Foreign::run(&[], &format!("head -c {LENGTH} /dev/zero | tr '\\0' x; echo; echo end"));
        container.ended().await;
        // Parts of 1 MiB, and the last line.
        reaches(&service, &container.name, 101).await;
        let grown = (service.most_memory() >> 10) - idle;
        assert!(grown <= 64 << 10, "{source}: {grown} KiB above idle");
        let got = joined(&all(&service, &container.name).await);
        assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), [LENGTH, 3], "{source}");
        assert!(got[0].iter().all(|byte| *byte == b'x'), "{source}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_long_lines_fits_a_usual_message() {
    let service = Service::start().await.synced().await;
    // Cut within characters, if at any number of bytes.
    let script = "printf x; yes é | tr -d '\\n' | head -c 12000000; echo; echo end";
    let container = Foreign::run(&[], script);
    container.ended().await;
    let lines = reaches(&service, &container.name, 13).await;
    let got = joined(&lines).join(&b'\n');
    assert!([&got[..], b"\n"].concat() == container.told_by_the_engine(), "to the byte");
    let request = pb::ListLogsRequest {
        name: container.name.clone(),
        order: pb::LogOrder::OldestFirst.into(),
        view: pb::LogView::Full.into(),
        ..Default::default()
    };
    let usual = client(&service).await.max_decoding_message_size(4 << 20).list_logs(request).await;
    assert!(usual.expect("a message within 4 MiB").into_inner().logs.len() > 1);
}
