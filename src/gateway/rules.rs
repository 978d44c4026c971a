//! The google.api.http rules of the descriptors, and which one a request meets.

use http::Method;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};

/// One method and path of one RPC.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// HTTP method.
    pub(super) method: Method,
    /// The path as it is written.
    pub(super) template: String,
    /// The RPC.
    pub(super) rpc: MethodDescriptor,
    /// `*`, a field, or empty.
    pub(super) body: String,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// One segment, into a field; it may be empty, as it may for grpc-gateway.
    One(String),
    /// Any number of segments, into a field.
    Many(String),
}

/// What a path was found to be.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// An RPC, with the fields that the path fills.
    Rule(&'a Rule, Vec<(String, String)>),
    /// A path of ours, but by these methods only.
    OtherMethod(Vec<&'a Method>),
    /// No path of ours.
    Nothing,
}

/// All rules.
#[derive(Debug)]
pub(super) struct Rules(pub(super) Vec<Rule>);

impl Rules {
    /// Reads the rules of every RPC that has some.
    pub(super) fn read(pool: &DescriptorPool) -> Self {
        let Some(option) = pool.get_extension_by_name("google.api.http") else {
            return Self(Vec::new());
        };
        let mut rules = Vec::new();
        for service in pool.services() {
            for rpc in service.methods() {
                let options = rpc.options();
                if !options.has_extension(&option) {
                    continue;
                }
                if let Some(rule) = options.get_extension(&option).as_message() {
                    add(rule, &rpc, &mut rules);
                }
            }
        }
        // A path with more literals is more specific and is tried first.
        rules.sort_by_key(|rule: &Rule| {
            std::cmp::Reverse(
                rule.segments.iter().filter(|s| matches!(s, Segment::Literal(_))).count(),
            )
        });
        Self(rules)
    }

    /// Finds the rule of a request by its path without escapes: encoded slashes
    /// count as slashes, as they do for grpc-gateway.
    pub(super) fn find(&self, method: &Method, path: &str) -> Found<'_> {
        let Some(path) = path.strip_prefix('/') else { return Found::Nothing };
        let parts: Vec<&str> = path.split('/').collect();
        let mut other = Vec::new();
        for rule in &self.0 {
            let mut fields = Vec::new();
            if !matches(&rule.segments, &parts, &mut fields) {
                continue;
            }
            if rule.method == *method {
                return Found::Rule(rule, fields);
            }
            other.push(&rule.method);
        }
        if other.is_empty() { Found::Nothing } else { Found::OtherMethod(other) }
    }
}

fn add(rule: &DynamicMessage, rpc: &MethodDescriptor, rules: &mut Vec<Rule>) {
    let text = |name: &str| -> String {
        let value = rule.get_field_by_name(name);
        value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    for (field, method) in [
        ("get", Method::GET),
        ("put", Method::PUT),
        ("post", Method::POST),
        ("delete", Method::DELETE),
        ("patch", Method::PATCH),
    ] {
        let template = text(field);
        if !template.is_empty() {
            let segments = parse(&template);
            let body = text("body");
            rules.push(Rule { method, template, rpc: rpc.clone(), body, segments });
        }
    }
    if let Some(more) = rule.get_field_by_name("additional_bindings") {
        for binding in more.as_list().unwrap_or_default() {
            if let Value::Message(binding) = binding {
                add(binding, rpc, rules);
            }
        }
    }
}

fn parse(template: &str) -> Vec<Segment> {
    template
        .trim_start_matches('/')
        .split('/')
        .map(|part| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            None => Segment::Literal(part.to_owned()),
            Some(field) => match field.split_once('=') {
                Some((field, "**")) => Segment::Many(field.to_owned()),
                Some((field, _)) => Segment::One(field.to_owned()),
                None => Segment::One(field.to_owned()),
            },
        })
        .collect()
}

fn matches(segments: &[Segment], parts: &[&str], fields: &mut Vec<(String, String)>) -> bool {
    match (segments, parts) {
        ([], []) => true,
        ([Segment::Literal(literal), rest @ ..], [part, more @ ..]) => {
            literal == part && matches(rest, more, fields)
        }
        ([Segment::One(field), rest @ ..], [part, more @ ..]) => {
            fields.push((field.clone(), (*part).to_owned()));
            matches(rest, more, fields)
        }
        ([Segment::Many(field), rest @ ..], parts) => {
            // What follows is literal, so what it takes is counted from the end.
            let Some(take) = parts.len().checked_sub(rest.len()) else { return false };
            let (mine, more) = parts.split_at(take);
            fields.push((field.clone(), mine.join("/")));
            matches(rest, more, fields)
        }
        _ => false,
    }
}
