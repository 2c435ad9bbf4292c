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
    #[cold]
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
    is_minimal: bool,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader {
            rest: bytes,
            is_minimal: true,
        }
    }

    /// Did every number so far take as few bytes as it can?
    #[inline]
    pub fn is_minimal(&self) -> bool {
        self.is_minimal
    }

    /// The next field, or `None` at the end. Inlined into every message's loop: the value stays in registers.
    #[inline(always)]
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

    /// Keys and lengths nearly always take one byte.
    #[inline(always)]
    fn varint(&mut self) -> Result<u64> {
        if let [first, rest @ ..] = self.rest {
            if *first < 0x80 {
                self.rest = rest;
                return Ok(u64::from(*first));
            }
        }
        match long_varint(self.rest) {
            Some((value, rest, is_minimal)) => {
                self.rest = rest;
                self.is_minimal &= is_minimal;
                Ok(value)
            }
            None => Err(Malformed::new("a number is cut off or too long")),
        }
    }

    #[inline(always)]
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

/// A number of more than one byte, what follows it, and whether it took as few bytes as it can.
#[inline]
fn long_varint(bytes: &[u8]) -> Option<(u64, &[u8], bool)> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        if index == 9 && *byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if *byte < 0x80 {
            return Some((value, &bytes[index + 1..], *byte != 0));
        }
    }
    None
}

/// Something a message can have as a field.
pub trait Field<'a>: Default {
    /// May the field come more than once and keep what came before?
    const IS_LIST: bool = false;
    /// Takes one occurrence; of a scalar the last one wins, messages merge, lists grow. Answers whether `write` would
    /// write the value just so (a default is not written).
    fn read(&mut self, value: Value<'a>) -> Result<bool>;
    /// Writes the field, or nothing where it has its default.
    fn write(&self, number: u32, out: &mut Vec<u8>);
    /// How many entries a list has; `None` for what is no list. For paths.
    fn entries(&self) -> Option<usize> {
        None
    }
}

/// A message: declared with [`messages!`].
pub trait Message<'a>: Default {
    /// Takes these fields too. Answers whether the bytes are canonical: for a message that was empty before, just what
    /// `write_fields` writes.
    fn merge(&mut self, bytes: &'a [u8]) -> Result<bool>;
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

/// An encoded message of one repeated field.
pub fn repeated<'a, M: Message<'a>>(number: u32, messages: impl Iterator<Item = M>) -> Vec<u8> {
    let mut out = Vec::with_capacity(44 * messages.size_hint().0);
    for message in messages {
        put_nested(number, &mut out, |out| message.write_fields(out));
    }
    out
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
    fn read(&mut self, value: Value<'a>) -> Result<bool> {
        *self = std::str::from_utf8(bytes(value)?)
            .map_err(|_| Malformed::new("the text is not UTF-8"))?;
        Ok(!self.is_empty())
    }
    #[inline]
    fn write(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(number, self.as_bytes(), out);
        }
    }
}

impl<'a> Field<'a> for &'a [u8] {
    fn read(&mut self, value: Value<'a>) -> Result<bool> {
        *self = bytes(value)?;
        Ok(!self.is_empty())
    }
    fn write(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(number, self, out);
        }
    }
}

impl<'a> Field<'a> for bool {
    fn read(&mut self, value: Value<'a>) -> Result<bool> {
        let number = varint(value)?;
        *self = number != 0;
        Ok(number == 1)
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
            fn read(&mut self, value: Value<'a>) -> Result<bool> {
                let number = varint(value)?;
                *self = number as $kind;
                Ok(number != 0 && i64::from(*self) == number as i64)
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
            fn read(&mut self, value: Value<'a>) -> Result<bool> {
                let number = varint(value)?;
                *self = Some(number as $kind);
                Ok(i64::from(number as $kind) == number as i64)
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
    fn read(&mut self, value: Value<'a>) -> Result<bool> {
        self.get_or_insert_with(M::default).merge(bytes(value)?)
    }
    fn write(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(message) = self {
            put_nested(number, out, |out| message.write_fields(out));
        }
    }
}

impl<'a, M: Message<'a>> Field<'a> for Vec<M> {
    const IS_LIST: bool = true;
    #[inline]
    fn read(&mut self, value: Value<'a>) -> Result<bool> {
        let content = bytes(value)?;
        // Read in its place: a line has 25 fields, and moving it costs more than reading some of them.
        self.push(M::default());
        let read = self
            .last_mut()
            .map_or(Ok(false), |last| last.merge(content));
        if read.is_err() {
            self.pop();
        }
        read
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
    const IS_LIST: bool = true;
    fn read(&mut self, value: Value<'a>) -> Result<bool> {
        let mut text = "";
        text.read(value)?;
        self.0.push(text);
        Ok(true)
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
            fn merge(&mut self, bytes: &'a [u8]) -> $crate::wire::Result<bool> {
                use $crate::wire::Field;
                let mut reader = $crate::wire::Reader::new(bytes);
                let (mut is_canonical, mut last) = (true, 0);
                while let Some((number, value)) = reader.next_field()? {
                    match number {
                        $($number => match self.$field.read(value) {
                            Ok(just_so) => {
                                let rises = number > last || <$kind as Field>::IS_LIST && number == last;
                                is_canonical &= just_so & rises;
                            }
                            Err(fault) => return Err(fault.within(stringify!($field), self.$field.entries())),
                        },)+
                        _ => return Err($crate::wire::unknown(number)),
                    }
                    last = number;
                }
                Ok(is_canonical && reader.is_minimal())
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
    fn only_what_would_be_written_again_is_canonical() {
        let merged = |bytes: &[u8]| {
            let mut outer = Outer::default();
            let is_canonical = outer.merge(bytes).expect("an Outer");
            assert_eq!(is_canonical, outer.encode() == bytes, "{bytes:?}");
            is_canonical
        };
        for canonical in [
            &[][..],
            &[0x0a, 0],                      // inner: {}
            &[0x12, 0, 0x12, 2, 0x10, 0],    // list: {} {amount: 0}
            &[0x18, 1, 0x20, 5],             // flag, number
            &[0x82, 1, 0, 0x82, 1, 1, b'p'], // texts: "" "p"
        ] {
            assert!(merged(canonical), "{canonical:?}");
        }
        for other in [
            &[0x20, 5, 0x18, 1][..],               // falling numbers
            &[0x18, 0],                            // a default
            &[0x18, 2],                            // another true
            &[0x20, 5, 0x20, 6],                   // twice
            &[0x20, 0x85, 0],                      // a number longer than need be
            &[0xa0, 0, 5],                         // a key longer than need be
            &[0x0a, 0x80, 0],                      // a length longer than need be
            &[0x0a, 2, 0x0a, 0],                   // a default inside
            &[0x0a, 0, 0x0a, 0],                   // a message twice
            &[0x20, 0x85, 0x80, 0x80, 0x80, 0x10], // bits that an i32 loses
        ] {
            assert!(!merged(other), "{other:?}");
        }
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
