//! Refuses a JSON body that says the same twice: whoever reads it would have to
//! guess which one is meant.

use std::{collections::BTreeSet, fmt};

use prost_reflect::{Kind, MessageDescriptor};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A value of which every part may stand once.
#[derive(Debug, Clone)]
pub(super) enum Once {
    /// A message, by its descriptor.
    Message(MessageDescriptor),
    /// A map, with what its values are.
    Map(Box<Once>),
    /// A number, a text, or what is not known: nothing to look at.
    Anything,
}

impl Once {
    fn of(kind: &Kind) -> Self {
        match kind {
            Kind::Message(message) => Self::Message(message.clone()),
            _ => Self::Anything,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Once {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        match self {
            Self::Anything => from.deserialize_ignored_any(IgnoredAny).map(drop),
            _ => from.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Once {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            // A field has two names in JSON: its own and that of the proto.
            let (name, inner) = match &self {
                Self::Map(values) => (key, (**values).clone()),
                Self::Anything => (key, Self::Anything),
                Self::Message(message) => {
                    let field = message.get_field_by_json_name(&key);
                    let Some(field) = field.or_else(|| message.get_field_by_name(&key)) else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    let inner = match field.kind() {
                        Kind::Message(entry) if field.is_map() => {
                            Self::Map(Box::new(Self::of(&entry.map_entry_value_field().kind())))
                        }
                        kind => Self::of(&kind),
                    };
                    (field.json_name().to_owned(), inner)
                }
            };
            let twice = seen.contains(&name).then(|| format!("\"{name}\" is there twice"));
            if let Some(twice) = twice {
                return Err(A::Error::custom(twice));
            }
            seen.insert(name);
            map.next_value_seed(inner)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self.clone())?.is_some() {}
        Ok(())
    }

    // What is of the wrong type is told when the message is read.
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
