//! What BuildKit is told of a tree, what it gets, and what it may not ask.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::engine::context::{Context, Sharing, tests::tree};

async fn shared(root: &Path, dockerfile: &str) -> Sharing {
    let folder = root.join("ctx").to_str().unwrap().to_owned();
    let context = Context::open(vec![root.to_owned()], folder, dockerfile.to_owned()).await;
    context.unwrap().share()
}

/// A conversation: the engine's side of it.
struct Engine {
    requests: mpsc::Sender<Request>,
    answers: mpsc::Receiver<Bytes>,
    read: Vec<u8>,
    end: tokio::task::JoinHandle<std::result::Result<(), String>>,
}

impl Engine {
    fn ask(shared: &Arc<Shared>, part: Part, sources: &[&str]) -> Self {
        let (requests, asked) = mpsc::channel(8);
        let (out, answers) = mpsc::channel(4);
        let sources: Vec<_> = sources.iter().map(|source| (*source).to_owned()).collect();
        let shared = shared.clone();
        let end = tokio::task::spawn_blocking(move || shared.answer(part, &sources, asked, &out));
        Self { requests, answers, read: Vec::new(), end }
    }

    async fn packet(&mut self) -> Option<Packet> {
        loop {
            if let Some(head) = self.read.get(1..5) {
                let length = u32::from_be_bytes(head.try_into().unwrap()) as usize + 5;
                if self.read.len() >= length {
                    let rest = self.read.split_off(length);
                    let message = std::mem::replace(&mut self.read, rest);
                    return Some(Packet::decode(&message[5..]).unwrap());
                }
            }
            self.read.extend_from_slice(&self.answers.recv().await?);
        }
    }

    /// All that is told, in its order.
    async fn stats(&mut self) -> Vec<Stat> {
        let mut all = Vec::new();
        while let Some(stat) = self.packet().await.expect("an end").stat {
            all.push(stat);
        }
        all
    }

    async fn file(&mut self, id: u32) -> Vec<u8> {
        self.requests.send(Request::File(id)).await.unwrap();
        let mut content = Vec::new();
        loop {
            let packet = self.packet().await.expect("an end");
            assert_eq!(packet.id, id, "{packet:?}");
            if packet.data.is_empty() {
                return content;
            }
            content.extend(packet.data);
        }
    }

    async fn done(mut self) {
        self.requests.send(Request::Done).await.unwrap();
        assert_eq!(self.packet().await, Some(Packet::fin()));
        assert_eq!(self.packet().await, None);
        self.end.await.unwrap().unwrap();
    }

    /// How it is refused.
    async fn refused(mut self) -> String {
        let mut last = None;
        while let Some(packet) = self.packet().await {
            last = Some(packet);
        }
        let told = self.end.await.unwrap().unwrap_err();
        assert_eq!(last, Some(Packet::error(&told)));
        told
    }
}

fn names(stats: &[Stat]) -> Vec<String> {
    stats.iter().map(|stat| String::from_utf8_lossy(&stat.path).into_owned()).collect()
}

