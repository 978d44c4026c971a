//! How each message is written as JSON, worked out once from the descriptors.

use std::collections::HashMap;

use prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, Kind as Described, MessageDescriptor,
};

use super::{
    json,
    wire::{Width, Wire},
};

/// The plan of every message of a pool.
#[derive(Debug)]
pub(super) struct Plans {
    plans: Vec<Plan>,
    by_name: HashMap<String, usize>,
}

/// How a message is written.
#[derive(Debug)]
pub(super) enum Plan {
    Fields(Fields),
    Timestamp,
    Duration,
    Any,
}

/// A message that is an object of its fields.
#[derive(Debug)]
pub(super) struct Fields {
    /// As they are declared, which is the order of the JSON.
    pub(super) fields: Vec<Field>,
    /// Place in `fields` by number, sorted by number.
    places: Vec<(u32, usize)>,
}

/// A field.
#[derive(Debug)]
pub(super) struct Field {
    /// `"name":`.
    pub(super) key: String,
    /// The same with what stands there while it is unset; `None` leaves it out.
    pub(super) unset: Option<String>,
    pub(super) shape: Shape,
    pub(super) kind: Kind,
    /// The oneof that it is in.
    pub(super) oneof: Option<usize>,
}

/// How many values a field has.
#[derive(Debug)]
pub(super) enum Shape {
    One,
    List,
    /// With the kind of the keys.
    Map(Kind),
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Kind {
    Bool,
    Int32,
    Sint32,
    Uint32,
    Fixed32,
    Sfixed32,
    Int64,
    Sint64,
    Uint64,
    Fixed64,
    Sfixed64,
    Float,
    Double,
    Text,
    Bytes,
    /// With the names of its numbers, quoted.
    Enum(HashMap<i32, String>),
    /// With the place of its plan.
    Message(usize),
}

impl Plans {
    /// Plans for all messages of a pool.
    pub(super) fn read(pool: &DescriptorPool) -> Self {
        let messages: Vec<_> = pool.all_messages().collect();
        let by_name: HashMap<_, _> = messages
            .iter()
            .enumerate()
            .map(|(place, message)| (message.full_name().to_owned(), place))
            .collect();
        let plans = messages.iter().map(|message| Plan::read(message, &by_name)).collect();
        Self { plans, by_name }
    }

