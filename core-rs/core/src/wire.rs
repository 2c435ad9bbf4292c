//! Protobuf on the wire: a reader that borrows and refuses what it does not know, a writer in field order.
//!
//! Own code because of three needs no library meets together: unknown fields are refused with their path (API section
//! 3), reading copies nothing, and writing is canonical (ascending fields, defaults left out), so that a fingerprint can
//! be taken over it. Messages are declared once with [`messages!`]; a test holds the numbers to the contract in `proto/`.

use std::fmt::Write as _;

/// Why bytes are not the message they should be. `path` names the place, outermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    pub path: String,
    pub what: &'static str,
}

impl Malformed {
    fn new(what: &'static str) -> Self {
        Malformed {
            path: String::new(),
            what,
        }
    }

    /// The same fault, seen from the message around it.
    pub fn within(mut self, field: &str, index: Option<usize>) -> Self {
        let mut path = field.to_owned();
        if let Some(index) = index {
            let _ = write!(path, "[{index}]");
        }
        if !self.path.is_empty() {
            path.push('.');
            path.push_str(&self.path);
        }
        self.path = path;
        self
    }
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(self.what),
            path => write!(f, "{path}: {}", self.what),
        }
    }
}

pub type Result<T> = std::result::Result<T, Malformed>;

/// A field's value as the wire carries it.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Fixed-width values: no message of ours has one.
    Fixed,
}

/// Reads fields one after the other.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// The next field, or `None` at the end.
    #[inline]
    pub fn next_field(&mut self) -> Result<Option<(u32, Value<'a>)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3)
            .map_err(|_| Malformed::new("a field number is out of range"))?;
        if number == 0 {
            return Err(Malformed::new("a field has number 0"));
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed
            }
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Value::Fixed
            }
            _ => return Err(Malformed::new("a field has a wire type that is not used")),
        };
        Ok(Some((number, value)))
    }

    #[inline]
    fn varint(&mut self) -> Result<u64> {
        if let [first, rest @ ..] = self.rest {
            if *first < 0x80 {
                self.rest = rest;
                return Ok(u64::from(*first));
            }
        }
        let mut value = 0u64;
        for (index, byte) in self.rest.iter().take(10).enumerate() {
            if index == 9 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(Malformed::new("a number is cut off or too long"))
    }

    #[inline]
    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        match usize::try_from(length) {
            Ok(length) if length <= self.rest.len() => {
                let (taken, rest) = self.rest.split_at(length);
                self.rest = rest;
                Ok(taken)
            }
            _ => Err(Malformed::new("a field is cut off")),
        }
    }
}

/// Something a message can have as a field.
pub trait Field<'a>: Default {
    /// Takes one occurrence; of a scalar the last one wins, messages merge, lists grow.
    fn read(&mut self, value: Value<'a>) -> Result<()>;
    /// Writes the field, or nothing where it has its default.
    fn write(&self, number: u32, out: &mut Vec<u8>);
    /// How many entries a list has; `None` for what is no list. For paths.
    fn entries(&self) -> Option<usize> {
        None
    }
}

/// A message: declared with [`messages!`].
pub trait Message<'a>: Default {
    fn merge(&mut self, bytes: &'a [u8]) -> Result<()>;
    fn write_fields(&self, out: &mut Vec<u8>);

    fn decode(bytes: &'a [u8]) -> Result<Self> {
        let mut message = Self::default();
        message.merge(bytes)?;
        Ok(message)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        self.write_fields(&mut out);
        out
    }
}

#[inline]
pub fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[inline]
fn put_key(number: u32, wire_type: u32, out: &mut Vec<u8>) {
    put_varint(u64::from(number << 3 | wire_type), out);
}

#[inline]
#[allow(clippy::cast_sign_loss)] // the wire carries negative numbers as their two's complement
pub fn put_int(number: u32, value: i64, out: &mut Vec<u8>) {
    put_key(number, 0, out);
    put_varint(value as u64, out);
}

#[inline]
pub fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_key(number, 2, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Writes a length-delimited field whose content `fill` appends.
#[inline]
pub fn put_nested(number: u32, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    put_key(number, 2, out);
    // Most contents are shorter than 128 bytes: room for a length of one byte, moved if it takes more.
    let at = out.len();
    out.push(0);
    fill(out);
    let length = out.len() - at - 1;
    if length < 0x80 {
        out[at] = length as u8;
    } else {
        let end = out.len();
        put_varint(length as u64, out);
        let width = out.len() - end;
        out[at + 1..].rotate_right(width);
        out.remove(at);
    }
}

fn varint(value: Value<'_>) -> Result<u64> {
    match value {
        Value::Varint(number) => Ok(number),
        _ => Err(Malformed::new("a number is wanted")),
    }
}

fn bytes(value: Value<'_>) -> Result<&[u8]> {
    match value {
        Value::Bytes(bytes) => Ok(bytes),
        _ => Err(Malformed::new("a text or message is wanted")),
    }
}

impl<'a> Field<'a> for &'a str {
    #[inline]
    fn read(&mut self, value: Value<'a>) -> Result<()> {
        *self = std::str::from_utf8(bytes(value)?)
            .map_err(|_| Malformed::new("the text is not UTF-8"))?;
        Ok(())
    }
    #[inline]
    fn write(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(number, self.as_bytes(), out);
        }
    }
}

impl<'a> Field<'a> for &'a [u8] {
    fn read(&mut self, value: Value<'a>) -> Result<()> {
        *self = bytes(value)?;
        Ok(())
    }
    fn write(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(number, self, out);
        }
    }
}

