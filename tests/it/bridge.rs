//! The JSON bridge answers as grpc-gateway does: codes, streams, fields, input.

use std::{io::Write as _, sync::LazyLock};

use axum::{Router, body::Body};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use bytes::{BufMut as _, Bytes, BytesMut};
use container_svc::gateway::Gateway;
use futures_util::StreamExt as _;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use percent_encoding::NON_ALPHANUMERIC;
use prost_reflect::{DescriptorPool, DynamicMessage};

mod real;

/// HTTP status of each gRPC code from 1 on, as grpc-gateway maps them.
const STATUSES: [u16; 16] =
    [499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401];
const LIMIT: usize = 10_000;

fn pool() -> DescriptorPool {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        let root = env!("CARGO_MANIFEST_DIR");
        let mut compiler =
            protox::Compiler::new([format!("{root}/tests/it/bridge"), format!("{root}/proto")])
                .expect("the folders");
        compiler
            .include_imports(true)
            .open_files([
                "golden.proto",
                "google/rpc/status.proto",
                "google/rpc/error_details.proto",
            ])
            .expect("compiles");
        let descriptors = compiler.encode_file_descriptor_set();
        DescriptorPool::decode(descriptors.as_slice()).expect("descriptors")
    });
    POOL.clone()
}

/// A gRPC service by hand: echoes, or fails as it is asked to.
async fn golden(request: Request<Body>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let input = request.into_body().collect().await.expect("a body").to_bytes();
    if input.len() < 5 {
        // A caller that failed to write its message hangs up.
        return Response::new(Body::empty());
    }
    let input = input.slice(5..);
    let asked = |name: &str| {
        let descriptor = pool().get_message_by_name(name).expect("it");
        DynamicMessage::decode(descriptor, input.clone()).expect("a message")
    };
    let (mut frames, mut end) = (Vec::new(), HeaderMap::new());
    end.insert("grpc-status", 0.into());
    match path.rsplit('/').next() {
        Some("Echo") => frames.push(input.clone()),
        Some("Repeat") => frames.extend([input.clone(), input.clone()]),
        Some("Raw") => {
            let data =
                asked("golden.v1.RawRequest").get_field_by_name("data").expect("it").into_owned();
            frames.push(data.as_bytes().expect("bytes").clone());
        }
        _ => {
            let asked = asked("golden.v1.FailRequest");
            let field = |name| asked.get_field_by_name(name).expect("a field").into_owned();
            let number = |name| field(name).as_i32().unwrap_or(0);
            for item in 1..=number("items") {
                frames.push(Bytes::from(vec![8, u8::try_from(item).expect("few")]));
            }
            let message = field("message");
            let message = message.as_str().filter(|text| !text.is_empty()).unwrap_or("why ä");
            let message = percent_encoding::utf8_percent_encode(message, NON_ALPHANUMERIC);
            end.insert("grpc-status", number("code").into());
            end.insert("grpc-message", message.to_string().parse().expect("ascii"));
            let status = field("status");
            let status = status.as_bytes().expect("bytes");
            if !status.is_empty() {
                let status = STANDARD_NO_PAD.encode(status);
                end.insert("grpc-status-details-bin", status.parse().expect("ascii"));
            }
        }
    }
    let mut response = Response::builder().header("content-type", "application/grpc");
    if frames.is_empty() {
        // Nothing before the end: it stands in the headers.
        response.headers_mut().expect("headers").extend(end);
        return response.body(Body::empty()).expect("a response");
    }
    let frames = frames.into_iter().map(|message| {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).expect("small"));
        frame.extend_from_slice(&message);
        Frame::data(frame.freeze())
    });
    let frames: Vec<_> =
        frames.chain([Frame::trailers(end)]).map(Ok::<_, std::io::Error>).collect();
    let body = Body::new(StreamBody::new(futures_util::stream::iter(frames).boxed()));
    response.body(body).expect("a response")
}

