//! Any message on the wire is the same JSON from both.

use proptest::{
    collection::{hash_map, vec},
    num, option,
    prelude::{BoxedStrategy, Just, Strategy, any},
    test_runner::{Config, TestCaseError, TestError, TestRunner},
};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::*;

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
    // Not the messages: each is told with all that is known of its type, without end.
    held.unwrap_or_else(|failure| match failure {
        TestError::Fail(difference, _) => panic!("{difference}"),
        TestError::Abort(why) => panic!("{why}"),
    });
}