    /// The place of a message's plan.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The plan at a place.
    pub(super) fn at(&self, place: usize) -> &Plan {
        &self.plans[place]
    }
}

impl Plan {
    fn read(message: &MessageDescriptor, by_name: &HashMap<String, usize>) -> Self {
        match message.full_name() {
            "google.protobuf.Timestamp" => return Self::Timestamp,
            "google.protobuf.Duration" => return Self::Duration,
            "google.protobuf.Any" => return Self::Any,
            _ => {}
        }
        // A descriptor gives them by number; Go writes them as they are declared.
        let mut declared: Vec<_> = message.fields().collect();
        declared.sort_by_key(|field| field.path().last().copied());
        let mut places: Vec<_> =
            declared.iter().enumerate().map(|(place, field)| (field.number(), place)).collect();
        places.sort_unstable();
        let oneofs: Vec<_> = message.oneofs().map(|oneof| oneof.full_name().to_owned()).collect();
        let fields = declared.iter().map(|field| Field::read(field, &oneofs, by_name)).collect();
        Self::Fields(Fields { fields, places })
    }
}

impl Fields {
    /// The place of the field with this number that is written in this way.
    /// What does not fit is no field of ours, as it is for Go.
    pub(super) fn place(&self, number: u32, wire: &Wire<'_>) -> Option<usize> {
        let at = self.places.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        let place = self.places[at].1;
        let field = &self.fields[place];
        let packed = matches!(field.shape, Shape::List) && wire.width() == Width::Bytes;
        let fits =
            packed || matches!(field.shape, Shape::Map(_)) || field.kind.width() == wire.width();
        fits.then_some(place)
    }
}

impl Field {
    fn read(field: &FieldDescriptor, oneofs: &[String], by_name: &HashMap<String, usize>) -> Self {
        let mut key = String::new();
        json::text(field.json_name(), &mut key);
        key.push(':');
        let mut kind = Kind::read(&field.kind(), by_name);
        let mut shape = if field.is_list() { Shape::List } else { Shape::One };
        if let (true, Described::Message(entry)) = (field.is_map(), field.kind()) {
            kind = Kind::read(&entry.map_entry_value_field().kind(), by_name);
            shape = Shape::Map(Kind::read(&entry.map_entry_key_field().kind(), by_name));
        }
        let oneof = field.containing_oneof();
        let unset = match (&shape, &kind) {
            // Members of a oneof are left out, and an optional field is one.
            _ if oneof.is_some() => None,
            (Shape::List, _) => Some("[]".to_owned()),
            (Shape::Map(_), _) => Some("{}".to_owned()),
            (Shape::One, kind) => Some(kind.unset()),
        };
        let unset = unset.map(|unset| format!("{key}{unset}"));
        let oneof =
            oneof.and_then(|oneof| oneofs.iter().position(|name| name == oneof.full_name()));
        Self { key, unset, shape, kind, oneof }
    }
}

impl Kind {
    fn read(kind: &Described, by_name: &HashMap<String, usize>) -> Self {
        match kind {
            Described::Bool => Self::Bool,
            Described::Int32 => Self::Int32,
            Described::Sint32 => Self::Sint32,
            Described::Uint32 => Self::Uint32,
            Described::Fixed32 => Self::Fixed32,
            Described::Sfixed32 => Self::Sfixed32,
            Described::Int64 => Self::Int64,
            Described::Sint64 => Self::Sint64,
            Described::Uint64 => Self::Uint64,
            Described::Fixed64 => Self::Fixed64,
            Described::Sfixed64 => Self::Sfixed64,
            Described::Float => Self::Float,
            Described::Double => Self::Double,
            Described::String => Self::Text,
            Described::Bytes => Self::Bytes,
            Described::Enum(values) => Self::Enum(names(values)),
            // Every message that a field can have is in the same pool.
            Described::Message(message) => {
                Self::Message(by_name.get(message.full_name()).copied().unwrap_or_default())
            }
        }
    }

    /// How a value of this kind is written when it is not packed.
    pub(super) fn width(&self) -> Width {
        match self {
            Self::Fixed32 | Self::Sfixed32 | Self::Float => Width::Fixed32,
            Self::Fixed64 | Self::Sfixed64 | Self::Double => Width::Fixed64,
            Self::Text | Self::Bytes | Self::Message(_) => Width::Bytes,
            Self::Bool | Self::Int32 | Self::Sint32 | Self::Uint32 | Self::Enum(_) => Width::Varint,
            Self::Int64 | Self::Sint64 | Self::Uint64 => Width::Varint,
        }
    }

    /// What stands for it while it is unset.
    pub(super) fn unset(&self) -> String {
        match self {
            Self::Bool => "false".to_owned(),
            Self::Text | Self::Bytes => "\"\"".to_owned(),
            Self::Message(_) => "null".to_owned(),
            Self::Enum(names) => names.get(&0).cloned().unwrap_or_else(|| "0".to_owned()),
            Self::Int64 | Self::Sint64 | Self::Uint64 | Self::Fixed64 | Self::Sfixed64 => {
                "\"0\"".to_owned()
            }
            Self::Int32 | Self::Sint32 | Self::Uint32 | Self::Fixed32 | Self::Sfixed32 => {
                "0".to_owned()
            }
            Self::Float | Self::Double => "0".to_owned(),
        }
    }
}

/// Quoted; the first of several names of a number counts.
fn names(values: &EnumDescriptor) -> HashMap<i32, String> {
    let mut names = HashMap::new();
    for value in values.values() {
        names.entry(value.number()).or_insert_with(|| format!("\"{}\"", value.name()));
    }
    names
}
