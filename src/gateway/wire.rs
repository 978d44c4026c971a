//! Protobuf's wire format, read field by field without making messages of it.

/// The value of a field as it stands on the wire.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// How a number is written; texts and messages are always `Bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Varint,
    Fixed64,
    Fixed32,
    Bytes,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

const SHORT: Broken = Broken("it ends too early");

impl Wire<'_> {
    /// How it was written.
    pub(super) fn width(&self) -> Width {
        match self {
            Self::Varint(_) => Width::Varint,
            Self::Fixed64(_) => Width::Fixed64,
            Self::Fixed32(_) => Width::Fixed32,
            Self::Bytes(_) => Width::Bytes,
        }
    }
}

/// Takes the next field: its number and its value.
pub(super) fn field<'a>(bytes: &mut &'a [u8]) -> Result<(u32, Wire<'a>), Broken> {
    let tag = varint(bytes)?;
    let width = match tag & 7 {
        0 => Width::Varint,
        1 => Width::Fixed64,
        2 => Width::Bytes,
        5 => Width::Fixed32,
        _ => return Err(Broken("it has a group")),
    };
    let number = u32::try_from(tag >> 3).map_err(|_| Broken("a field's number is too large"))?;
    Ok((number, value(width, bytes)?))
}

/// Takes a value; packed numbers have no tags between them.
pub(super) fn value<'a>(width: Width, bytes: &mut &'a [u8]) -> Result<Wire<'a>, Broken> {
    Ok(match width {
        Width::Varint => Wire::Varint(varint(bytes)?),
        Width::Fixed64 => Wire::Fixed64(u64::from_le_bytes(fixed(bytes)?)),
        Width::Fixed32 => Wire::Fixed32(u32::from_le_bytes(fixed(bytes)?)),
        Width::Bytes => {
            let length = usize::try_from(varint(bytes)?).map_err(|_| SHORT)?;
            let (taken, rest) = bytes.split_at_checked(length).ok_or(SHORT)?;
            *bytes = rest;
            Wire::Bytes(taken)
        }
    })
}

fn fixed<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Broken> {
    let (taken, rest) = bytes.split_first_chunk().ok_or(SHORT)?;
    *bytes = rest;
    Ok(*taken)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Broken> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            *bytes = &bytes[at + 1..];
            return Ok(value);
        }
    }
    Err(SHORT)
}

/// The number that a sint field means.
pub(super) fn zigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// The text of a string field.
pub(super) fn utf8(bytes: &[u8]) -> Result<&str, Broken> {
    std::str::from_utf8(bytes).map_err(|_| Broken("a text is not UTF-8"))
}
