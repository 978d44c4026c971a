//! Writes messages as JSON straight from their wire bytes, as grpc-gateway does
//! by default: every field that is not optional is there, an unset message is
//! null, 64-bit numbers are texts.

use std::collections::BTreeMap;

use prost_reflect::DescriptorPool;

use super::{
    json::{base64, double, duration, plain, quoted, single, text, timestamp},
    plan::{Fields, Kind, Plan, Plans, Shape},
    wire::{self, Broken, Width, Wire, utf8, zigzag},
};

/// Messages in messages; prost has the same limit.
const DEEPEST: usize = 100;

impl Plans {
    /// Writes a message whose plan is at a place.
    pub(super) fn write(&self, place: usize, bytes: &[u8], out: &mut String) -> Result<(), Broken> {
        Writer { plans: self, out, found: Vec::new(), depth: 0 }.message(place, bytes)
    }
}

/// Writes messages of one type outside the bridge, as the bridge would.
#[derive(Debug)]
pub struct Printer {
    plans: Plans,
    place: usize,
}

impl Printer {
    /// For the message with this full name; `None` when there is none.
    pub fn of(pool: &DescriptorPool, name: &str) -> Option<Self> {
        let plans = Plans::read(pool);
        plans.find(name).map(|place| Self { plans, place })
    }

    /// A message in its binary form as JSON; `None` when it is broken.
    pub fn text(&self, message: &[u8]) -> Option<String> {
        let mut text = String::new();
        self.plans.write(self.place, message, &mut text).ok().map(|()| text)
    }
}

struct Writer<'p, 'o, 'a> {
    plans: &'p Plans,
    out: &'o mut String,
    /// A stack: the values of each message that is being written, by the place
    /// of their field. One allocation serves all of them.
    found: Vec<(usize, Wire<'a>)>,
    depth: usize,
}

impl<'a> Writer<'_, '_, 'a> {
    fn message(&mut self, place: usize, bytes: &'a [u8]) -> Result<(), Broken> {
        if self.depth == DEEPEST {
            return Err(Broken("it is too deep"));
        }
        self.depth += 1;
        match self.plans.at(place) {
            Plan::Fields(fields) => self.object(fields, bytes)?,
            Plan::Timestamp => timestamp(bytes, self.out)?,
            Plan::Duration => duration(bytes, self.out)?,
            Plan::Any => self.any(bytes)?,
        }
        self.depth -= 1;
        Ok(())
    }

    fn object(&mut self, fields: &Fields, bytes: &'a [u8]) -> Result<(), Broken> {
        let base = self.found.len();
        self.find(fields, bytes)?;
        // The wire may have any order. Mostly it has ours, and nothing is moved.
        if !self.found[base..].is_sorted_by_key(|(place, _)| *place) {
            self.found[base..].sort_by_key(|(place, _)| *place);
        }

        let (end, mut at) = (self.found.len(), base);
        let mut separator = '{';
        for (place, field) in fields.fields.iter().enumerate() {
            let from = at;
            while at < end && self.found[at].0 == place {
                at += 1;
            }
            let head = match &field.unset {
                _ if from < at => &field.key,
                Some(unset) => unset,
                None => continue,
            };
            self.out.push(separator);
            separator = ',';
            self.out.push_str(head);
            if from < at {
                match &field.shape {
                    Shape::One => self.last(&field.kind, from, at)?,
                    Shape::List => self.list(&field.kind, from, at)?,
                    Shape::Map(keys) => self.map(keys, &field.kind, from, at)?,
                }
            }
        }
        self.out.push_str(if separator == '{' { "{}" } else { "}" });
        self.found.truncate(base);
        Ok(())
    }

    /// Puts the values of a message onto the stack.
    fn find(&mut self, fields: &Fields, mut bytes: &'a [u8]) -> Result<(), Broken> {
        let base = self.found.len();
        while !bytes.is_empty() {
            let (number, value) = wire::field(&mut bytes)?;
            let Some(place) = fields.place(number, &value) else { continue };
            if let Some(oneof) = fields.fields[place].oneof {
                // Of a oneof, the last member counts.
                let others = |&(other, _): &(usize, Wire<'_>)| {
                    other != place && fields.fields[other].oneof == Some(oneof)
                };
                while let Some(other) = self.found[base..].iter().position(others) {
                    self.found.remove(base + other);
                }
            }
            self.found.push((place, value));
        }
        Ok(())
    }

    /// The last value counts; of a message, all do, one after the other.
    fn last(&mut self, kind: &Kind, from: usize, to: usize) -> Result<(), Broken> {
        let Kind::Message(place) = kind else { return self.value(kind, self.found[to - 1].1) };
        if to - from == 1 {
            return self.value(kind, self.found[from].1);
        }
        let pieces = self.found[from..to].iter().filter_map(|(_, value)| match value {
            Wire::Bytes(bytes) => Some(*bytes),
            _ => None,
        });
        let merged = pieces.collect::<Vec<_>>().concat();
        let Self { plans, depth, .. } = *self;
        Writer { plans, out: self.out, found: Vec::new(), depth }.message(*place, &merged)
    }

    fn list(&mut self, kind: &Kind, from: usize, to: usize) -> Result<(), Broken> {
        let width = kind.width();
        let mut separator = '[';
        for at in from..to {
            match self.found[at].1 {
                Wire::Bytes(mut packed) if width != Width::Bytes => {
                    while !packed.is_empty() {
                        self.out.push(separator);
                        separator = ',';
                        self.value(kind, wire::value(width, &mut packed)?)?;
                    }
                }
                value => {
                    self.out.push(separator);
                    separator = ',';
                    self.value(kind, value)?;
                }
            }
        }
        self.out.push_str(if separator == '[' { "[]" } else { "]" });
        Ok(())
    }

