//! Malformed requests to the REST paths, down to what is no HTTP.

use std::io::Write as _;

use prost_reflect::{FieldDescriptor, Kind};
use serde_json::{Value, json};

use super::{
    generate::{Case, Generator, Rng, Route, Sent},
    program::MAX_BODY,
};

/// A request as bytes.
pub(super) fn http(method: &str, target: &str, head: &[(&str, String)], body: &[u8]) -> Vec<u8> {
    let mut out = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    for (name, value) in head {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    [out.as_bytes(), body].concat()
}

/// A token that opens nothing, or none at all.
pub(super) fn odd_token(rng: &mut Rng) -> Option<String> {
    let odd = ["", "Bearer", "Bearer ", "Bearer wrong", "Basic eDp5", "bearer csvc_", "x y z"];
    match rng.below(4) {
        0 => None,
        1 => Some(format!("Bearer csvc_{:x}", rng.next())),
        2 => Some(format!("Bearer {}", "a".repeat(rng.below(4_000)))),
        _ => Some(rng.pick(&odd).to_owned()),
    }
}

pub(super) fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).expect("memory");
    encoder.finish().expect("memory")
}

/// One request.
pub(super) fn case(of: &Generator, rng: &mut Rng) -> Case {
    let route = rng.one(&of.routes);
    let bodies: Vec<&Route> = of.routes.iter().filter(|route| route.takes_body).collect();
    let posts = rng.pick(&bodies);
    let bearer = [("Authorization", format!("Bearer {}", of.token))];
    let send = |what, route: &Route, target: &str, more: &[(&str, &str)], body: &[u8]| {
        let mut head = bearer.to_vec();
        head.extend(more.iter().map(|&(name, value)| (name, value.to_owned())));
        let sent = Sent::Raw(http(&route.method, target, &head, body));
        Case { what, sent, rest: true, may_hang_up: false }
    };
    let post =
        |what, more: &[(&str, &str)], body: &[u8]| send(what, posts, &posts.path, more, body);
    match rng.below(16) {
        0..3 => post("a wrong type", &[], wrong_type(rng, posts).to_string().as_bytes()),
        3 => post("broken JSON", &[], &broken_json(rng, posts)),
        4 => post("deep nesting", &[], deep(rng, posts).as_bytes()),
        5 => {
            let text = [&b"{\"name\":\"a"[..], &[0xff, 0xc3, 0x28], b"\"}"].concat();
            post("a body that is no UTF-8", &[], &text)
        }
        6 => {
            let packed = gzip(json!({"name": "x".repeat(900)}).to_string().as_bytes());
            let mut flipped = packed.clone();
            let last = flipped.len() - 1;
            flipped[last - rng.below(8)] ^= 0x55;
            let bodies = [
                packed[..packed.len() / 2].to_vec(),
                flipped,
                rng.bytes(30),
                gzip(&vec![b' '; 1 << 20]),
            ];
            post("broken gzip", &[("Content-Encoding", "gzip")], &rng.pick(&bodies))
        }
        7 => {
            let encoding = rng.pick(&["br", "zstd", "gzip, gzip", "?", "\u{e9}"]);
            post("an unknown encoding", &[("Content-Encoding", encoding)], b"{}")
        }
        8 => {
            let body = vec![b' '; MAX_BODY + 1 + rng.below(2_000)];
            post("a body too long", &[], &body)
        }
        9 | 10 => {
            let (path, query) = odd_target(rng, route);
            send("an odd target", route, &format!("{path}{query}"), &[], b"")
        }
        11 => {
            let unknown = [
                "/",
                "/x",
                "/container-svc",
                "/container-svc/",
                "//",
                "/container-svc/container/",
                "/%2e%2e/x",
            ];
            send("an unknown path", route, rng.pick(&unknown), &[], b"")
        }
        12 => {
            let method = rng.pick(&["PATCH", "HEAD", "TRACE", "FOO", "CONNECT"]);
            let target = if method == "CONNECT" { "x:1" } else { &route.path };
            let sent = Sent::Raw(http(method, target, &bearer, b""));
            // An answer to HEAD, CONNECT and what is not known is HTTP's own matter.
            Case { what: "another method", sent, rest: false, may_hang_up: false }
        }
        13 | 14 => {
            let token = odd_token(rng).map(|token| ("Authorization", token));
            let head: Vec<_> = token.into_iter().collect();
            let sent = Sent::Raw(http(&route.method, &route.path, &head, b""));
            Case { what: "token", sent, rest: true, may_hang_up: false }
        }
        _ => no_http(rng, posts, &of.token),
    }
}

/// A body in which one field has what it cannot hold.
fn wrong_type(rng: &mut Rng, route: &Route) -> Value {
    let fields: Vec<FieldDescriptor> = route.rpc.input().fields().collect();
    if fields.is_empty() {
        return json!([]);
    }
    let field = rng.one(&fields);
    json!({field.json_name(): wrong(rng, field)})
}