impl<'a> Field<'a> for bool {
    fn read(&mut self, value: Value<'a>) -> Result<()> {
        *self = varint(value)? != 0;
        Ok(())
    }
    fn write(&self, number: u32, out: &mut Vec<u8>) {
        if *self {
            put_int(number, 1, out);
        }
    }
}

macro_rules! integers {
    ($($kind:ty),+) => {$(
        impl<'a> Field<'a> for $kind {
            #[inline]
            #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // as every protobuf reader does
            fn read(&mut self, value: Value<'a>) -> Result<()> {
                *self = varint(value)? as $kind;
                Ok(())
            }
            #[inline]
            fn write(&self, number: u32, out: &mut Vec<u8>) {
                if *self != 0 {
                    put_int(number, i64::from(*self), out);
                }
            }
        }

        impl<'a> Field<'a> for Option<$kind> {
            #[inline]
            #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
            fn read(&mut self, value: Value<'a>) -> Result<()> {
                *self = Some(varint(value)? as $kind);
                Ok(())
            }
            #[inline]
            fn write(&self, number: u32, out: &mut Vec<u8>) {
                if let Some(value) = self {
                    put_int(number, i64::from(*value), out);
                }
            }
        }
    )+};
}
integers!(i32, i64);

impl<'a, M: Message<'a>> Field<'a> for Option<M> {
    fn read(&mut self, value: Value<'a>) -> Result<()> {
        self.get_or_insert_with(M::default).merge(bytes(value)?)
    }
    fn write(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(message) = self {
            put_nested(number, out, |out| message.write_fields(out));
        }
    }
}

impl<'a, M: Message<'a>> Field<'a> for Vec<M> {
    #[inline]
    fn read(&mut self, value: Value<'a>) -> Result<()> {
        let mut message = M::default();
        message.merge(bytes(value)?)?;
        self.push(message);
        Ok(())
    }
    fn write(&self, number: u32, out: &mut Vec<u8>) {
        for message in self {
            put_nested(number, out, |out| message.write_fields(out));
        }
    }
    fn entries(&self) -> Option<usize> {
        Some(self.len())
    }
}

/// A list of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts<'a>(pub Vec<&'a str>);

impl<'a> Field<'a> for Texts<'a> {
    fn read(&mut self, value: Value<'a>) -> Result<()> {
        let mut text = "";
        text.read(value)?;
        self.0.push(text);
        Ok(())
    }
    fn write(&self, number: u32, out: &mut Vec<u8>) {
        for text in &self.0 {
            put_bytes(number, text.as_bytes(), out);
        }
    }
    fn entries(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

/// Declares messages: `struct Name { number field: Type, .. }`, numbers ascending. Every struct borrows from its bytes.
#[macro_export]
macro_rules! messages {
    ($($(#[$meta:meta])* struct $name:ident { $($number:literal $field:ident: $kind:ty),+ $(,)? })+) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name<'a> {
            $(pub $field: $kind,)+
            pub of: std::marker::PhantomData<&'a ()>,
        }

        impl<'a> $crate::wire::Message<'a> for $name<'a> {
            fn merge(&mut self, bytes: &'a [u8]) -> $crate::wire::Result<()> {
                use $crate::wire::Field;
                let mut reader = $crate::wire::Reader::new(bytes);
                while let Some((number, value)) = reader.next_field()? {
                    match number {
                        $($number => if let Err(fault) = self.$field.read(value) {
                            return Err(fault.within(stringify!($field), self.$field.entries()));
                        },)+
                        _ => return Err($crate::wire::unknown(number)),
                    }
                }
                Ok(())
            }

            fn write_fields(&self, out: &mut Vec<u8>) {
                use $crate::wire::Field;
                $(self.$field.write($number, out);)+
            }
        }
    )+};
}

/// A field the message does not have.
#[cold]
pub fn unknown(number: u32) -> Malformed {
    Malformed {
        path: format!("field {number}"),
        what: "the message has no such field",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    messages! {
        struct Inner { 1 text: &'a str, 2 amount: Option<i64> }
        struct Outer { 1 inner: Option<Inner<'a>>, 2 list: Vec<Inner<'a>>, 3 flag: bool, 4 number: i32, 16 texts: Texts<'a> }
    }

    #[test]
    fn a_message_reads_back_what_it_wrote() {
        let long = "x".repeat(300);
        let outer = Outer {
            inner: Some(Inner {
                text: &long,
                amount: Some(-1),
                ..Default::default()
            }),
            list: vec![
                Inner::default(),
                Inner {
                    text: "a",
                    amount: Some(0),
                    ..Default::default()
                },
            ],
            flag: true,
            number: -5,
            texts: Texts(vec!["p", "q"]),
            ..Default::default()
        };
        let bytes = outer.encode();
        assert_eq!(Outer::decode(&bytes), Ok(outer));
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_path() {
        let mut bytes = Vec::new();
        put_nested(2, &mut bytes, |out| put_int(9, 1, out));
        let fault = Outer::decode(&bytes).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "list[0].field 9: the message has no such field"
        );
    }

    #[test]
    fn whatever_the_bytes_nothing_panics() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for length in 0..2_000usize {
            let bytes: Vec<u8> = (0..length % 40)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    (seed & 0x3f) as u8
                })
                .collect();
            let _ = Outer::decode(&bytes);
        }
    }
}