#[tokio::test]
async fn a_tree_is_told_in_its_order_and_files_come_as_they_are_asked_for() {
    let dir =
        tree(&[("ctx/Dockerfile", "FROM a"), ("ctx/b/z", "zz"), ("ctx/b/a", "a"), ("ctx/b.c", "")]);
    let at = |path: &str| dir.path().join("ctx").join(path);
    fs::set_permissions(at("b/z"), fs::Permissions::from_mode(0o4755)).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", at("out")).unwrap();
    fs::hard_link(at("b/a"), at("c")).unwrap();
    fs::write(at("large"), vec![b'x'; 100_000]).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let Sharing { shared, mut warnings, state, .. } = shared(dir.path(), "").await;
    let mut engine = Engine::ask(&shared, Part::Context, &[]);
    let stats = engine.stats().await;
    assert_eq!(names(&stats), ["Dockerfile", "b", "b/a", "b/z", "b.c", "c", "large", "out"]);
    let told = |at: usize| (stats[at].mode, stats[at].size, stats[at].link.as_slice());
    assert_eq!(told(3), (1 << 23 | 0o755, 2, &b""[..]));
    assert_eq!(told(5), (stats[2].mode, 1, &b"b/a"[..]));
    assert_eq!((stats[7].mode, stats[7].size), (1 << 27 | 0o777, 11));
    assert_eq!(stats[7].link, b"/etc/shadow");
    let second = stats[3].mod_time / 1_000_000_000;
    let real = fs::metadata(at("b/z")).unwrap().modified().unwrap();
    assert_eq!(
        second,
        i64::try_from(real.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()).unwrap()
    );
    assert_eq!(engine.file(6).await, vec![b'x'; 100_000]);
    assert_eq!(engine.file(3).await, b"zz");
    assert_eq!(engine.file(4).await, b"");
    engine.done().await;
    assert_eq!(state.sent(), 100_002, "what nobody asked for was not sent");
    assert_eq!(warnings.recv().await.unwrap(), "the socket \"socket\" is left out");
}

#[tokio::test]
async fn what_is_listed_stays_out_also_where_it_is_asked_for() {
    let list = "*\n!b/keep\n!none/x\n!big\n";
    let files = ["b/keep", "b/drop", "c", "none/y", "big/a", "big/b"];
    let mut all = vec![("ctx/.dockerignore".to_owned(), list)];
    all.extend(files.map(|file| (format!("ctx/{file}"), "")));
    all.push(("ctx/Dockerfile".to_owned(), "FROM a"));
    let all: Vec<_> = all.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    let dir = tree(&all);
    let Sharing { shared, state, .. } = shared(dir.path(), "").await;
    for (sources, expected) in [
        (&[][..], &["b", "b/keep", "big", "big/a", "big/b"][..]),
        (&["c", "Dockerfile", ".dockerignore", "b/drop"], &[]),
        (&["b", "big/b"], &["b", "b/keep", "big", "big/b"]),
        (&["../../etc"], &[]),
    ] {
        let mut engine = Engine::ask(&shared, Part::Context, sources);
        assert_eq!(names(&engine.stats().await), expected, "{sources:?}");
        engine.done().await;
    }
    assert!(state.failure().is_none());
}

#[tokio::test]
async fn the_dockerfile_and_its_list_are_told_apart_from_the_context() {
    let dir =
        tree(&[("ctx/a", ""), ("other/My.file", "FROM a"), ("other/My.file.dockerignore", "b")]);
    let sharing = shared(dir.path(), "../other/My.file").await;
    assert_eq!(sharing.dockerfile_name, "My.file");
    let mut engine = Engine::ask(&sharing.shared, Part::Definition, &["My.file"]);
    let before = engine.stats().await;
    assert_eq!(names(&before), ["My.file", "My.file.dockerignore"]);
    assert_eq!((engine.file(1).await, engine.file(0).await), (b"b".to_vec(), b"FROM a".to_vec()));
    engine.done().await;
    let mut engine = Engine::ask(&sharing.shared, Part::Context, &[]);
    assert_eq!(names(&engine.stats().await), ["a"]);
    engine.done().await;

    // The engine compares size and time.
    fs::write(dir.path().join("other/My.file"), "FROM b").unwrap();
    let sharing = shared(dir.path(), "../other/My.file").await;
    let mut engine = Engine::ask(&sharing.shared, Part::Definition, &[]);
    let after = engine.stats().await;
    assert_ne!(before[0].mod_time, after[0].mod_time);
    assert_eq!(before[1], after[1]);
    engine.done().await;
}