fn wrong(rng: &mut Rng, field: &FieldDescriptor) -> Value {
    if field.is_map() {
        return rng.pick(&[json!(5), json!("x"), json!([1])]);
    }
    if field.is_list() {
        return rng.pick(&[json!(5), json!("x"), json!({"a": 1}), json!(true)]);
    }
    match field.kind() {
        Kind::String => rng.pick(&[json!(5), json!([]), json!({}), json!(false)]),
        Kind::Bool => rng.pick(&[json!(1), json!("perhaps"), json!([]), json!({})]),
        // An unknown name of an enum is discarded, as an unknown field is.
        Kind::Enum(_) => rng.pick(&[json!(1.5), json!([]), json!({})]),
        Kind::Message(_) => rng.pick(&[json!(5), json!("x y"), json!([1]), json!(true)]),
        _ => rng.pick(&[json!("many"), json!(1e99), json!([]), json!({}), json!(0.5)]),
    }
}

fn broken_json(rng: &mut Rng, route: &Route) -> Vec<u8> {
    let twice = format!("{{\"{0}\":\"a\",\"{0}\":\"b\"}}", first_field(route));
    let texts = [
        "{",
        "[]",
        "\"x\"",
        "5",
        "true",
        "{\"name\":}",
        "{\"name\":\"a\"",
        "{,}",
        "{} {}",
        "{'name':'a'}",
        "{\"name\":\"\\ud800\"}",
        "{\"name\":\"\\q\"}",
        "{\"name\":\"a\u{1}b\"}",
        "\u{feff}{}",
        "nul",
        "{\"a\":1,}",
        twice.as_str(),
        "NaN",
        "--",
    ];
    match rng.below(4) {
        // Spaces alone are no body.
        0 => rng.bytes(80).into_iter().chain([b'}']).collect(),
        _ => rng.one(&texts).as_bytes().to_vec(),
    }
}

/// As JSON names it.
fn first_field(route: &Route) -> String {
    let first = route.rpc.input().fields().next();
    first.map_or_else(|| "x".to_owned(), |field| field.json_name().to_owned())
}

fn deep(rng: &mut Rng, route: &Route) -> String {
    let depth = 200 + rng.below(20_000);
    let name = first_field(route);
    match rng.below(3) {
        0 => "[".repeat(depth),
        1 => format!("{{\"{name}\":").repeat(depth / 20 + 200),
        _ => format!("{{\"{name}\":{}{}}}", "[".repeat(depth), "]".repeat(depth)),
    }
}

/// A path or a query that cannot be read.
fn odd_target(rng: &mut Rng, route: &Route) -> (String, String) {
    let escape = rng.pick(&["%", "%z", "%zz", "%ff", "%c3%28", "%u0041", "%%"]);
    let fields: Vec<FieldDescriptor> = route.rpc.input().fields().collect();
    match rng.below(4) {
        0 => (format!("{}/{escape}", route.path), String::new()),
        1 => (
            route.path.replacen("container-svc", &format!("container-svc{escape}"), 1),
            String::new(),
        ),
        // A route with a body takes nothing from its query.
        _ if route.takes_body => (format!("{}{escape}", route.path), "?x=y".to_owned()),
        2 => (route.path.clone(), format!("?x={escape}")),
        _ => {
            let typed = |field: &&FieldDescriptor| !field.is_list() && field.kind() != Kind::String;
            let typed: Vec<_> = fields.iter().filter(typed).collect();
            match typed.is_empty() {
                true => (route.path.clone(), "?a;b".to_owned()),
                false => (route.path.clone(), format!("?{}=x+y", rng.one(&typed).json_name())),
            }
        }
    }
}

/// What is no HTTP, or only nearly.
fn no_http(rng: &mut Rng, route: &Route, token: &str) -> Case {
    let line = format!(
        "{} {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n",
        route.method, route.path
    );
    let bytes = match rng.below(8) {
        0 => rng.bytes(400).into_iter().chain(*b"\r\n\r\n").collect(),
        1 => format!("{line}{}\r\n", "X-Y: z\r\n".repeat(2_000)).into_bytes(),
        2 => format!("{line}X: {}\r\n\r\n", "y".repeat(1 << 20)).into_bytes(),
        3 => format!("{line}Content-Length: -1\r\n\r\n{{}}").into_bytes(),
        4 => format!("{line}Content-Length: 1000\r\n\r\n{{").into_bytes(),
        5 => format!("{line}Transfer-Encoding: chunked\r\n\r\nzz\r\n{{}}\r\n").into_bytes(),
        6 => format!("{line}B\u{e9}d Name: x\r\n\r\n").into_bytes(),
        _ => format!("{} {} HTTP/9.9\r\n\r\n", route.method, route.path).into_bytes(),
    };
    Case { what: "no HTTP", sent: Sent::Raw(bytes), rest: false, may_hang_up: true }
}
