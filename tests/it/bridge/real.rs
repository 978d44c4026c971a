//! The real grpc-gateway and our bridge in front of one backend: the same
//! requests get the same bytes, but for what stands in [`Apart`].

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use axum::Router;
use container_svc::gateway::Gateway;
use proptest::{
    collection::{hash_map, vec},
    num, option,
    prelude::{BoxedStrategy, Just, Strategy, any},
    test_runner::{Config, TestCaseError, TestRunner},
};
use prost::Message as _;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, Value};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

/// Where we differ from grpc-gateway on purpose. Everywhere, an error body has
/// the member `error` in front, which the documented clients read; the rest of
/// the body is compared.
#[derive(Debug, Clone, Copy)]
enum Apart {
    /// Not at all.
    No,
    /// In the words of a refusal and its details: ours name the field and what to do.
    Words,
    /// In the frame of an error before the first message of a stream: for us it
    /// is an error as any other, so that clients read one shape.
    Frame,
    /// Altogether, in these statuses and for this reason.
    Status {
        real: u16,
        ours: u16,
        #[expect(dead_code, reason = "told with a failure")]
        why: &'static str,
    },
}
use Apart::{Frame as NoFrame, No, Words};

/// A caller who sends more than one value has made a mistake, and is told.
const TRAILING: Apart =
    Apart::Status { real: 200, ours: 400, why: "what follows the JSON is refused, not ignored" };
const NO_CODE: Apart =
    Apart::Status { real: 500, ours: 500, why: "there are 17 codes; another is UNKNOWN" };
const MINUS_ZERO: Apart =
    Apart::Status { real: 200, ours: 200, why: "prost sends -0.0 as the default that it equals" };
const DIGITS: Apart =
    Apart::Status { real: 400, ours: 200, why: "digits below a nanosecond are cut off" };
const GO_DURATION: Apart =
    Apart::Status { real: 200, ours: 400, why: "a duration has one form, that of a body" };
const JSON_ALWAYS: Apart =
    Apart::Status { real: 400, ours: 400, why: "the refusal is JSON, not text/plain" };
const NOT_UTF8: Apart =
    Apart::Status { real: 500, ours: 400, why: "what the caller did wrong is no 500" };
const IGNORED_UTF8: Apart =
    Apart::Status { real: 200, ours: 400, why: "no part of a query may be other than UTF-8" };
const INTERNAL: Apart =
    Apart::Status { real: 500, ours: 500, why: "an answer that cannot be written is INTERNAL" };
const NO_ANSWER: Apart =
    Apart::Status { real: 200, ours: 200, why: "an empty stream is JSON too, as every answer" };

#[derive(Debug, PartialEq, Eq)]
struct Told {
    status: u16,
    kind: String,
    body: String,
}

/// Both gateways over one backend.
struct Both {
    real: SocketAddr,
    ours: SocketAddr,
    process: Child,
    _tasks: tokio::task::JoinSet<()>,
}

