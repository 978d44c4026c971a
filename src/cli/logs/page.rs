//! Lines up to a time, which only ListLogs knows: page by page.

use crate::rpc::pb;

use super::{
    Args, Event, Failure, Sender, Session, Tail,
    select::{By, Source, first_found},
};

/// Most bytes of last lines, which are told newest first and have to be turned.
const TURNED: usize = 64 << 20;
/// Lines of a page where few are asked for.
const PAGE: i32 = 1_000;

/// Sends the lines of all pages on, the oldest first.
pub(super) async fn read(
    args: &Args,
    source: &Source,
    session: &Session,
    number: usize,
    send: &Sender,
) -> Result<(), Failure> {
    let ask = async |by: By| {
        let request = by.list(args.list_request());
        let page = session.logs().list_logs(request.clone()).await?.into_inner();
        Ok((request, page))
    };
    let (mut request, mut page) = first_found(source.meanings(), ask).await?;
    let mut last = Vec::new();
    let (wanted, mut bytes) = (args.tail.lines(), 0);
    loop {
        if let Some(wanted) = wanted {
            bytes += page.logs.iter().map(|log| log.content.len()).sum::<usize>();
            last.extend(page.logs);
            last.truncate(wanted);
            if bytes > TURNED {
                return Err(Failure::Usage(format!(
                    "the last {wanted} lines have more than {} MiB; ask for fewer",
                    TURNED >> 20
                )));
            }
        } else if send.send((number, Event::Lines(page.logs))).await.is_err() {
            return Ok(());
        }
        if page.next_page_token.is_empty() || wanted.is_some_and(|wanted| last.len() >= wanted) {
            break;
        }
        request.page_token = page.next_page_token;
        page = session.logs().list_logs(request.clone()).await?.into_inner();
    }
    last.reverse();
    // When nobody listens any more, nothing is lost.
    let _ = send.send((number, Event::Lines(last))).await;
    Ok(())
}

impl Args {
    /// The request without the containers.
    pub(super) fn list_request(&self) -> pb::ListLogsRequest {
        let (order, page_size) = match self.tail {
            Tail::All => (pb::LogOrder::OldestFirst, PAGE),
            Tail::Last(lines) => (pb::LogOrder::NewestFirst, lines.clamp(1, PAGE)),
        };
        pb::ListLogsRequest {
            label: self.label.clone(),
            since: self.since,
            until: self.until,
            streams: self.streams(),
            contains: self.grep.clone(),
            contains_ignore_case: self.grep_i.clone(),
            regex: self.regex.clone(),
            order: order.into(),
            page_size,
            view: pb::LogView::Full.into(),
            ..Default::default()
        }
    }
}
