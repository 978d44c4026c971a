//! `FileSync.DiffCopy`: the engine takes files of the context, on one stream each way.

use std::{collections::VecDeque, future::pending, sync::Arc};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{Answered, LONGEST, NOT_FOUND, UNKNOWN, refused, respond};
use crate::engine::context::{Part, Request, Shared};

/// Pieces that wait for the engine.
const AHEAD: usize = 4;
/// Requests that wait for an answer, beside those that one frame holds.
const WAITING: usize = 1024;

/// One conversation.
struct Copy {
    shared: Arc<Shared>,
    part: Part,
    sources: Vec<String>,
    /// What the engine sends; `None` at its end.
    body: Option<Incoming>,
    messages: Messages,
    read: VecDeque<Request>,
    going: Option<Going>,
}

/// The thread that answers.
struct Going {
    requests: Option<mpsc::Sender<Request>>,
    pieces: mpsc::Receiver<Bytes>,
    end: JoinHandle<Result<(), String>>,
}

/// Messages of gRPC, put together from frames.
#[derive(Default)]
struct Messages(BytesMut);

/// Answers one call; what it answers with is made while it is read.
pub(super) fn diff_copy(shared: Arc<Shared>, question: http::Request<Incoming>) -> Answered {
    let (head, body) = question.into_parts();
    let part = match values(&head.headers, "dir-name").first().map(String::as_str) {
        Some("context") => Part::Context,
        Some("dockerfile") => Part::Definition,
        _ => return refused(NOT_FOUND),
    };
    // Patterns of what shall stay out are those of the list, by which the walk goes.
    let copy = Copy {
        shared,
        part,
        sources: values(&head.headers, "followpaths"),
        body: Some(body),
        messages: Messages::default(),
        read: VecDeque::new(),
        going: None,
    };
    let frames = stream::unfold(Some(copy), |copy| async move {
        let mut copy = copy?;
        match copy.next().await {
            Ok(piece) => Some((Ok(Frame::data(piece)), Some(copy))),
            Err(end) => Some((Ok(Frame::trailers(trailers(end))), None)),
        }
    });
    respond(StreamBody::new(frames).boxed_unsync(), None)
}

impl Copy {
    /// The next that is sent, or how it ended.
    async fn next(&mut self) -> Result<Bytes, Result<(), String>> {
        let going = match &mut self.going {
            Some(going) => going,
            None => {
                let going = begin(&self.shared, self.part, &self.sources).await.map_err(Err)?;
                self.going.insert(going)
            }
        };
        loop {
            // The engine is read on only when it is known what it said before.
            let reads = self.read.is_empty();
            let frame = async {
                match &mut self.body {
                    Some(body) if reads => body.frame().await,
                    _ => pending().await,
                }
            };
            let room = async {
                match &going.requests {
                    Some(requests) if !reads => requests.reserve().await.ok(),
                    _ => pending().await,
                }
            };
            let goes_on = tokio::select! {
                piece = going.pieces.recv() => match piece {
                    Some(piece) => return Ok(piece),
                    None => {
                        let end = (&mut going.end).await;
                        return Err(end.unwrap_or_else(|_| Err("it was not answered".to_owned())));
                    }
                },
                // Without room, nobody answers any more.
                room = room => room.zip(self.read.pop_front()).map(|(room, next)| room.send(next)),
                frame = frame => frame.and_then(Result::ok).map(|frame| {
                    if let Ok(data) = frame.into_data() {
                        self.messages.0.extend_from_slice(&data);
                    }
                    self.read.extend(std::iter::from_fn(|| self.messages.next()));
                }),
            };
            if goes_on.is_none() {
                (self.body, going.requests) = (None, None);
            }
        }
    }
}

/// Begins to answer, when it is its turn.
async fn begin(shared: &Arc<Shared>, part: Part, sources: &[String]) -> Result<Going, String> {
    let place = shared.places.clone().acquire_owned().await;
    let place = place.map_err(|_| "nobody answers".to_owned())?;
    let (requests, asked) = mpsc::channel(WAITING);
    let (answers, pieces) = mpsc::channel(AHEAD);
    let (shared, sources) = (shared.clone(), sources.to_vec());
    let end = tokio::task::spawn_blocking(move || {
        let _place = place;
        shared.answer(part, &sources, asked, &answers)
    });
    Ok(Going { requests: Some(requests), pieces, end })
}

impl Messages {
    /// The next whole one.
    fn next(&mut self) -> Option<Request> {
        let head = self.0.get(..5)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let length = usize::try_from(length).ok().filter(|length| *length <= LONGEST);
        let (0, Some(length)) = (head[0], length) else {
            self.0.clear();
            return Some(Request::Broken("a message that is packed or too long".to_owned()));
        };
        if self.0.len() < length + 5 {
            return None;
        }
        self.0.advance(5);
        Some(Request::read(&self.0.split_to(length)))
    }
}

/// The values of a key, which newer engines escape where they are no ASCII.
fn values(headers: &HeaderMap, key: &str) -> Vec<String> {
    let escaped = headers.get(format!("{key}-encoded")).is_some_and(|value| value == "1");
    let text = |value: &HeaderValue| {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        match escaped {
            true => percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned(),
            false => text,
        }
    };
    headers.get_all(key).iter().map(text).collect()
}

fn trailers(end: Result<(), String>) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let status = if end.is_ok() { "0" } else { UNKNOWN };
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    if let Err(why) = end {
        let why = percent_encoding::utf8_percent_encode(&why, percent_encoding::NON_ALPHANUMERIC);
        if let Ok(why) = HeaderValue::try_from(why.to_string()) {
            trailers.insert("grpc-message", why);
        }
    }
    trailers
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_read_as_older_and_newer_engines_write_them() {
        let mut headers = HeaderMap::new();
        headers.append("followpaths", HeaderValue::from_bytes("ä+%20".as_bytes()).unwrap());
        headers.append("followpaths", HeaderValue::from_static("b"));
        assert_eq!(values(&headers, "followpaths"), ["ä+%20", "b"]);
        headers.insert("followpaths", HeaderValue::from_static("%C3%A4+b%2B"));
        headers.insert("followpaths-encoded", HeaderValue::from_static("1"));
        assert_eq!(values(&headers, "followpaths"), ["ä b+"]);
        assert!(values(&headers, "dir-name").is_empty());
    }

    proptest! {
        #[test]
        fn fuzz_messages_are_the_same_however_they_are_cut(
            bytes in prop::collection::vec(prop_oneof![Just(0_u8), 0..16_u8, any::<u8>()], 0..200),
            cut in 0..200_usize,
        ) {
            let read = |parts: &[&[u8]]| {
                let (mut messages, mut all) = (Messages::default(), Vec::new());
                for part in parts {
                    messages.0.extend_from_slice(part);
                    while let Some(request) = messages.next() {
                        let broken = matches!(request, Request::Broken(_));
                        all.push(request);
                        // Nothing after that counts.
                        if broken {
                            return all;
                        }
                    }
                }
                all
            };
            let (first, rest) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(read(&[&bytes]), read(&[first, rest]));
        }
    }
}
