//! A log database that is damaged, read-only or too new (F11).

use std::{
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::Path,
    process::Command,
};

use rusqlite::Connection;

use super::{
    foreign::{Foreign, told},
    *,
};

/// Stops it, and waits until it has let go of its log database.
async fn close(service: &mut Service) -> std::path::PathBuf {
    service.stop().await;
    let database = service.log_database();
    let wal = database.with_extension("db-wal");
    eventually("the database is closed", || std::future::ready(!wal.exists())).await;
    database
}

fn open(database: &Path) -> Connection {
    Connection::open(database).expect("a database")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_torn_write_ahead_log_lost_is_collected_again() {
    let mut service = Service::program(|_| {}).await.synced().await;
    let container = Foreign::run(
        &[],
        "seq 20000; while [ ! -e /tmp/go ]; do sleep 0.05; done; seq 20001 20100",
    );
    reaches(&service, &container.name, 20_000).await;
    service.kill();
    let wal = service.log_database().with_extension("db-wal");
    let length = fs::metadata(&wal).expect("a write-ahead log").len();
    let file = File::options().write(true).open(&wal).expect("opened");
    file.set_len(length / 2 + 100).expect("cut");
    service.resume().await;
    container.exec("touch /tmp/go");
    let lines = reaches(&service, &container.name, 20_100).await;
    assert_eq!(told(&lines, 20_100), (20_100, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_is_refused_in_words() {
    let mut service = Service::start().await;
    let database = close(&mut service).await;
    let before = fs::read(&database).expect("a file");
    let mount = |args: &[&str]| {
        let status = Command::new("mount").args(args).arg(&database).status();
        assert!(status.expect("mount").success(), "root may mount");
    };
    mount(&["--bind", &database.display().to_string()]);
    mount(&["-o", "remount,bind,ro"]);
    let refusal = service.refusal().await;
    let unmounted = Command::new("umount").arg(&database).status().expect("umount");
    assert!(unmounted.success());
    let said = refusal.to_string();
    assert!(said.contains("logs.db") && said.contains("ead-only"), "{said}");
    assert!(fs::read(&database).expect("a file") == before, "left alone");
    service.resume().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_a_newer_version_is_refused_and_left_alone() {
    let mut service = Service::start().await;
    let database = close(&mut service).await;
    open(&database).pragma_update(None, "user_version", 99).expect("set");
    let refusal = service.refusal().await;
    assert_eq!(refusal.reason(), "STORE_TOO_NEW");
    assert!(refusal.message().contains("use a newer container-svc"), "{refusal:?}");
    let version: i64 = open(&database)
        .query_row("SELECT user_version FROM pragma_user_version", [], |row| row.get(0))
        .expect("a version");
    assert_eq!(version, 99, "left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let mut service = Service::start().await;
    let database = close(&mut service).await;
    let mut bytes = fs::read(&database).expect("a file");
    bytes[..4096].fill(0x55);
    fs::write(&database, &bytes).expect("written");
    let refusal = service.refusal().await;
    assert_eq!(refusal.reason(), "STORE_UNUSABLE");
    assert!(refusal.message().contains("logs.db"), "{refusal:?}");
    assert!(fs::read(&database).expect("a file") == bytes, "left alone");
}

/// Overwrites these bytes of each page in which a container's largest segment lies.
fn damage(database: &Path, container: &str, bytes: Range<u64>) {
    let text: Vec<u8> = open(database)
        .query_row(
            "SELECT text FROM log_segments JOIN log_sources ON log_sources.id = source
             WHERE container_id = ?1 ORDER BY length(text) DESC LIMIT 1",
            [container],
            |row| row.get(0),
        )
        .expect("a segment");
    let writer = File::options().read(true).write(true).open(database).expect("opened");
    let file = fs::read(database).expect("a file");
    // A long text goes on over pages that begin with the number of the next one.
    let page = |page: &&[u8]| memchr::memmem::find(&text, &page[4..]).is_some();
    let pages = file.chunks_exact(4096).enumerate().filter(|(_, bytes)| page(bytes));
    let pages: Vec<_> = pages.map(|(at, _)| at as u64).collect();
    assert!(!pages.is_empty(), "on several pages: {}", text.len());
    for at in pages {
        writer
            .write_all_at(&vec![0xa5; (bytes.end - bytes.start) as usize], at * 4096 + bytes.start)
            .expect("written");
    }
}

/// So much text that a segment of it is not small; random, so that no page of one
/// container's log is like one of another's. Each line has 57 bytes of it.
const MUCH: &str = "head -c 2442906 /dev/urandom | busybox base64; exec sleep 1000";

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_is_told_and_harms_no_other_container() {
    let mut service = Service::start().await.synced().await;
    let (hurt, well) = (Foreign::run(&[], MUCH), Foreign::run(&[], MUCH));
    let before = 3 * 14286;
    for container in [&hurt, &well] {
        reaches(&service, &container.name, before).await;
    }
    let database = close(&mut service).await;
    damage(&database, &hurt.id, 2000..2100);
    service.resume().await;
    let service = service.synced().await;

    let body = format!(
        r#"{{"name":"{}","order":"LOG_ORDER_OLDEST_FIRST","pageSize":10000,"contains":"no such text"}}"#,
        hurt.name
    );
    let (status, answer) = service.rest("POST", "/container-svc/logs", &body).await;
    let message = answer["message"].as_str().unwrap_or_default();
    assert_eq!((status, answer["code"].as_i64()), (500, Some(13)), "{answer}");
    assert!(message.contains("damaged") && message.contains("logs.db"), "{message}");
    assert_eq!(answer["details"][0]["reason"], "LOG_STORE_DAMAGED", "{answer}");

    assert_eq!(all(&service, &well.name).await.len(), before);
    for container in [&hurt, &well] {
        container.exec("seq 1000 > /proc/1/fd/1");
        eventually("new lines are collected", || async {
            let body = format!(r#"{{"name":"{}","limit":1}}"#, container.name);
            let (_, answer) = service.rest("POST", "/container-svc/logs", &body).await;
            answer["logs"][0]["content"] == "1000"
        })
        .await;
    }
    assert_eq!(all(&service, &well.name).await.len(), before + 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_does_not_keep_other_logs_from_being_retired() {
    let mut service =
        Service::with(|config| config.logs_max_bytes_each = 1 << 20).await.synced().await;
    let (hurt, well) = (Foreign::run(&[], MUCH), Foreign::run(&[], MUCH));
    for container in [&hurt, &well] {
        reaches(&service, &container.name, 3 * 14286).await;
    }
    let database = close(&mut service).await;
    // Also the number of the next page, so that the text cannot even be deleted.
    damage(&database, &hurt.id, 0..4096);
    service.resume().await;
    let service = service.synced().await;
    for container in [&hurt, &well] {
        container.exec("head -c 6000000 /dev/urandom | busybox base64 > /proc/1/fd/1");
    }
    eventually("old lines are retired", || async {
        let mut client = client(&service).await;
        let request = pb::ListLogsRequest {
            name: well.name.clone(),
            order: pb::LogOrder::OldestFirst.into(),
            view: pb::LogView::Full.into(),
            limit: 1,
            ..Default::default()
        };
        let page = client.list_logs(request).await.expect("a page").into_inner();
        page.logs[0].position > Some(0)
    })
    .await;
}