async fn ask(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> (u16, String, String) {
    let gateway = Gateway::new(&pool(), Router::new().fallback(golden), LIMIT, None);
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = gateway.handle(request.body(Body::from(body)).expect("a request")).await;
    let kind = answer.headers()["content-type"].to_str().expect("ascii").to_owned();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    (status, kind, String::from_utf8(body.to_vec()).expect("UTF-8"))
}

async fn echo(body: &str) -> (u16, String) {
    let (status, kind, answer) = ask("POST", "/golden/echo", &[], body.into()).await;
    assert_eq!(kind, "application/json");
    (status, answer)
}

#[tokio::test]
async fn every_code_has_its_status_and_its_body() {
    for (code, expected) in (1..).zip(STATUSES) {
        let (status, kind, body) = ask("GET", &format!("/golden/fail/{code}"), &[], vec![]).await;
        assert_eq!((status, kind.as_str()), (expected, "application/json"), "code {code}");
        let golden = format!(r#"{{"error":"why ä","code":{code},"message":"why ä","details":[]}}"#);
        assert_eq!(body, golden);
    }
}

#[tokio::test]
async fn a_stream_is_a_line_or_an_event_a_message_with_the_error_last() {
    let (status, kind, body) = ask("GET", "/golden/stream?items=2", &[], vec![]).await;
    assert_eq!((status, kind.as_str()), (200, "application/json"));
    assert_eq!(body, "{\"result\":{\"number\":1}}\n{\"result\":{\"number\":2}}\n");

    let (status, _, body) = ask("GET", "/golden/stream?items=1&code=8", &[], vec![]).await;
    assert_eq!(status, 200, "the error comes late");
    assert_eq!(
        body,
        "{\"result\":{\"number\":1}}\n{\"error\":{\"code\":8,\"message\":\"why ä\",\"details\":[]}}\n"
    );

    let (status, _, body) = ask("GET", "/golden/stream?code=5", &[], vec![]).await;
    assert_eq!(status, 404, "the error comes early");
    assert_eq!(body, r#"{"error":"why ä","code":5,"message":"why ä","details":[]}"#);

    let accept = [("accept", "text/event-stream")];
    let (_, kind, body) = ask("GET", "/golden/stream?items=1&code=8", &accept, vec![]).await;
    assert_eq!(kind, "text/event-stream");
    assert_eq!(
        body,
        "data: {\"result\":{\"number\":1}}\n\nevent: error\ndata: {\"error\":{\"code\":8,\"message\":\"why ä\",\"details\":[]}}\n\n"
    );
}

#[tokio::test]
async fn input_is_read_leniently_and_refused_clearly() {
    let (status, _) = echo(r#"{"unknown":{"deep":[1]},"memory_mb":3,"large":5}"#).await;
    assert_eq!(status, 200, "unknown fields are discarded, proto names are read");
    for (body, named) in [
        (r#"{"small":"x"}"#, "small"),
        (r#"{"item":{"number":true}}"#, "item.number"),
        (r#"{"numbers":[1,"x"]}"#, "numbers[1]"),
        (r#"{"small":2147483648}"#, "small"),
        (r#"{"at":"yesterday"}"#, "at"),
        ("[]", ""),
        ("{", ""),
        ("{} x", ""),
        ("nonsense", ""),
    ] {
        let (status, answer) = echo(body).await;
        assert_eq!(status, 400, "{body}: {answer}");
        assert!(answer.contains(&format!("\"message\":\"{named}")), "{body}: {answer}");
    }
    let deep = format!("{{\"unknown\":{}{}}}", "[".repeat(4000), "]".repeat(4000));
    assert_eq!(echo(&deep).await.0, 200, "what is discarded is not descended into");
    let (status, _, answer) =
        ask("POST", "/golden/echo", &[], vec![b'{', b'"', 0xff, b'"', b'}']).await;
    assert_eq!(status, 400, "{answer}");
    let (status, _, answer) = ask("GET", "/golden/stream?items=many", &[], vec![]).await;
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains("items"), "{answer}");
}

#[tokio::test]
async fn queries_and_paths_fill_fields() {
    let query = "/golden/echo/a%2Fb?flag=true&large=5&colour=COLOUR_RED&numbers=1&numbers=2&item.number=9&memoryMB=4&nobody=x&lasts=2s";
    let (status, _, answer) = ask("GET", query, &[], vec![]).await;
    assert_eq!(status, 404, "an encoded slash is a slash: {answer}");
    let (status, _, answer) = ask("GET", &query.replace("%2F", "+%20%C3%A4"), &[], vec![]).await;
    assert_eq!(status, 200, "{answer}");
    for part in [
        r#""text":"a+ äb""#,
        r#""flag":true"#,
        r#""large":"5""#,
        r#""colour":"COLOUR_RED""#,
        r#""numbers":[1,2]"#,
        r#""item":{"number":9}"#,
        r#""lasts":"2s""#,
        r#""memoryMB":4"#,
    ] {
        assert!(answer.contains(part), "{part} in {answer}");
    }
    let (status, _, answer) = ask("GET", "/nowhere", &[], vec![]).await;
    assert_eq!(
        (status, answer.contains(r#""code":5,"message":"Not Found""#)),
        (404, true),
        "{answer}"
    );
    let (status, _, answer) = ask("DELETE", "/golden/echo", &[], vec![]).await;
    assert_eq!((status, answer.contains("Method Not Allowed")), (405, true), "{answer}");
    let (status, kind, _) = ask("OPTIONS", "/golden/echo", &[], vec![]).await;
    assert_eq!((status, kind.as_str()), (200, "application/json"));
}

#[tokio::test]
async fn bodies_may_be_gzip_and_are_bounded_once_inflated() {
    let zip = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(text.as_bytes()).expect("memory");
        encoder.finish().expect("memory")
    };
    let gzip = [("content-encoding", "gzip")];
    let (status, _, answer) = ask("POST", "/golden/echo", &gzip, zip(r#"{"text":"x"}"#)).await;
    assert_eq!((status, answer.contains(r#""text":"x""#)), (200, true));
    let bomb = format!("{{\"text\":\"{}\"}}", "x".repeat(1 << 20));
    assert!(zip(&bomb).len() < LIMIT, "small while it is packed");
    assert_eq!(ask("POST", "/golden/echo", &gzip, zip(&bomb)).await.0, 413);
    assert_eq!(ask("POST", "/golden/echo", &[], bomb.into()).await.0, 413);
    assert_eq!(ask("POST", "/golden/echo", &gzip, b"no gzip".to_vec()).await.0, 400);
    let brotli = [("content-encoding", "br")];
    assert_eq!(ask("POST", "/golden/echo", &brotli, b"{}".to_vec()).await.0, 415);
}
