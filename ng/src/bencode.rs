//! Bencode: integers, byte strings, lists, dictionaries. Decoding is strict and bounded; encoding writes at once.

use std::borrow::Cow;

use crate::MAX_DATAGRAM;

/// Deepest nesting that is decoded; rtpengine's deepest answer (`query`) has nine levels.
pub const MAX_DEPTH: usize = 16;
/// Most values that one message may hold: bounds the memory of what is decoded to half a megabyte.
pub const MAX_VALUES: usize = 16_384;

/// One decoded value. Strings are bytes: nothing says that they are text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Integer(i64),
    Bytes(&'a [u8]),
    List(Vec<Self>),
    Dict(Dict<'a>),
}

/// A dictionary in the order of its bytes. Keys come in any order and may come more than once, as rtpengine accepts it;
/// [`Dict::get`] finds the last one, which is the one that counts in an offer there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dict<'a> {
    pub entries: Vec<(&'a [u8], Value<'a>)>,
}

/// Why bytes are not one value in bencode, and where that shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault} at byte {offset}")]
pub struct DecodeError {
    pub offset: usize,
    pub fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    #[error("not a value")]
    NotAValue,
    #[error("not a number, or not the shortest form of it")]
    BadNumber,
    #[error("a number beyond what is held")]
    NumberTooBig,
    #[error("the end, inside a value")]
    Truncated,
    #[error("a key that is not a string")]
    BadKey,
    #[error("a key without a value")]
    NoValue,
    #[error("bytes behind the value")]
    Trailing,
    #[error("nested too deeply")]
    TooDeep,
    #[error("too many values")]
    TooMany,
    #[error("longer than a datagram")]
    TooLong,
}

impl<'a> Value<'a> {
    /// The one value that `bytes` are.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_DATAGRAM {
            return Err(DecodeError { offset: MAX_DATAGRAM, fault: Fault::TooLong });
        }
        let mut decoder = Decoder { bytes, at: 0, left: MAX_VALUES };
        let value = decoder.value(0)?;
        if decoder.at < bytes.len() {
            return Err(decoder.error(Fault::Trailing));
        }
        Ok(value)
    }

    pub const fn as_integer(&self) -> Option<i64> {
        if let Self::Integer(integer) = self { Some(*integer) } else { None }
    }

    pub const fn as_bytes(&self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    pub fn as_list(&self) -> Option<&[Self]> {
        if let Self::List(list) = self { Some(list) } else { None }
    }

    pub const fn as_dict(&self) -> Option<&Dict<'a>> {
        if let Self::Dict(dict) = self { Some(dict) } else { None }
    }

    /// A number, also one that is written as a string: clients do both.
    pub fn to_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(integer) => Some(*integer),
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.trim().parse().ok(),
            Self::List(_) | Self::Dict(_) => None,
        }
    }

    pub fn encode(&self, into: &mut Encoder) {
        match self {
            Self::Integer(integer) => into.integer(*integer),
            Self::Bytes(bytes) => into.bytes(bytes),
            Self::List(list) => into.list(|into| list.iter().for_each(|value| value.encode(into))),
            Self::Dict(dict) => into.dict(|into| {
                for (key, value) in &dict.entries {
                    into.value(key, value);
                }
            }),
        }
    }
}

impl<'a> Dict<'a> {
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<&Value<'a>> {
        let key = key.as_ref();
        self.entries.iter().rev().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    pub fn bytes(&self, key: impl AsRef<[u8]>) -> Option<&'a [u8]> {
        self.get(key)?.as_bytes()
    }

    /// A string for people; what is not UTF-8 in it is replaced.
    pub fn text(&self, key: impl AsRef<[u8]>) -> Option<Cow<'a, str>> {
        self.bytes(key).map(String::from_utf8_lossy)
    }

    pub fn integer(&self, key: impl AsRef<[u8]>) -> Option<i64> {
        self.get(key)?.to_integer()
    }

    pub fn list(&self, key: impl AsRef<[u8]>) -> Option<&[Value<'a>]> {
        self.get(key)?.as_list()
    }

    pub fn dict(&self, key: impl AsRef<[u8]>) -> Option<&Self> {
        self.get(key)?.as_dict()
    }
}

struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
    left: usize,
}