#[tokio::test]
async fn what_cannot_be_asked_is_an_error_that_says_so() {
    let dir = tree(&[("ctx/Dockerfile", "FROM a"), ("ctx/d/a", "a")]);
    for (asked, why) in [
        (vec![Request::File(7)], "for file 7"),
        (vec![Request::File(1)], "for file 1"),
        (vec![Request::File(u32::MAX)], "for file"),
        (vec![Request::File(2), Request::File(2)], "for file 2"),
        ((0..50).map(Request::File).collect(), "for file"),
        (vec![Request::Broken("a packet of type 9".to_owned())], "a packet of type 9"),
    ] {
        let Sharing { shared, state, .. } = shared(dir.path(), "").await;
        let mut engine = Engine::ask(&shared, Part::Context, &[]);
        assert_eq!(engine.stats().await.len(), 3);
        let given = format!("{asked:?}");
        for request in asked {
            // It may have been refused by then.
            let _ = engine.requests.send(request).await;
        }
        let told = engine.refused().await;
        assert!(told.contains(why), "{given}: {told}");
        assert_eq!(state.failure().unwrap().reason(), "ENGINE_GARBLED");
    }
}

#[tokio::test]
async fn a_conversation_that_the_engine_leaves_ends_and_is_no_failure_of_the_context() {
    let dir = tree(&[("ctx/Dockerfile", "FROM a")]);
    let Sharing { shared, state, .. } = shared(dir.path(), "").await;
    let mut engine = Engine::ask(&shared, Part::Context, &[]);
    engine.stats().await;
    let cancelled = "rpc error: code = Canceled desc = context canceled".to_owned();
    engine.requests.send(Request::GaveUp(cancelled)).await.unwrap();
    assert!(engine.end.await.unwrap().is_err());
    let Engine { requests, end, .. } = Engine::ask(&shared, Part::Definition, &[]);
    drop(requests);
    assert!(end.await.unwrap().is_err());
    assert!(state.failure().is_none());

    let mut engine = Engine::ask(&shared, Part::Context, &[]);
    engine.stats().await;
    let full = "write /x: no space left on device".to_owned();
    engine.requests.send(Request::GaveUp(full)).await.unwrap();
    assert!(engine.refused().await.contains("no space left"));
    assert_eq!(state.failure().unwrap().reason(), "NO_SPACE");
}

#[tokio::test]
async fn a_file_that_went_shrank_or_became_a_link_is_an_error_and_nothing_else_is_read() {
    let outside = tree(&[("secret", "a secret")]);
    type Change = fn(&Path, &Path);
    let changes: [(&str, Change); 5] = [
        ("went away", |at, _| fs::remove_file(at.join("d/e/file")).unwrap()),
        ("became shorter", |at, _| fs::write(at.join("d/e/file"), "s").unwrap()),
        ("went away", |at, outside| {
            fs::remove_file(at.join("d/e/file")).unwrap();
            std::os::unix::fs::symlink(outside.join("secret"), at.join("d/e/file")).unwrap();
        }),
        ("went away", |at, outside| {
            fs::rename(at.join("d"), at.join("gone")).unwrap();
            std::os::unix::fs::symlink(outside, at.join("d")).unwrap();
        }),
        ("went away", |at, _| {
            fs::remove_file(at.join("d/e/file")).unwrap();
            fs::create_dir(at.join("d/e/file")).unwrap();
        }),
    ];
    for (at, (why, change)) in changes.into_iter().enumerate() {
        let dir = tree(&[("ctx/Dockerfile", "FROM a"), ("ctx/d/e/file", "content")]);
        let Sharing { shared, state, .. } = shared(dir.path(), "").await;
        let mut engine = Engine::ask(&shared, Part::Context, &[]);
        assert_eq!(engine.stats().await.len(), 4);
        change(&dir.path().join("ctx"), outside.path());
        engine.requests.send(Request::File(3)).await.unwrap();
        let told = engine.refused().await;
        assert!(told.contains(why) && told.contains("d/e/file"), "{at}: {told}");
        assert_eq!(state.failure().unwrap().reason(), "CONTEXT_UNUSABLE");
        assert_eq!(state.sent(), 0, "{at}");
    }
}

