//! Malformed calls over gRPC and gRPC-web.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, MethodDescriptor};

use super::{
    generate::{Case, Generator, Rng, Sent},
    rest::{self, gzip, odd_token},
};

/// What stands in the body of a call, and what it needs in the head.
struct Body {
    what: &'static str,
    bytes: Vec<u8>,
    encoding: Option<&'static str>,
}

/// A call over HTTP/2.
pub(super) fn case(of: &Generator, rng: &mut Rng) -> Case {
    let rpc = rng.one(&of.rpcs);
    let path = format!("/{}/{}", rpc.parent_service().full_name(), rpc.name());
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let make = |what, path, headers, body, may_hang_up| Case {
        what,
        sent: Sent::Grpc { path, headers, body },
        rest: false,
        may_hang_up,
    };
    match rng.below(20) {
        0 | 1 => {
            let token = odd_token(rng);
            let headers = vec![pair("authorization", token.as_deref().unwrap_or("none"))];
            make("token", path, headers, frame(0, &[]), false)
        }
        2 => {
            let service = rpc.parent_service().full_name().to_owned();
            let unknown = [
                format!("{path}Not"),
                format!("/{service}x/A"),
                format!("/{service}"),
                format!("{path}/x"),
                format!("/{service}/%ff%00"),
                "/".to_owned(),
            ];
            make("unknown RPC", rng.pick(&unknown), vec![], frame(0, &[]), false)
        }
        3 => {
            let count = 20 + rng.below(200);
            let bomb = (0..count).map(|at| pair(&format!("x-{at}"), &"y".repeat(400)));
            make("header bomb", path, bomb.collect(), no_message(rng, rpc), true)
        }
        4 => {
            let kind = ["application/json", "text/plain", "application/grpc+json", "x", "none"];
            let headers = vec![pair("content-type", rng.pick(&kind))];
            make("content type", path, headers, no_message(rng, rpc), false)
        }
        5 => {
            let odd = ["x", "-1S", "99999999999H", "1", "", "S", "1.5S", "\u{b5}"];
            let headers = vec![pair("grpc-timeout", rng.pick(&odd))];
            make("grpc-timeout", path, headers, no_message(rng, rpc), false)
        }
        _ => {
            let body = body(rng, rpc);
            let encoding = body.encoding.map(|encoding| pair("grpc-encoding", encoding));
            make(body.what, path, encoding.into_iter().collect(), body.bytes, false)
        }
    }
}

/// A call over HTTP/1.1, as binary or as base64.
pub(super) fn web_case(of: &Generator, rng: &mut Rng) -> Case {
    let rpc = rng.one(&of.rpcs);
    let path = format!("/{}/{}", rpc.parent_service().full_name(), rpc.name());
    let Body { mut what, bytes: mut body, encoding } = body(rng, rpc);
    let text = rng.below(2) == 0;
    let mut kind = if text { "application/grpc-web-text" } else { "application/grpc-web+proto" };
    let (mut method, mut token) = ("POST", Some(format!("Bearer {}", of.token)));
    if text {
        body = STANDARD.encode(&body).into_bytes();
    }
    match rng.below(12) {
        0 => (what, token) = ("web token", odd_token(rng)),
        1 => (what, method) = ("web method", rng.pick(&["GET", "PUT", "HEAD"])),
        2 => {
            what = "web content type";
            kind = rng.pick(&["application/json", "application/grpc", "text/html", ""]);
        }
        3..6 if text => {
            what = "base64";
            body = match rng.below(4) {
                0 => b"!!!!".repeat(1 + rng.below(9)),
                1 => [&body[..], b"="].concat(),
                2 => STANDARD.encode(frame(0, &[])).into_bytes()[..5].to_vec(),
                _ => rng.bytes(40).into_iter().chain([0xff]).collect(),
            };
        }
        _ => {}
    }
    let mut head = vec![("Content-Type", kind.to_owned()), ("X-Grpc-Web", "1".to_owned())];
    if text {
        head.push(("Accept", "application/grpc-web-text".to_owned()));
    }
    head.extend(token.map(|token| ("Authorization", token)));
    head.extend(encoding.map(|encoding| ("grpc-encoding", encoding.to_owned())));
    let sent = Sent::Raw(rest::http(method, &path, &head, &body));
    Case { what, sent, rest: false, may_hang_up: false }
}

fn body(rng: &mut Rng, rpc: &MethodDescriptor) -> Body {
    let plain = |what, bytes| Body { what, bytes, encoding: None };
    match rng.below(16) {
        0 => plain("no frame", vec![]),
        1 => plain("part of a head", vec![0; 1 + rng.below(4)]),
        2 => {
            let mut cut = frame(0, &vec![0x0a; 2 + rng.below(60)]);
            cut.truncate(5 + rng.below(cut.len() - 5));
            plain("a frame cut short", cut)
        }
        3 => {
            let length = u32::try_from((4 << 20) + 1 + rng.below(1 << 30)).expect("small");
            plain("a frame too long", [&[0][..], &length.to_be_bytes()[..], b"x"].concat())
        }
        4 if rng.below(20) == 0 => {
            plain("a message too long", frame(0, &vec![0; (4 << 20) + 1 + rng.below(9)]))
        }
        5 => plain("compressed with nothing", frame(1, &rng.bytes(40))),
        6 => plain("an unknown flag", frame(2 + rng.next().to_le_bytes()[0] % 126, b"")),
        7 => {
            let encoding = Some(rng.pick(&["gzip", "zstd", "deflate", "br", "x"]));
            let packed = gzip(&no_protobuf(rng, &rpc.input()));
            Body { what: "compressed", bytes: frame(1, &packed[..packed.len() / 2]), encoding }
        }
        8 => plain("no frame at all", rng.bytes(200).into_iter().chain([0xff]).rev().collect()),
        _ => plain("no protobuf", no_message(rng, rpc)),
    }
}

fn no_message(rng: &mut Rng, rpc: &MethodDescriptor) -> Vec<u8> {
    frame(0, &no_protobuf(rng, &rpc.input()))
}

fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("small");
    [&[flag], &length.to_be_bytes()[..], message].concat()
}

/// Bytes that are no message of this type.
fn no_protobuf(rng: &mut Rng, descriptor: &MessageDescriptor) -> Vec<u8> {
    let fields: Vec<_> = descriptor.fields().collect();
    let texts: Vec<_> = fields.iter().filter(|field| field.kind() == Kind::String).collect();
    loop {
        let number = match fields.is_empty() {
            true => 1,
            false => rng.one(&fields).number(),
        };
        let tag = |number: u32, width: u32| {
            let mut bytes = Vec::new();
            prost::encoding::encode_varint(u64::from(number << 3 | width), &mut bytes);
            bytes
        };
        let bytes = match rng.below(8) {
            0 => rng.bytes(64),
            1 => [tag(number, 2), vec![0x7f], rng.bytes(30)].concat(),
            2 if !texts.is_empty() => {
                let number = rng.one(&texts).number();
                [tag(number, 2), vec![3, 0xc3, 0x28, 0xff]].concat()
            }
            3 => vec![0x0b; 1 + rng.below(5_000)],
            4 => tag(number, 6 + u32::from(rng.below(2) == 0)),
            5 => [tag(number, 0), vec![0xff; 11]].concat(),
            6 => [tag(number, rng.pick(&[0, 1, 2, 5])), rng.bytes(20)].concat(),
            _ => vec![0; 1 + rng.below(3)],
        };
        if DynamicMessage::decode(descriptor.clone(), &*bytes).is_err() {
            return bytes;
        }
    }
}