impl<'a> Decoder<'a> {
    const fn error(&self, fault: Fault) -> DecodeError {
        DecodeError { offset: self.at, fault }
    }

    fn peek(&self) -> Result<u8, DecodeError> {
        self.bytes.get(self.at).copied().ok_or_else(|| self.error(Fault::Truncated))
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, DecodeError> {
        if depth >= MAX_DEPTH {
            return Err(self.error(Fault::TooDeep));
        }
        self.left = self.left.checked_sub(1).ok_or_else(|| self.error(Fault::TooMany))?;
        match self.peek()? {
            b'i' => {
                self.at += 1;
                self.integer().map(Value::Integer)
            }
            b'0'..=b'9' => self.string().map(Value::Bytes),
            b'l' => {
                self.at += 1;
                let mut list = Vec::new();
                while self.peek()? != b'e' {
                    list.push(self.value(depth + 1)?);
                }
                self.at += 1;
                Ok(Value::List(list))
            }
            b'd' => {
                self.at += 1;
                let mut entries = Vec::new();
                while self.peek()? != b'e' {
                    if !self.peek()?.is_ascii_digit() {
                        return Err(self.error(Fault::BadKey));
                    }
                    let key = self.string()?;
                    if self.peek()? == b'e' {
                        return Err(self.error(Fault::NoValue));
                    }
                    entries.push((key, self.value(depth + 1)?));
                }
                self.at += 1;
                Ok(Value::Dict(Dict { entries }))
            }
            _ => Err(self.error(Fault::NotAValue)),
        }
    }

    fn integer(&mut self) -> Result<i64, DecodeError> {
        let start = self.at;
        let negative = self.peek()? == b'-';
        self.at += usize::from(negative);
        // Counted downwards: the lowest number has no positive counterpart.
        let mut number = 0_i64;
        let digits = self.at;
        while let digit @ b'0'..=b'9' = self.peek()? {
            number = number
                .checked_mul(10)
                .and_then(|number| number.checked_sub(i64::from(digit - b'0')))
                .ok_or(DecodeError { offset: start, fault: Fault::NumberTooBig })?;
            self.at += 1;
        }
        let leading_zero = self.bytes[digits] == b'0' && (negative || self.at - digits > 1);
        if self.peek()? != b'e' || self.at == digits || leading_zero {
            return Err(DecodeError { offset: start, fault: Fault::BadNumber });
        }
        self.at += 1;
        if negative {
            return Ok(number);
        }
        number.checked_neg().ok_or(DecodeError { offset: start, fault: Fault::NumberTooBig })
    }

    fn string(&mut self) -> Result<&'a [u8], DecodeError> {
        let start = self.at;
        let mut length = 0_usize;
        while let digit @ b'0'..=b'9' = self.peek()? {
            length = length * 10 + usize::from(digit - b'0');
            if length > MAX_DATAGRAM {
                return Err(DecodeError { offset: start, fault: Fault::NumberTooBig });
            }
            self.at += 1;
        }
        let leading_zero = self.bytes[start] == b'0' && self.at - start > 1;
        if self.peek()? != b':' || leading_zero {
            return Err(DecodeError { offset: start, fault: Fault::BadNumber });
        }
        self.at += 1;
        let string = self
            .bytes
            .get(self.at..self.at + length)
            .ok_or(DecodeError { offset: start, fault: Fault::Truncated })?;
        self.at += length;
        Ok(string)
    }
}

/// Writes values one behind the other.
#[derive(Clone, Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// Goes on behind `bytes`.
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn integer(&mut self, integer: i64) {
        self.bytes.push(b'i');
        if integer < 0 {
            self.bytes.push(b'-');
        }
        self.digits(integer.unsigned_abs());
        self.bytes.push(b'e');
    }

    pub fn bytes(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.digits(bytes.len() as u64);
        self.bytes.push(b':');
        self.bytes.extend_from_slice(bytes);
    }

    pub fn list(&mut self, write: impl FnOnce(&mut Self)) {
        self.bytes.push(b'l');
        write(self);
        self.bytes.push(b'e');
    }

    pub fn dict(&mut self, write: impl FnOnce(&mut DictEncoder<'_>)) {
        self.bytes.push(b'd');
        write(&mut DictEncoder { into: self });
        self.bytes.push(b'e');
    }

    fn digits(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.bytes.extend_from_slice(&digits[at..]);
    }
}