impl Drop for Both {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Both {
    async fn start() -> Self {
        let mut tasks = tokio::task::JoinSet::new();
        let mut serve = async |router: Router| {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            tasks.spawn(async move { axum::serve(listener, router).await.expect("serves") });
            address
        };
        let backend = serve(Router::new().fallback(golden)).await;
        let gateway = Gateway::new(&pool(), Router::new().fallback(golden), 1 << 20, None);
        let ours = serve(Router::new().fallback(move |request| gateway.clone().handle(request)));
        let ours = ours.await;

        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/.cache/tools/bin/real-gateway");
        let mut process = Command::new(program)
            .arg(backend.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the real grpc-gateway; `make tools` builds it");
        let output = process.stdout.take().expect("a pipe");
        let output = tokio::process::ChildStdout::from_std(output).expect("a pipe");
        let mut address = String::new();
        tokio::io::BufReader::new(output).read_line(&mut address).await.expect("an address");
        let real = address.trim().parse().expect("an address");
        Self { real, ours, process, _tasks: tasks }
    }

    async fn ask(&self, method: &str, target: &str, body: &[u8]) -> (Told, Told) {
        tokio::join!(
            ask_over_tcp(self.real, method, target, body),
            ask_over_tcp(self.ours, method, target, body)
        )
    }

    /// What is not as it should be.
    async fn differs(
        &self,
        method: &str,
        target: &str,
        body: &[u8],
        apart: Apart,
    ) -> Option<String> {
        let (real, ours) = self.ask(method, target, body).await;
        let expected = expected(&real, apart);
        let same = match apart {
            No | NoFrame => expected == ours,
            Words => {
                let code = |told: &Told| -> Option<i64> {
                    let body: serde_json::Value = serde_json::from_str(&told.body).ok()?;
                    body["message"].as_str().filter(|text| !text.is_empty())?;
                    body["code"].as_i64()
                };
                (real.status, &real.kind) == (ours.status, &ours.kind)
                    && real.status >= 400
                    && code(&real) == code(&ours)
            }
            Apart::Status { real: at, ours: own, .. } => (real.status, ours.status) == (at, own),
        };
        let body = String::from_utf8_lossy(body);
        let shown = |told: &Told| format!("{} {} {}", told.status, told.kind, told.body);
        let (expected, ours) = match apart {
            No | NoFrame => (shown(&expected), shown(&ours)),
            _ => (shown(&real), shown(&ours)),
        };
        // The answers are long; what is equal at their begin says nothing.
        let equal = expected.chars().zip(ours.chars()).take_while(|(a, b)| a == b).count();
        let part =
            |text: &str| text.chars().skip(equal.saturating_sub(20)).take(120).collect::<String>();
        let (expected, ours) = (part(&expected), part(&ours));
        (!same).then(|| {
            format!("{method} {target} {body} {apart:?}\n  real …{expected}\n  ours …{ours}\n")
        })
    }
}

/// What ours should answer, after what the real one answered.
fn expected(real: &Told, apart: Apart) -> Told {
    let mut body = real.body.clone();
    if let NoFrame = apart {
        let inner = body.strip_prefix("{\"error\":").and_then(|body| body.strip_suffix("}\n"));
        body = inner.expect("a frame").to_owned();
    }
    if real.status >= 400 {
        let json: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        body = body.replacen('{', &format!("{{\"error\":{},", json["message"]), 1);
    }
    Told { status: real.status, kind: real.kind.clone(), body }
}

async fn ask_over_tcp(address: SocketAddr, method: &str, target: &str, body: &[u8]) -> Told {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("writes");
    stream.write_all(body).await.expect("writes");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("reads");
    let answer = String::from_utf8(answer).expect("UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        let mut values = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        values.next().map_or(String::new(), |(_, value)| value.to_owned())
    };
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    let body = match header("transfer-encoding").as_str() {
        "chunked" => unchunked(body),
        _ => body.to_owned(),
    };
    Told { status, kind: header("content-type"), body }
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((length, more)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a length");
        if length == 0 {
            break;
        }
        body.push_str(&more[..length]);
        rest = &more[length + 2..];
    }
    body
}

async fn compare(both: &Both, cases: impl IntoIterator<Item = (&str, String, Vec<u8>, Apart)>) {
    let mut differences = String::new();
    for (method, target, body, apart) in cases {
        if let Some(difference) = both.differs(method, &target, &body, apart).await {
            differences.push_str(&difference);
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
}

fn post<'a>(path: &str, bodies: &[(&str, Apart)]) -> Vec<(&'a str, String, Vec<u8>, Apart)> {
    let case =
        |(body, apart): &(&str, Apart)| ("POST", path.to_owned(), body.as_bytes().to_vec(), *apart);
    bodies.iter().map(case).collect()
}

fn get<'a>(targets: &[(&str, Apart)]) -> Vec<(&'a str, String, Vec<u8>, Apart)> {
    targets.iter().map(|(target, apart)| ("GET", (*target).to_owned(), vec![], *apart)).collect()
}

#[tokio::test]
async fn errors_and_streams_are_those_of_the_real_gateway() {
    let both = Both::start().await;
    let mut cases = Vec::new();
    for code in 1..=16 {
        cases.extend(get(&[
            (&format!("/golden/fail/{code}"), No),
            (&format!("/golden/fail/{code}?message=%3Ca%26b%3E%22%5C%0A%E2%80%A8%7F"), No),
            (&format!("/golden/stream?items=2&code={code}"), No),
            (&format!("/golden/stream?items=1&code={code}&message=%3Ca%26b%3E%E2%80%A8"), No),
            (&format!("/golden/stream?code={code}"), NoFrame),
        ]));
    }
    cases.extend(get(&[
        ("/golden/stream?items=3", No),
        ("/golden/fail/17", NO_CODE),
        ("/golden/stream", NO_ANSWER),
    ]));
    compare(&both, cases).await;
}

#[tokio::test]
async fn details_of_errors_are_those_of_the_real_gateway() {
    const UNKNOWN: Apart = Apart::Status {
        real: 500,
        ours: 400,
        why: "a detail of a type that is not known is shown as its bytes and does not hide the error",
    };
    let both = Both::start().await;
    let url = "type.googleapis.com";
    let known = [
        format!(
            r#"{{"@type":"{url}/google.rpc.BadRequest","fieldViolations":[{{"field":"<a>"}}]}}"#
        ),
        format!(r#"{{"@type":"{url}/google.rpc.ErrorInfo","metadata":{{"b":"1","a":"&"}}}}"#),
        format!(r#"{{"@type":"{url}/google.protobuf.Duration","value":"3s"}}"#),
        format!(r#"{{"@type":"{url}/google.protobuf.Timestamp","value":"2026-01-02T03:04:05Z"}}"#),
        format!(r#"{{"@type":"{url}/golden.v1.RawRequest"}}"#),
        format!(r#"{{"@type":"{url}/golden.v1.Item","number":5}}"#),
    ];
    let details = format!("[{}]", known.join(","));
    let descriptor = pool().get_message_by_name("google.rpc.Status").expect("it");
    let json = format!(r#"{{"code":9,"message":"why ä","details":{details}}}"#);
    let mut from = serde_json::Deserializer::from_str(&json);
    let mut status = DynamicMessage::deserialize(descriptor, &mut from).expect("a status");
    let target = |path: &str, status: &DynamicMessage| {
        let status = STANDARD_NO_PAD.encode(status.encode_to_vec());
        let status = percent_encoding::utf8_percent_encode(&status, NON_ALPHANUMERIC).to_string();
        format!("{path}code=9&status={status}")
    };
    let mut cases = Vec::new();
    for path in ["/golden/fail/9?", "/golden/stream?items=1&"] {
        cases.push(("GET", target(path, &status), vec![], No));
    }
    let any = pool().get_message_by_name("google.protobuf.Any").expect("it");
    let mut any = DynamicMessage::new(any);
    any.set_field_by_name("type_url", Value::String(format!("{url}/golden.v1.Nobody")));
    status.set_field_by_name("details", Value::List(vec![Value::Message(any)]));
    cases.push(("GET", target("/golden/fail/9?", &status), vec![], UNKNOWN));
    compare(&both, cases).await;
}

/// What a backend sent, straight to both.
fn raw(bytes: &[u8], apart: Apart) -> (&'static str, String, Vec<u8>, Apart) {
    let body = format!("{{\"data\":\"{}\"}}", STANDARD_NO_PAD.encode(bytes));
    ("POST", "/golden/raw".to_owned(), body.into_bytes(), apart)
}

#[tokio::test]
async fn what_no_message_can_be_is_an_internal_error_for_both() {
    let both = Both::start().await;
    let cases = [
        raw(b"\x0a\x01\xff", Words),      // a text that is not UTF-8
        raw(b"\x0a\x05a", Words),         // a text that ends too early
        raw(b"\x18", Words),              // a number that does
        raw(b"\x82\x01\x02\x10\x01", No), // a time of one nanosecond
        raw(b"\x82\x01\x06\x10\xff\xff\xff\xff\x0f", INTERNAL), // of nanoseconds below nothing
        raw(b"\x8a\x01\x04\x08\x01\x10\x01", No), // a duration
        raw(b"\xf8\x07\x05\xf2\x07\x01x", No), // fields of a newer contract
        raw(b"\x08\x05\x12\x01x", No),    // fields that another kind of value has
    ];
    compare(&both, cases).await;
}

/// Messages of a type, to a depth; fields are set by chance.
fn messages(descriptor: &MessageDescriptor, depth: u32) -> BoxedStrategy<DynamicMessage> {
    let descriptor = descriptor.clone();
    let fields: Vec<_> = descriptor.fields().collect();
    let fields: Vec<_> = fields
        .into_iter()
        .filter(|field| depth > 0 || field.kind().as_message().is_none())
        .map(|field| (Just(field.clone()), option::weighted(0.3, values(&field, depth))))
        .collect();
    let message = fields.prop_map(move |fields| {
        let mut message = DynamicMessage::new(descriptor.clone());
        for (field, value) in fields {
            if let Some(value) = value {
                message.set_field(&field, value);
            }
        }
        message
    });
    message.boxed()
}

fn values(field: &FieldDescriptor, depth: u32) -> BoxedStrategy<Value> {
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else { unreachable!("a map has entries") };
        let keys = one(&entry.map_entry_key_field(), depth);
        let keys = keys.prop_map(|key| key.into_map_key().expect("a key"));
        let values = one(&entry.map_entry_value_field(), depth);
        return hash_map(keys, values, 0..4).prop_map(Value::Map).boxed();
    }
    match field.is_list() {
        true => vec(one(field, depth), 0..4).prop_map(Value::List).boxed(),
        false => one(field, depth),
    }
}

fn one(field: &FieldDescriptor, depth: u32) -> BoxedStrategy<Value> {
    match field.kind() {
        Kind::String => any::<String>().prop_map(Value::String).boxed(),
        Kind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => any::<i32>().prop_map(Value::I32).boxed(),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => any::<i64>().prop_map(Value::I64).boxed(),
        Kind::Uint32 | Kind::Fixed32 => any::<u32>().prop_map(Value::U32).boxed(),
        Kind::Uint64 | Kind::Fixed64 => any::<u64>().prop_map(Value::U64).boxed(),
        Kind::Float => num::f32::ANY.prop_map(Value::F32).boxed(),
        Kind::Double => num::f64::ANY.prop_map(Value::F64).boxed(),
        Kind::Bytes => vec(any::<u8>(), 0..9).prop_map(|bytes| Value::Bytes(bytes.into())).boxed(),
        Kind::Enum(_) => (-1..4).prop_map(Value::EnumNumber).boxed(),
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Timestamp" => {
                seconds(message, (-62_135_596_800_i64..=253_402_300_799, 0..1_000_000_000))
            }
            "google.protobuf.Duration" => {
                seconds(message, (0..=315_575_999_999_i64, 0..1_000_000_000))
            }
            _ => messages(&message, depth.saturating_sub(1)).prop_map(Value::Message).boxed(),
        },
    }
}

/// A time or a duration.
fn seconds(
    descriptor: MessageDescriptor,
    range: (impl Strategy<Value = i64> + 'static, std::ops::Range<i32>),
) -> BoxedStrategy<Value> {
    let message = range.prop_map(move |(seconds, nanos)| {
        let mut message = DynamicMessage::new(descriptor.clone());
        message.set_field_by_name("seconds", Value::I64(seconds));
        message.set_field_by_name("nanos", Value::I32(nanos));
        Value::Message(message)
    });
    message.boxed()
}

/// One message after another is their union on the wire: fields come twice and
/// out of order, members of a oneof exclude each other, messages merge.
#[test]
fn any_message_on_the_wire_is_the_same_json_from_both() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let both = runtime.block_on(Both::start());
    let message = messages(&pool().get_message_by_name("golden.v1.All").expect("it"), 1);
    let mut runner =
        TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
    let held = runner.run(&(message.clone(), message), |(first, second)| {
        let bytes = [first.encode_to_vec(), second.encode_to_vec()].concat();
        let (method, target, body, apart) = raw(&bytes, No);
        let difference = runtime.block_on(both.differs(method, &target, &body, apart));
        difference.map_or(Ok(()), |difference| Err(TestCaseError::fail(difference)))
    });
    held.unwrap_or_else(|failure| panic!("{failure}"));
}

#[tokio::test]
async fn fields_are_written_as_the_real_gateway_writes_them() {
    let both = Both::start().await;
    let bodies = [
        ("", No),
        (" \n", No),
        ("{}", No),
        (r#"{"text":"<a href=\"x\">&amp;\u2028\u2029\u007f\u0000\ud83d\ude00</a>"}"#, No),
        (r#"{"late":"l","early":"e","perhaps":"","maybe":{},"sure":false}"#, No),
        (r#"{"left":""}"#, No),
        (r#"{"ratio":-0.0}"#, MINUS_ZERO),
        (r#"{"ratios":[-0.0],"single":-1e-7}"#, No),
        (r#"{"right":{}}"#, No),
        (r#"{"colour":"COLOUR_RED","colours":[0,1,7,-1]}"#, No),
        (r#"{"large":"-9223372036854775808","unsigned":"18446744073709551615"}"#, No),
        (r#"{"counts":{"b":1,"a":2,"":"3"},"byNumber":{"-2":{},"10":{"number":1},"9":{}}}"#, No),
        (
            r#"{"byFlag":{"true":"t","false":"f"},"byLarge":{"10":"AA==","9":""},"bySigned":{"-1":1,"1":9}}"#,
            No,
        ),
        (r#"{"at":"0001-01-01T00:00:00Z","lasts":"-0.000000001s"}"#, No),
        (r#"{"at":"9999-12-31T23:59:59.999999999Z","lasts":"315576000000s"}"#, No),
        (r#"{"at":"2026-01-02T03:04:05.123456+02:00","lasts":"-315576000000.5s"}"#, No),
        (r#"{"inner":{"inner":{"text":"deep","times":["1970-01-01T00:00:00.000100Z"]}}}"#, No),
        (r#"{"data":"-_8","unpacked":["1",2]}"#, No),
        (r#"{"unknown":{"deep":[1]},"memory_mb":3,"large":5,"text":null,"item":null}"#, No),
    ];
    let mut cases = post("/golden/echo", &bodies);
    cases.extend(post("/golden/repeat", &bodies));
    for number in [
        "0",
        "1",
        "-1.5",
        "1e20",
        "1e21",
        "1.5e21",
        "123456789012345680000",
        "1e-6",
        "1e-7",
        "9.99e-7",
        "0.1",
        "1.7976931348623157e308",
        "5e-324",
        "\"NaN\"",
        "\"Infinity\"",
        "\"-Infinity\"",
        "16777217",
        "3.4e38",
        "1e-45",
    ] {
        cases.extend(post(
            "/golden/echo",
            &[(&format!("{{\"ratio\":{number},\"ratios\":[{number},{number}]}}"), No)],
        ));
        if !number.contains("e308") {
            cases.extend(post("/golden/echo", &[(&format!("{{\"single\":{number}}}"), No)]));
        }
    }
    compare(&both, cases).await;
}

#[tokio::test]
async fn bodies_are_read_as_the_real_gateway_reads_them() {
    let both = Both::start().await;
    let bodies = [
        (r#"{"small":"x"}"#, Words),
        (r#"{"small":2147483648}"#, Words),
        (r#"{"small":1.5}"#, Words),
        (r#"{"small":1.0}"#, No),
        (r#"{"small":"1"}"#, No),
        (r#"{"small":1e2}"#, No),
        (r#"{"small":true}"#, Words),
        (r#"{"small":""}"#, Words),
        (r#"{"small":" 1"}"#, Words),
        (r#"{"small":[1]}"#, Words),
        (r#"{"natural":-1}"#, Words),
        (r#"{"large":"9223372036854775808"}"#, Words),
        (r#"{"large":1.5}"#, Words),
        (r#"{"large":9007199254740993}"#, No),
        (r#"{"text":5}"#, Words),
        (r#"{"text":["a"]}"#, Words),
        (r#"{"flag":"true"}"#, Words),
        (r#"{"flag":1}"#, Words),
        (r#"{"ratio":"x"}"#, Words),
        (r#"{"ratio":"1.5"}"#, No),
        (r#"{"ratio":1e999}"#, Words),
        (r#"{"single":1e39}"#, Words),
        (r#"{"data":"AP8"}"#, No),
        (r#"{"data":"!"}"#, Words),
        (r#"{"data":"AP8=="}"#, Words),
        (r#"{"colour":1}"#, No),
        (r#"{"colour":9}"#, No),
        (r#"{"colour":"COLOUR_NONE"}"#, No),
        (r#"{"colour":true}"#, Words),
        (r#"{"colours":["COLOUR_NONE","COLOUR_RED"]}"#, No),
        (r#"{"numbers":[1,"x"]}"#, Words),
        (r#"{"numbers":1}"#, Words),
        (r#"{"numbers":[null]}"#, Words),
        (r#"{"numbers":null}"#, No),
        (r#"{"items":[null]}"#, Words),
        (r#"{"item":{"number":true}}"#, Words),
        (r#"{"item":[]}"#, Words),
        (r#"{"item":"x"}"#, Words),
        (r#"{"counts":[]}"#, Words),
        (r#"{"counts":{"a":"x"}}"#, Words),
        (r#"{"counts":{"a":null}}"#, Words),
        (r#"{"counts":{"a":1,"a":2}}"#, Words),
        (r#"{"byNumber":{"x":{}}}"#, Words),
        (r#"{"byFlag":{"yes":""}}"#, Words),
        (r#"{"at":"yesterday"}"#, Words),
        (r#"{"at":"2026-01-02 03:04:05Z"}"#, Words),
        (r#"{"at":"2026-01-02T03:04:05"}"#, Words),
        (r#"{"at":5}"#, Words),
        (r#"{"lasts":"1m"}"#, Words),
        (r#"{"lasts":"1"}"#, Words),
        (r#"{"lasts":1}"#, Words),
        (r#"{"lasts":"1.0000000001s"}"#, DIGITS),
        (r#"{"lasts":"315576000001s"}"#, Words),
        (r#"{"text":"a","text":"b"}"#, Words),
        (r#"{"memory_mb":1,"memoryMB":2}"#, Words),
        (r#"{"left":"a","right":{}}"#, Words),
        (r#"{"left":"a","left":"b"}"#, Words),
        (r#"{"left":null}"#, No),
        (r#"{"text":"\ud800"}"#, Words),
        (r#"{"text":"\x"}"#, Words),
        ("{\"text\":\"a\nb\"}", Words),
        ("[]", Words),
        ("null", Words),
        ("5", Words),
        ("\"text\"", Words),
        ("{", Words),
        ("{]", Words),
        ("{\"text\":}", Words),
        ("{\"text\":\"a\",}", Words),
        ("{'text':1}", Words),
        ("{\"small\":01}", Words),
        ("{\"small\":+1}", Words),
        ("{\"ratio\":NaN}", Words),
        ("nonsense", Words),
        ("\u{feff}{}", Words),
        ("{} x", TRAILING),
        ("{}{}", TRAILING),
    ];
    let mut cases = post("/golden/echo", &bodies);
    cases.push(("POST", "/golden/echo".to_owned(), b"{\"text\":\"\xff\"}".to_vec(), Words));
    cases.push(("POST", "/golden/echo".to_owned(), b"{\"\xff\":1}".to_vec(), Words));
    compare(&both, cases).await;
}

#[tokio::test]
async fn paths_and_queries_are_read_as_the_real_gateway_reads_them() {
    let both = Both::start().await;
    let cases = get(&[
        ("/golden/echo/plain", No),
        ("/golden/echo/a%2Fb", No),
        ("/golden/echo/a%252Fb", No),
        ("/golden/echo/a+b%20c%C3%A4", No),
        ("/golden/echo/a:b", No),
        ("/golden/echo/%ff", NOT_UTF8),
        ("/golden/echo/%zz", JSON_ALWAYS),
        ("/golden/echo/", No),
        ("/golden/echo//", No),
        ("/golden/echo/a/", No),
        ("/golden//echo/a", No),
        ("/golden/deep/a/b/c/end", No),
        ("/golden/deep/a%2Fb/end", No),
        ("/golden/deep/end", No),
        ("/golden/deep//end", No),
        ("/golden/item/5", No),
        ("/golden/item/x", Words),
        ("/golden/item/5?item.number=6", No),
        ("/golden/item/", Words),
        ("/golden/fail/x", Words),
        ("/nowhere", No),
        ("/", No),
        ("/golden/echo/a?text=b", No),
        (
            "/golden/echo/a?flag=true&large=5&colour=COLOUR_RED&numbers=1&numbers=2&item.number=9&memoryMB=4&nobody=x",
            No,
        ),
        ("/golden/echo/a?memory_mb=4", No),
        ("/golden/echo/a?memory_mb=4&memoryMB=4", Words),
        ("/golden/echo/a?small=1&small=2", Words),
        ("/golden/echo/a?small=x", Words),
        ("/golden/echo/a?small=", Words),
        ("/golden/echo/a?small", Words),
        ("/golden/echo/a?small=%2B5", No),
        ("/golden/echo/a?small=010", No),
        ("/golden/echo/a?small=0x10", Words),
        ("/golden/echo/a?small=1_0", Words),
        ("/golden/echo/a?small=2147483648", Words),
        ("/golden/echo/a?small=1.0", Words),
        ("/golden/echo/a?natural=-1", Words),
        ("/golden/echo/a?natural=%2B1", Words),
        ("/golden/echo/a?flag=T&sure=0", No),
        ("/golden/echo/a?flag=yes", Words),
        ("/golden/echo/a?flag=", Words),
        ("/golden/echo/a?colour=1", No),
        ("/golden/echo/a?colour=9", Words),
        ("/golden/echo/a?colour=NONE", Words),
        ("/golden/echo/a?colours=COLOUR_RED&colours=0", No),
        ("/golden/echo/a?numbers=1,2", Words),
        ("/golden/echo/a?numbers=", Words),
        ("/golden/echo/a?texts=&texts=b", No),
        ("/golden/echo/a?ratio=1e3&single=.5", No),
        ("/golden/echo/a?ratio=inf", Words),
        ("/golden/echo/a?ratio=NaN", No),
        ("/golden/echo/a?ratio=Infinity&single=-Infinity", No),
        ("/golden/echo/a?ratio=1e999", Words),
        ("/golden/echo/a?single=1e39", Words),
        ("/golden/echo/a?ratio=0x1p4", Words),
        ("/golden/echo/a?data=AP8%3D", No),
        ("/golden/echo/a?data=_-8%3D", No),
        ("/golden/echo/a?data=AP8", No),
        ("/golden/echo/a?data=!", Words),
        ("/golden/echo/a?at=2026-01-02T03:04:05.5Z", No),
        ("/golden/echo/a?at=2026-01-02T03:04:05.5%2B01:00", No),
        ("/golden/echo/a?at=yesterday", Words),
        ("/golden/echo/a?lasts=2s", No),
        ("/golden/echo/a?lasts=1m30s", GO_DURATION),
        ("/golden/echo/a?lasts=1.5h", GO_DURATION),
        ("/golden/echo/a?lasts=-100ms", GO_DURATION),
        ("/golden/echo/a?lasts=2", Words),
        ("/golden/echo/a?lasts=x", Words),
        ("/golden/echo/a?item=x", Words),
        ("/golden/echo/a?items.number=1", Words),
        ("/golden/echo/a?small.number=1", Words),
        ("/golden/echo/a?item.nobody=1", No),
        ("/golden/echo/a?inner.inner.text=x", No),
        ("/golden/echo/a?inner.numbers=1&inner.numbers=2", No),
        ("/golden/echo/a?counts%5Ba%5D=1&counts%5Bb%5D=2", No),
        ("/golden/echo/a?counts[a]=1", No),
        ("/golden/echo/a?counts=1", Words),
        ("/golden/echo/a?counts[a]=x", Words),
        ("/golden/echo/a?counts[a]=1&counts[a]=2", Words),
        ("/golden/echo/a?byFlag[true]=x&byNumber[1]=x", Words),
        ("/golden/echo/a?byFlag[true]=x", No),
        ("/golden/echo/a?small[a]=1", Words),
        ("/golden/echo/a?left=a", No),
        ("/golden/echo/a?right.number=1", No),
        ("/golden/echo/a?left=a&right.number=1", Words),
        ("/golden/echo/a?left=a&left=b", Words),
        ("/golden/echo/a?perhaps=&maybe.number=0", No),
        ("/golden/echo/a?text=%ff", IGNORED_UTF8),
        ("/golden/echo/a?left=%ff", NOT_UTF8),
        ("/golden/echo/a?left=%zz", Words),
        ("/golden/echo/a?%zz=1", Words),
        ("/golden/echo/a?left=a;b", Words),
        ("/golden/echo/a?left=a%3Bb+c", No),
        ("/golden/echo/a?&&left=a=b&", No),
        ("/golden/echo/a?", No),
        ("/golden/stream?items=many", Words),
    ]);
    let method = |method, target: &str, apart| (method, target.to_owned(), Vec::new(), apart);
    let cases = cases.into_iter().chain([
        method("DELETE", "/golden/echo", No),
        method("PUT", "/golden/echo/a", No),
        method("POST", "/golden/fail/1", No),
        method("DELETE", "/nowhere", No),
        ("POST", "/golden/echo?small=5".to_owned(), b"{\"text\":\"a\"}".to_vec(), No),
    ]);
    compare(&both, cases).await;
}
