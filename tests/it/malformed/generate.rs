//! Malformed requests from a seed, for all that the descriptors declare.

use container_svc::rpc::pb;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};

use super::{grpc, rest};

/// What is sent, and how.
#[derive(Debug)]
pub(super) enum Sent {
    /// Bytes over TCP.
    Raw(Vec<u8>),
    /// A request over HTTP/2. It has a good token and content type unless its
    /// headers say other; "none" leaves one out.
    Grpc { path: String, headers: Vec<(String, String)>, body: Vec<u8> },
}

/// One malformed request.
#[derive(Debug)]
pub(super) struct Case {
    /// What is wrong with it.
    pub(super) what: &'static str,
    pub(super) sent: Sent,
    /// It is a question to the bridge, whose answers are all JSON.
    pub(super) rest: bool,
    /// It is so wrong that a closed connection is an answer.
    pub(super) may_hang_up: bool,
}

impl Case {
    /// Its beginning, for a message.
    pub(super) fn shown(&self) -> String {
        let text = match &self.sent {
            Sent::Raw(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            grpc => format!("{grpc:?}"),
        };
        text.chars().take(600).collect()
    }
}

/// Numbers from a seed (splitmix64).
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("small");
        usize::try_from(self.next() % end).expect("small")
    }

    pub(super) fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// The same, for what is cheap to copy.
    pub(super) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        self.one(of).clone()
    }

    pub(super) fn bytes(&mut self, most: usize) -> Vec<u8> {
        let count = self.below(most + 1);
        (0..count).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// A REST path of an RPC.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: String,
    /// With "x" in place of what is variable.
    pub(super) path: String,
    pub(super) takes_body: bool,
    pub(super) rpc: MethodDescriptor,
}

/// Makes requests for every RPC and every path.
pub(super) struct Generator {
    pub(super) rpcs: Vec<MethodDescriptor>,
    pub(super) routes: Vec<Route>,
    pub(super) token: String,
}

impl Generator {
    pub(super) fn new(token: &str) -> Self {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("descriptors");
        let rpcs: Vec<MethodDescriptor> =
            pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect();
        let option = pool.get_extension_by_name("google.api.http").expect("the option");
        let mut routes = Vec::new();
        for rpc in &rpcs {
            let options = rpc.options();
            if let Some(rule) = options.get_extension(&option).as_message() {
                read(rule, rpc, &mut routes);
            }
        }
        // A client stream has no rule; its path takes bytes.
        let ruled = rpcs.iter().filter(|rpc| !rpc.is_client_streaming()).count();
        assert!(ruled > 15 && routes.len() >= ruled, "all of them");
        Self { rpcs, routes, token: token.to_owned() }
    }

    /// The request of a number; the three ways take turns.
    pub(super) fn case(&self, seed: u64, number: u64) -> Case {
        let mut rng = Rng(seed.wrapping_add(number));
        match number % 3 {
            0 => rest::case(self, &mut rng),
            1 => grpc::case(self, &mut rng),
            _ => grpc::web_case(self, &mut rng),
        }
    }
}

fn read(rule: &DynamicMessage, rpc: &MethodDescriptor, routes: &mut Vec<Route>) {
    let text = |name: &str| {
        let value = rule.get_field_by_name(name).expect("a field of the rule");
        value.as_str().expect("a text").to_owned()
    };
    for method in ["get", "put", "post", "delete", "patch"] {
        let template = text(method);
        if !template.is_empty() {
            let parts = template.split('/');
            let parts = parts.map(|part| if part.starts_with('{') { "x" } else { part });
            routes.push(Route {
                method: method.to_uppercase(),
                path: parts.collect::<Vec<_>>().join("/"),
                takes_body: text("body") == "*",
                rpc: rpc.clone(),
            });
        }
    }
    let more = rule.get_field_by_name("additional_bindings").expect("a field of the rule");
    for binding in more.as_list().expect("a list") {
        read(binding.as_message().expect("a rule"), rpc, routes);
    }
}