/// Writes the entries of one dictionary, in the order in which they are given.
#[derive(Debug)]
pub struct DictEncoder<'e> {
    into: &'e mut Encoder,
}

impl<'e> DictEncoder<'e> {
    pub(crate) const fn new(into: &'e mut Encoder) -> Self {
        Self { into }
    }

    fn key(&mut self, key: impl AsRef<[u8]>) -> &mut Encoder {
        self.into.bytes(key);
        self.into
    }

    pub fn integer(&mut self, key: impl AsRef<[u8]>, integer: i64) {
        self.key(key).integer(integer);
    }

    /// A counter; beyond the largest integer it stays there.
    pub fn count(&mut self, key: impl AsRef<[u8]>, count: u64) {
        self.integer(key, i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub fn bytes(&mut self, key: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) {
        self.key(key).bytes(bytes);
    }

    pub fn list(&mut self, key: impl AsRef<[u8]>, write: impl FnOnce(&mut Encoder)) {
        self.key(key).list(write);
    }

    pub fn dict(&mut self, key: impl AsRef<[u8]>, write: impl FnOnce(&mut DictEncoder<'_>)) {
        self.key(key).dict(write);
    }

    /// A list of strings.
    pub fn strings<S: AsRef<[u8]>>(
        &mut self,
        key: impl AsRef<[u8]>,
        strings: impl IntoIterator<Item = S>,
    ) {
        self.list(key, |list| strings.into_iter().for_each(|string| list.bytes(string)));
    }

    pub fn value(&mut self, key: impl AsRef<[u8]>, value: &Value<'_>) {
        value.encode(self.key(key));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault(bytes: &[u8]) -> (usize, Fault) {
        let error = Value::decode(bytes).unwrap_err();
        (error.offset, error.fault)
    }

    fn encoded(value: &Value<'_>) -> Vec<u8> {
        let mut encoder = Encoder::default();
        value.encode(&mut encoder);
        encoder.into_bytes()
    }

    #[test]
    fn values_of_every_kind() {
        let bytes = b"d4:listli0ei-7e0:e3:nuli9223372036854775807e3:lowi-9223372036854775808ee";
        let value = Value::decode(bytes).unwrap();
        let dict = value.as_dict().unwrap();
        assert_eq!(
            dict.list("list").unwrap(),
            [Value::Integer(0), Value::Integer(-7), Value::Bytes(b"")]
        );
        assert_eq!(dict.integer("nul"), Some(i64::MAX));
        assert_eq!(dict.integer("low"), Some(i64::MIN));
        assert_eq!(dict.get("none"), None);
        assert_eq!(encoded(&value), bytes);
    }

    #[test]
    fn of_keys_that_come_twice_the_last_counts() {
        let value = Value::decode(b"d1:b1:x1:a1:y1:b1:ze").unwrap();
        let dict = value.as_dict().unwrap();
        assert_eq!(dict.entries.len(), 3);
        assert_eq!(dict.bytes("b"), Some(&b"z"[..]));
        assert_eq!(dict.bytes("a"), Some(&b"y"[..]));
    }

    #[test]
    fn numbers_may_be_strings() {
        assert_eq!(Value::Bytes(b" 17").to_integer(), Some(17));
        assert_eq!(Value::Bytes(b"17s").to_integer(), None);
        assert_eq!(Value::Integer(-1).to_integer(), Some(-1));
    }

    #[test]
    fn what_is_malformed_says_where() {
        assert_eq!(fault(b""), (0, Fault::Truncated));
        assert_eq!(fault(b"x"), (0, Fault::NotAValue));
        assert_eq!(fault(b"e"), (0, Fault::NotAValue));
        assert_eq!(fault(b"i5"), (2, Fault::Truncated));
        for number in
            ["ie", "i-e", "i-0e", "i05e", "i00e", "i-05e", "i+5e", "i 5e", "i5xe", "i5.0e"]
        {
            assert_eq!(fault(number.as_bytes()), (1, Fault::BadNumber), "{number}");
        }
        assert_eq!(fault(b"i9223372036854775808e"), (1, Fault::NumberTooBig));
        assert_eq!(fault(b"i-9223372036854775809e"), (1, Fault::NumberTooBig));
        assert_eq!(fault(b"l01:ae"), (1, Fault::BadNumber));
        assert_eq!(fault(b"l5xe"), (1, Fault::BadNumber));
        assert_eq!(fault(b"l5:abce"), (1, Fault::Truncated));
        assert_eq!(fault(b"99999999999999999999999:a"), (0, Fault::NumberTooBig));
        assert_eq!(fault(b"l"), (1, Fault::Truncated));
        assert_eq!(fault(b"d1:a1:b"), (7, Fault::Truncated));
        assert_eq!(fault(b"di1e1:ae"), (1, Fault::BadKey));
        assert_eq!(fault(b"dl1:ae"), (1, Fault::BadKey));
        assert_eq!(fault(b"d1:ae"), (4, Fault::NoValue));
        assert_eq!(fault(b"1:ab"), (3, Fault::Trailing));
        assert_eq!(fault(b"d1:a1:be\r\n"), (8, Fault::Trailing));
    }

    #[test]
    fn depth_number_and_length_are_bounded() {
        let nested = |depth: usize| [vec![b'l'; depth], vec![b'e'; depth]].concat();
        assert!(Value::decode(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(fault(&nested(MAX_DEPTH + 1)), (MAX_DEPTH, Fault::TooDeep));
        assert_eq!(fault(&nested(MAX_DATAGRAM / 2)), (MAX_DEPTH, Fault::TooDeep));

        let many = |count: usize| [b"l".to_vec(), b"0:".repeat(count), b"e".to_vec()].concat();
        assert!(Value::decode(&many(MAX_VALUES - 1)).is_ok());
        assert_eq!(fault(&many(MAX_VALUES)).1, Fault::TooMany);

        let long = |length: usize| [format!("{length}:").into_bytes(), vec![0; length]].concat();
        assert!(Value::decode(&long(MAX_DATAGRAM - 6)).is_ok());
        assert_eq!(fault(&long(MAX_DATAGRAM - 5)), (MAX_DATAGRAM, Fault::TooLong));
    }

    /// A value that owns its strings, to be borrowed from.
    #[derive(Clone, Debug)]
    enum Owned {
        Integer(i64),
        Bytes(Vec<u8>),
        List(Vec<Self>),
        Dict(Vec<(Vec<u8>, Self)>),
    }

    impl Owned {
        fn value(&self) -> Value<'_> {
            match self {
                Self::Integer(integer) => Value::Integer(*integer),
                Self::Bytes(bytes) => Value::Bytes(bytes),
                Self::List(list) => Value::List(list.iter().map(Self::value).collect()),
                Self::Dict(dict) => Value::Dict(Dict {
                    entries: dict.iter().map(|(key, value)| (&key[..], value.value())).collect(),
                }),
            }
        }
    }

    fn any_value() -> impl Strategy<Value = Owned> {
        let string = || prop::collection::vec(any::<u8>(), 0..20);
        let leaf =
            prop_oneof![any::<i64>().prop_map(Owned::Integer), string().prop_map(Owned::Bytes)];
        leaf.prop_recursive(6, 100, 8, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Owned::List),
                prop::collection::vec((string(), inner), 0..8).prop_map(Owned::Dict),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes_to_the_same(owned in any_value()) {
            let value = owned.value();
            let bytes = encoded(&value);
            prop_assert_eq!(Value::decode(&bytes).unwrap(), value);
        }

        #[test]
        fn whatever_decodes_has_one_encoding(bytes in "[dlie0-9:-]{0,40}") {
            if let Ok(value) = Value::decode(bytes.as_bytes()) {
                prop_assert_eq!(encoded(&value), bytes.into_bytes());
            }
        }

        #[test]
        fn damage_never_panics_and_is_located(
            owned in any_value(),
            cut in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = encoded(&owned.value());
            let cut = cut.index(bytes.len());
            prop_assert!(Value::decode(&bytes[..cut]).unwrap_err().offset <= cut);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Err(error) = Value::decode(&bytes) {
                prop_assert!(error.offset <= bytes.len());
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Value::decode(&bytes);
        }
    }
}