    fn map(&mut self, keys: &Kind, kind: &Kind, from: usize, to: usize) -> Result<(), Broken> {
        let mut entries = BTreeMap::new();
        for (_, entry) in &self.found[from..to] {
            let Wire::Bytes(mut entry) = *entry else { continue };
            let (mut key, mut value) = (None, None);
            while !entry.is_empty() {
                match wire::field(&mut entry)? {
                    (1, found) if found.width() == keys.width() => key = Some(found),
                    (2, found) if found.width() == kind.width() => value = Some(found),
                    _ => {}
                }
            }
            entries.insert(Key::read(keys, key)?, value);
        }
        let mut separator = '{';
        for (key, value) in entries {
            self.out.push(separator);
            separator = ',';
            match key {
                Key::Text(key) => text(key, self.out),
                Key::Signed(key) => quoted(key, self.out),
                Key::Unsigned(key) => quoted(key, self.out),
                Key::Bool(key) => quoted(key, self.out),
            }
            self.out.push(':');
            match (value, kind) {
                (Some(value), _) => self.value(kind, value)?,
                (None, Kind::Message(place)) => self.message(*place, &[])?,
                (None, _) => self.out.push_str(&kind.unset()),
            }
        }
        self.out.push('}');
        Ok(())
    }

    fn value(&mut self, kind: &Kind, value: Wire<'a>) -> Result<(), Broken> {
        let out = &mut *self.out;
        match (kind, value) {
            (Kind::Bool, Wire::Varint(value)) => plain(value != 0, out),
            (Kind::Int32, Wire::Varint(value)) => plain(value as i32, out),
            (Kind::Sint32, Wire::Varint(value)) => plain(zigzag(value & 0xffff_ffff), out),
            (Kind::Uint32, Wire::Varint(value)) => plain(value as u32, out),
            (Kind::Fixed32, Wire::Fixed32(value)) => plain(value, out),
            (Kind::Sfixed32, Wire::Fixed32(value)) => plain(value.cast_signed(), out),
            (Kind::Int64, Wire::Varint(value)) => quoted(value.cast_signed(), out),
            (Kind::Sint64, Wire::Varint(value)) => quoted(zigzag(value), out),
            (Kind::Uint64, Wire::Varint(value)) => quoted(value, out),
            (Kind::Fixed64, Wire::Fixed64(value)) => quoted(value, out),
            (Kind::Sfixed64, Wire::Fixed64(value)) => quoted(value.cast_signed(), out),
            (Kind::Float, Wire::Fixed32(value)) => single(f32::from_bits(value), out),
            (Kind::Double, Wire::Fixed64(value)) => double(f64::from_bits(value), out),
            (Kind::Enum(names), Wire::Varint(value)) => match names.get(&(value as i32)) {
                Some(name) => out.push_str(name),
                None => plain(value as i32, out),
            },
            (Kind::Text, Wire::Bytes(value)) => text(utf8(value)?, out),
            (Kind::Bytes, Wire::Bytes(value)) => base64(value, out),
            (Kind::Message(place), Wire::Bytes(value)) => return self.message(*place, value),
            _ => return Err(Broken("a value is not of its kind")),
        }
        Ok(())
    }

    /// With `@type` beside the fields of a type that we know, else its bytes.
    fn any(&mut self, mut bytes: &'a [u8]) -> Result<(), Broken> {
        let (mut url, mut inner): (&[u8], &[u8]) = (&[], &[]);
        while !bytes.is_empty() {
            match wire::field(&mut bytes)? {
                (1, Wire::Bytes(value)) => url = value,
                (2, Wire::Bytes(value)) => inner = value,
                _ => {}
            }
        }
        let url = utf8(url)?;
        if url.is_empty() && inner.is_empty() {
            self.out.push_str("{}");
            return Ok(());
        }
        self.out.push_str("{\"@type\":");
        text(url, self.out);
        let known = self.plans.find(url.rsplit('/').next().unwrap_or_default());
        match known.map(|place| (place, self.plans.at(place))) {
            Some((place, Plan::Fields(_))) => {
                let from = self.out.len();
                self.message(place, inner)?;
                // Its fields follow in the same object.
                let none = self.out.len() - from == 2;
                self.out.replace_range(from..=from, if none { "" } else { "," });
                return Ok(());
            }
            Some((place, _)) => {
                self.out.push_str(",\"value\":");
                self.message(place, inner)?;
            }
            None => {
                self.out.push_str(",\"value\":");
                base64(inner, self.out);
            }
        }
        self.out.push('}');
        Ok(())
    }
}

/// A key of a map, sorted as Go sorts them.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Text(&'a str),
}

impl<'a> Key<'a> {
    fn read(kind: &Kind, wire: Option<Wire<'a>>) -> Result<Self, Broken> {
        let number = match wire {
            Some(Wire::Bytes(text)) => return Ok(Self::Text(utf8(text)?)),
            Some(Wire::Varint(number) | Wire::Fixed64(number)) => number,
            Some(Wire::Fixed32(number)) => number.into(),
            None => 0,
        };
        Ok(match kind {
            Kind::Text => Self::Text(""),
            Kind::Bool => Self::Bool(number != 0),
            Kind::Int32 | Kind::Sfixed32 => Self::Signed((number as i32).into()),
            Kind::Sint32 => Self::Signed(zigzag(number & 0xffff_ffff)),
            Kind::Int64 | Kind::Sfixed64 => Self::Signed(number.cast_signed()),
            Kind::Sint64 => Self::Signed(zigzag(number)),
            Kind::Uint32 => Self::Unsigned((number as u32).into()),
            _ => Self::Unsigned(number),
        })
    }
}
