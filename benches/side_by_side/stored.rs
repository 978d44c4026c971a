//! How logs lie in the store and are found there.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use container_svc::{
    domain::logs::{Batch, Filter, Matcher, Stream},
    rpc::pb,
    store::logs::{About, Ask, LogStore},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tempfile::TempDir;

use crate::{
    Failure, Plan,
    child::Child,
    report::{Bar, Row, Unit},
    texts::{Kind, Texts},
};

/// Bytes of text that are given to the store at once: as many as a busy container
/// writes in a few milliseconds, and as many as a backlog is read in.
const LIVE: usize = 32 << 10;
pub(crate) const BACKLOG: usize = 1 << 20;
/// Containers of the large store, and how many are filled at once.
const CONTAINERS: usize = 10;
const AT_ONCE: usize = 2;
/// First pages that are asked for.
const PAGES: u32 = 30;

/// Stored bytes beside the bytes of the texts with their newlines.
pub(crate) async fn sizes(plan: Plan) -> Result<Vec<Row>, Failure> {
    let kinds = [
        ("Logs: stored size, JSON lines of a service", Kind::Json),
        ("the same, access log of a web server", Kind::Access),
        ("the same, errors with stack traces", Kind::Traces),
    ];
    let mut rows = Vec::new();
    for (what, kind) in kinds {
        let data = TempDir::new()?;
        let store = LogStore::open(&data.path().join("logs.db"))?;
        let mut texts = Texts::new(kind);
        let id = store.know(about(0)).await?.id;
        let mut raw = 0;
        while raw < plan.sized {
            let batch = batch(&mut texts, LIVE, usize::MAX);
            raw += batch.text().len();
            store.append(id, batch, None).await?;
        }
        store.settle(id, true, false).await?;
        let source = store.source(id).ok_or("the container is not known")?;
        let megabytes = |bytes: u64| u32::try_from(bytes).map(|bytes| f64::from(bytes) / 1e6);
        rows.push(Row {
            what,
            against: "raw",
            ours: megabytes(source.stored_bytes)?,
            beside: megabytes(source.raw_bytes)?,
            unit: Unit::Megabytes,
            bar: Bar::AtMost(1.0 / 12.0),
        });
    }
    Ok(rows)
}

/// A search through all lines for a text that none has, by one thread.
pub(crate) async fn search(store: &LogStore) -> Result<Row, Failure> {
    let sources = store.sources();
    let bytes: u64 = sources.iter().map(|source| source.raw_bytes).sum();
    let ask = Ask {
        sources: sources.iter().map(|source| source.id).collect(),
        filter: Filter { matcher: Matcher::new("is not there", "", "")?, ..Filter::default() },
        after: 0,
        before: u64::MAX,
        newest_first: true,
        limit: 1000,
        bytes: BACKLOG,
        patience: Duration::from_secs(600),
    };
    let begin = Instant::now();
    let found = store.ask(ask).await?;
    let took = begin.elapsed().as_secs_f64();
    if !found.lines.is_empty() || found.stopped_at.is_some() {
        return Err("the search did not look at all lines".into());
    }
    Ok(Row {
        what: "Logs: search for a text, raw bytes by one core",
        against: "",
        ours: f64::from(u32::try_from(bytes / 1000)?) / 1e6 / took,
        beside: f64::NAN,
        unit: Unit::GigabytesPerSecond,
        bar: Bar::FigureAtLeast(1.0),
    })
}

/// The slowest of some first pages: a container, a tenth of its time, and a text
/// that one line in some thousands has.
pub(crate) async fn first_page(child: &Child) -> Result<Row, Failure> {
    let (mut slowest, mut lines) = (0.0_f64, 0);
    for at in 0..PAGES {
        let container = at as usize % CONTAINERS;
        let (first, last) = ends(child, container).await?;
        let tenth = (last - first) / 10;
        let since = first + tenth * i64::from(at % 9);
        let stamp = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let request = pb::ListLogsRequest {
            container_id: about(container).container_id,
            since: stamp(since),
            until: stamp(since + tenth),
            contains: "4321".to_owned(),
            ..Default::default()
        };
        let mut logs = child.logs.clone();
        let begin = Instant::now();
        let page = logs.list_logs(request).await?.into_inner();
        slowest = slowest.max(begin.elapsed().as_secs_f64() * 1e3);
        lines += page.logs.len();
    }
    if lines == 0 {
        return Err("all pages are empty".into());
    }
    Ok(Row {
        what: "Logs: first filtered page over 10,000,000 lines, by gRPC",
        against: "",
        ours: slowest,
        beside: f64::NAN,
        unit: Unit::Milliseconds,
        bar: Bar::FigureAtMost(50.0),
    })
}

/// Times of a container's first and last line, in seconds since 1970.
async fn ends(child: &Child, container: usize) -> Result<(i64, i64), Failure> {
    let mut times = Vec::new();
    for order in [pb::LogOrder::OldestFirst, pb::LogOrder::NewestFirst] {
        let request = pb::ListLogsRequest {
            container_id: about(container).container_id,
            order: order.into(),
            limit: 1,
            ..Default::default()
        };
        let line = child.logs.clone().list_logs(request).await?.into_inner().logs.pop();
        times.push(line.and_then(|line| line.created_at).ok_or("there is no line")?.seconds);
    }
    Ok((times[0], times[1]))
}

/// Fills a store with this many lines of ten containers.
pub(crate) async fn fill(store: &LogStore, lines: usize) -> Result<(), Failure> {
    stream::iter(0..CONTAINERS)
        .map(|at| async move {
            let mut texts = Texts::new([Kind::Json, Kind::Access, Kind::Traces][at % 3]);
            let source = store.know(about(at)).await?.id;
            let mut left = lines / CONTAINERS;
            while left > 0 {
                let batch = batch(&mut texts, BACKLOG, left);
                left -= batch.len();
                store.append(source, batch, None).await?;
            }
            Ok::<(), Failure>(store.settle(source, true, true).await?)
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// Fills a store with the same lines over and over, until it has so many bytes.
pub(crate) async fn stuff(store: &LogStore, bytes: u64) -> Result<(), Failure> {
    let same = batch(&mut Texts::new(Kind::Json), BACKLOG, usize::MAX);
    let source = store.know(about(CONTAINERS)).await?.id;
    while store.source(source).is_some_and(|source| source.stored_bytes < bytes) {
        let appends = (0..AT_ONCE * 4).map(|_| store.append(source, same.clone(), None));
        stream::iter(appends).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    }
    Ok(())
}

/// Makes containers known, each with a few lines.
pub(crate) async fn know(store: &LogStore, count: usize) -> Result<(), Failure> {
    let mut texts = Texts::new(Kind::Json);
    for at in 0..count {
        let source = store.know(about(at)).await?.id;
        store.append(source, batch(&mut texts, LIVE, usize::MAX), None).await?;
    }
    Ok(())
}

/// Opens the store in a data directory.
pub(crate) fn open(data: &Path) -> Result<LogStore, Failure> {
    Ok(LogStore::open(&data.join("logs.db"))?)
}

/// Lines until they have so many bytes, or so many.
pub(crate) fn batch(texts: &mut Texts, bytes: usize, most: usize) -> Batch {
    let mut batch = Batch::default();
    while batch.text().len() < bytes && batch.len() < most {
        let (time, line) = texts.line();
        batch.push(Stream::Stdout, time, false, line.as_bytes());
    }
    batch
}

fn about(number: usize) -> About {
    About {
        container_id: format!("{number:064x}"),
        names: vec![format!("bench-{number}")],
        ..About::default()
    }
}