#[tokio::test]
async fn a_content_of_the_same_size_and_time_is_told_as_another_one() {
    let dir = tree(&[("ctx/Dockerfile", "FROM a"), ("ctx/a", "one"), ("ctx/b", "b")]);
    let path = dir.path().join("ctx/a");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    let mut seen = Vec::new();
    for content in ["one", "two", "two"] {
        if content != fs::read_to_string(&path).unwrap() {
            fs::write(&path, content).unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
        let Sharing { shared, .. } = shared(dir.path(), "").await;
        let mut engine = Engine::ask(&shared, Part::Context, &[]);
        seen.push((shared.key.clone(), engine.stats().await));
        engine.done().await;
    }
    let [(before, one), (_, two), (after, again)] = &seen[..] else { panic!() };
    assert_eq!(before, after);
    assert_eq!(two, again, "nothing changed");
    assert_eq!((&one[0], &one[2]), (&two[0], &two[2]));
    assert_ne!(one[1].mod_time, two[1].mod_time);
    let millisecond = |stat: &Stat| stat.mod_time / 1_000_000;
    assert_eq!(millisecond(&one[1]), millisecond(&two[1]));
}

#[tokio::test]
async fn a_large_file_waits_for_its_reader_in_a_few_pieces() {
    const SIZE: u64 = 200 << 20;
    let dir = tree(&[("ctx/Dockerfile", "FROM a")]);
    fs::File::create(dir.path().join("ctx/sparse")).unwrap().set_len(SIZE).unwrap();
    let Sharing { shared, state, .. } = shared(dir.path(), "").await;
    let mut engine = Engine::ask(&shared, Part::Context, &[]);
    engine.stats().await;
    engine.requests.send(Request::File(1)).await.unwrap();
    let mut taken = 0;
    loop {
        let packet = engine.packet().await.unwrap();
        if packet.data.is_empty() {
            break;
        }
        taken += packet.data.len() as u64;
        assert!(state.sent() - taken <= 8 * (PIECE as u64 + CHUNK), "{taken}");
    }
    assert_eq!(taken, SIZE);
    engine.done().await;
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Whatever an engine asks and in whatever order, it gets files of the context or an
    /// error.
    #[test]
    fn fuzz_any_requests_get_the_files_or_an_error(
        asked in prop::collection::vec(0..9_u32, 0..9),
        end in prop_oneof![
            Just(Request::Done),
            Just(Request::GaveUp(String::new())),
            Just(Request::Broken(String::new())),
        ],
    ) {
        let dir = tree(&[("ctx/Dockerfile", "FROM a"), ("ctx/a", "a"), ("ctx/b/c", "b"), ("ctx/d", "d")]);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let Sharing { shared, .. } = shared(dir.path(), "").await;
            let mut engine = Engine::ask(&shared, Part::Context, &[]);
            let stats = engine.stats().await;
            assert_eq!(names(&stats), ["Dockerfile", "a", "b", "b/c", "d"]);
            let sound = asked.iter().enumerate().all(|(at, id)| {
                [0, 1, 3, 4].contains(id) && !asked[..at].contains(id)
            });
            for id in &asked {
                let _ = engine.requests.send(Request::File(*id)).await;
            }
            let mut got = Vec::new();
            while sound && got.len() < asked.len() {
                let packet = engine.packet().await.unwrap();
                if packet.data.is_empty() {
                    got.push(packet.id);
                }
            }
            let _ = engine.requests.send(end.clone()).await;
            let mut last = None;
            while let Some(packet) = engine.packet().await {
                last = Some(packet);
            }
            let done = engine.end.await.unwrap();
            assert_eq!(done.is_ok(), sound && end == Request::Done, "{done:?}");
            assert_eq!(last == Some(Packet::fin()), done.is_ok());
            got.sort_unstable();
            let mut asked = asked.clone();
            asked.sort_unstable();
            assert!(!sound || got == asked, "{got:?}");
        });
    }
}
