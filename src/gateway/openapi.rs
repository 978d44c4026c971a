//! The OpenAPI 3.1 document, from the same descriptors as the bridge.

use std::collections::BTreeSet;

use prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
};
use serde_json::{Map, Value, json};

use super::rules::{Rule, Rules};

/// The document.
pub(super) fn document(pool: &DescriptorPool, rules: &Rules) -> Value {
    let mut paths = Map::new();
    let mut schemas = Schemas::default();
    let mut rules: Vec<&Rule> = rules.0.iter().collect();
    rules.sort_by(|a, b| (&a.template, a.method.as_str()).cmp(&(&b.template, b.method.as_str())));
    for rule in rules {
        let operation = operation(rule, pool, &mut schemas);
        let path = paths.entry(template(rule)).or_insert_with(|| json!({}));
        path[rule.method.as_str().to_lowercase()] = operation;
    }
    let mut components = schemas.finish();
    components.insert("Error".to_owned(), error_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "container-svc",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A small, typed, safe API in front of one node's Docker engine.",
        },
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": components,
        },
    })
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "required": ["error", "code", "message", "details"],
        "properties": {
            "error": {"type": "string", "description": "What was wrong and what to do."},
            "code": {"type": "integer", "description": "gRPC status code."},
            "message": {"type": "string", "description": "The same as error."},
            "details": {"type": "array", "items": {"type": "object"}},
        },
    })
}

/// `{field=**}` is one parameter here; a slash in it may be written %2F.
fn template(rule: &Rule) -> String {
    let input = rule.rpc.input();
    let part = |part: &str| match part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
        None => part.to_owned(),
        Some(field) => {
            let name = field.split('=').next().unwrap_or(field);
            let json = input.get_field_by_name(name).map(|field| field.json_name().to_owned());
            format!("{{{}}}", json.unwrap_or_else(|| name.to_owned()))
        }
    };
    rule.template.split('/').map(part).collect::<Vec<_>>().join("/")
}

fn operation(rule: &Rule, pool: &DescriptorPool, schemas: &mut Schemas) -> Value {
    let rpc = &rule.rpc;
    let path = template(rule);
    let mut parameters = Vec::new();
    for field in rpc.input().fields() {
        let in_path = path.contains(&format!("{{{}}}", field.json_name()));
        if rule.body == "*" && !in_path {
            continue;
        }
        parameters.push(json!({
            "name": field.json_name(),
            "in": if in_path { "path" } else { "query" },
            "required": in_path,
            "description": comment(pool, field.parent_file().name(), field.path()),
            "schema": schemas.field(&field),
        }));
    }
    let told = comment(pool, rpc.parent_service().parent_file().name(), rpc.path());
    let (kind, note) = match rpc.is_server_streaming() {
        true => (
            json!({"type": "object", "properties": {"result": schemas.message(&rpc.output())}}),
            "A line of JSON for each message; events where text/event-stream is accepted.",
        ),
        false => (schemas.message(&rpc.output()), "The answer."),
    };
    let mut operation = json!({
        "operationId": format!("{}{}", rpc.name(), suffix(rule)),
        "tags": [rpc.parent_service().name()],
        "summary": told.split("\n\n").next().unwrap_or_default().replace('\n', " "),
        "description": told,
        "parameters": parameters,
        "responses": {
            "200": {"description": note, "content": {"application/json": {"schema": kind}}},
            "default": {
                "description": "An error.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    });
    if rule.body == "*" {
        let schema = schemas.message(&rpc.input());
        operation["requestBody"] =
            json!({"required": true, "content": {"application/json": {"schema": schema}}});
    }
    if let Some(permission) = permission(rpc, pool) {
        operation["x-permission"] = permission.into();
    }
    operation
}

/// Two bindings of one RPC need two operation ids.
fn suffix(rule: &Rule) -> &'static str {
    if rule.method == http::Method::POST && rule.template == "/container-svc/container" {
        "ByPost"
    } else {
        ""
    }
}

fn permission(rpc: &MethodDescriptor, pool: &DescriptorPool) -> Option<String> {
    let option = pool.get_extension_by_name("containersvc.v1.access")?;
    let options = rpc.options();
    let access = options.get_extension(&option);
    let permission = access.as_message()?.get_field_by_name("permission")?;
    permission.as_str().map(str::to_owned)
}

/// The comment in the proto above what a path of numbers leads to.
fn comment(pool: &DescriptorPool, file: &str, path: &[i32]) -> String {
    let file = pool.get_file_by_name(file);
    let proto = file.as_ref().map(|file| file.file_descriptor_proto());
    let locations = proto.and_then(|proto| proto.source_code_info.as_ref());
    let found = locations.and_then(|info| info.location.iter().find(|l| l.path == path));
    let text = found.map_or("", |location| location.leading_comments());
    text.lines().map(str::trim).collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// Schemas of messages, each once.
#[derive(Default)]
struct Schemas {
    done: Map<String, Value>,
    started: BTreeSet<String>,
}

impl Schemas {
    fn finish(self) -> Map<String, Value> {
        self.done
    }

    fn message(&mut self, message: &MessageDescriptor) -> Value {
        match message.full_name() {
            "google.protobuf.Timestamp" => return json!({"type": "string", "format": "date-time"}),
            "google.protobuf.Duration" => {
                return json!({"type": "string", "pattern": "^-?[0-9]{1,9}(\\.[0-9]{1,9})?s$"});
            }
            _ => {}
        }
        let name = message.name().to_owned();
        if self.started.insert(name.clone()) {
            let file = message.parent_file();
            let pool = message.parent_pool();
            let mut properties = Map::new();
            for field in message.fields() {
                let mut schema = self.field(&field);
                let told = comment(pool, file.name(), field.path());
                if !told.is_empty() {
                    schema["description"] = told.into();
                }
                properties.insert(field.json_name().to_owned(), schema);
            }
            let told = comment(pool, file.name(), message.path());
            let schema = json!({"type": "object", "description": told, "properties": properties});
            self.done.insert(name.clone(), schema);
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        let one = match field.kind() {
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                json!({"type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX})
            }
            Kind::Uint32 | Kind::Fixed32 => {
                json!({"type": "integer", "minimum": 0, "maximum": u32::MAX})
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint64 | Kind::Fixed64 => {
                json!({"type": "string", "format": "int64"})
            }
            Kind::Float | Kind::Double => json!({"type": "number"}),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Enum(values) => enumeration(&values),
            Kind::Message(message) if !field.is_map() => {
                let schema = self.message(&message);
                let nullable = field.containing_oneof().is_none() && !field.is_list();
                match nullable {
                    true => json!({"anyOf": [schema, {"type": "null"}]}),
                    false => json!({"allOf": [schema]}),
                }
            }
            Kind::Message(_) => json!({"type": "object"}),
        };
        match field.is_list() {
            true => json!({"type": "array", "items": one}),
            false => one,
        }
    }
}

fn enumeration(values: &EnumDescriptor) -> Value {
    let names: Vec<String> = values.values().map(|value| value.name().to_owned()).collect();
    json!({"type": "string", "enum": names})
}
