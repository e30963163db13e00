//! Reading and writing in one place: lengths, padding, and the action bits of unknown parameters.

use crate::{Cause, DecodeError, EncodeError, ParameterType};

/// Whose habits the bytes follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compat {
    /// RFC 5352-5354 to the letter.
    #[default]
    Rfc,
    /// rsplib 3.5: registration life in milliseconds (G8), padding after the last nested parameter counted (G5),
    /// PE identifier in keep-alives (G10), round robin named in answers to resolutions, no encapsulation port; encoding
    /// demands what its parser demands (G26, G27): server information and checksum in presences, usable ASAP transports
    /// between registrars.
    Rsplib,
}

/// A decoded message and what has to be reported about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<'a, M> {
    pub message: M,
    /// One cause per skipped parameter whose action bits ask for a report; at most 16 are kept.
    pub unrecognized: Vec<Cause<'a>>,
}

/// More unknown parameters than this in one message are skipped without a report: answers stay small.
const MAX_REPORTED: usize = 16;

/// Takes bytes off the front; never beyond the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, what }
    }

    pub(crate) const fn what(&self) -> &'static str {
        self.what
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(DecodeError::Short {
                what: self.what,
                needed: count,
                got: self.rest.len(),
            });
        };
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn octets<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.array()
    }

    pub(crate) fn sub(&mut self, what: &'static str, count: usize) -> Result<Self, DecodeError> {
        Ok(Self { rest: self.take(count)?, what })
    }

    /// Rejects what is left over.
    pub(crate) const fn end(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing { what: self.what, extra }),
        }
    }

    /// The next type-length-value, whatever its type; `None` at the end. Skips the padding, which the enclosing
    /// length may or may not count (G5) and whose content is ignored (RFC 5354, section 4).
    pub(crate) fn tlv(&mut self) -> Result<Option<Tlv<'a>>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let start = self.rest;
        let number = self.u16()?;
        let length = usize::from(self.u16()?);
        let Some(value_length) = length.checked_sub(4) else {
            return Err(DecodeError::BadLength { what: self.what, length });
        };
        let value = self.take(value_length)?;
        let padding = (length.next_multiple_of(4) - length).min(self.rest.len());
        self.take(padding)?;
        Ok(Some(Tlv { number, value, whole: &start[..length] }))
    }
}

/// One type-length-value without its padding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tlv<'a> {
    pub(crate) number: u16,
    pub(crate) value: &'a [u8],
    pub(crate) whole: &'a [u8],
}

/// A known parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameter<'a> {
    pub(crate) kind: ParameterType,
    pub(crate) value: Reader<'a>,
}

/// What decoding one message carries along.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) compat: Compat,
    pub(crate) unrecognized: Vec<Cause<'a>>,
}

impl<'a> Context<'a> {
    pub(crate) const fn new(compat: Compat) -> Self {
        Self { compat, unrecognized: Vec::new() }
    }

    /// The next known parameter; unknown ones are treated by their action bits (RFC 5354, section 4):
    /// 00 discard the message, 01 discard and report, 10 skip, 11 skip and report.
    pub(crate) fn parameter(
        &mut self,
        reader: &mut Reader<'a>,
    ) -> Result<Option<Parameter<'a>>, DecodeError> {
        self.parameter_or(None, reader)
    }

    /// As [`Self::parameter`]. Of the known parameters that are to be skipped by whoever does not know them, only
    /// `option` has a meaning here; the others are skipped like unknown ones.
    pub(crate) fn parameter_or(
        &mut self,
        option: Option<ParameterType>,
        reader: &mut Reader<'a>,
    ) -> Result<Option<Parameter<'a>>, DecodeError> {
        while let Some(tlv) = reader.tlv()? {
            let kind = ParameterType(tlv.number);
            if let Some(name) = kind.name() {
                if kind.action().skip && option != Some(kind) {
                    continue;
                }
                return Ok(Some(Parameter { kind, value: Reader::new(name, tlv.value) }));
            }
            let action = kind.action();
            if !action.skip {
                let report = action
                    .report
                    .then(|| Box::new(Cause::unrecognized_parameter(tlv.whole).into_owned()));
                return Err(DecodeError::UnknownParameter { parameter: kind, report });
            }
            if action.report && self.unrecognized.len() < MAX_REPORTED {
                self.unrecognized.push(Cause::unrecognized_parameter(tlv.whole));
            }
        }
        Ok(None)
    }
}

/// Fills `slot` once; a second parameter of the kind is one too many.
pub(crate) fn put<T>(
    slot: &mut Option<T>,
    value: T,
    what: &'static str,
    parameter: ParameterType,
) -> Result<(), DecodeError> {
    if slot.is_some() {
        return Err(DecodeError::Unexpected { what, parameter });
    }
    *slot = Some(value);
    Ok(())
}

/// Demands that `slot` was filled.
pub(crate) fn need<T>(
    slot: Option<T>,
    what: &'static str,
    parameter: ParameterType,
) -> Result<T, DecodeError> {
    slot.ok_or(DecodeError::Missing { what, parameter })
}

/// A message header: type, flags, length and the value, without the padding of the message.
pub(crate) struct Header<'a> {
    pub(crate) number: u8,
    pub(crate) flags: u8,
    pub(crate) value: Reader<'a>,
    /// The message without its padding.
    pub(crate) whole: &'a [u8],
}

impl<'a> Header<'a> {
    /// RFC 5354, section 3: Message Length leaves out the padding at the end of the message.
    pub(crate) fn decode(what: &'static str, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(what, bytes);
        let number = reader.u8()?;
        let flags = reader.u8()?;
        let length = usize::from(reader.u16()?);
        let Some(value_length) = length.checked_sub(4) else {
            return Err(DecodeError::BadLength { what, length });
        };
        let value = reader.sub(what, value_length)?;
        let padding = (length.next_multiple_of(4) - length).min(reader.rest().len());
        reader.take(padding)?;
        reader.end()?;
        Ok(Self { number, flags, value, whole: &bytes[..length] })
    }
}

/// Appends to a message; lengths are filled in afterwards and checked.
#[derive(Debug)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    compat: Compat,
}

impl Writer {
    /// Begins a message.
    pub(crate) fn message(number: u8, flags: u8, compat: Compat) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[number, flags, 0, 0]);
        Self { bytes, compat }
    }

    /// A writer for single parameters that are embedded elsewhere as plain bytes.
    pub(crate) const fn fragment() -> Self {
        Self { bytes: Vec::new(), compat: Compat::Rfc }
    }

    pub(crate) const fn compat(&self) -> Compat {
        self.compat
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A parameter without nested ones.
    pub(crate) fn leaf(&mut self, kind: ParameterType, value: &[u8]) -> Result<(), EncodeError> {
        self.tlv(kind.0, name(kind), false, |writer| {
            writer.raw(value);
            Ok(())
        })
    }

    /// A parameter that ends with nested ones.
    pub(crate) fn nested(
        &mut self,
        kind: ParameterType,
        fill: impl FnOnce(&mut Self) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        self.tlv(kind.0, name(kind), true, fill)
    }

    /// Padding is written by whatever follows, so that the enclosing length leaves it out at the end; rsplib counts
    /// it there (G5).
    pub(crate) fn tlv(
        &mut self,
        number: u16,
        what: &'static str,
        nested: bool,
        fill: impl FnOnce(&mut Self) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        self.pad();
        let start = self.bytes.len();
        self.u16(number);
        self.u16(0);
        fill(self)?;
        if nested && self.compat == Compat::Rsplib {
            self.pad();
        }
        self.patch_length(start, what)
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn patch_length(&mut self, start: usize, what: &'static str) -> Result<(), EncodeError> {
        let length = self.bytes.len() - start;
        let field = u16::try_from(length).map_err(|_| EncodeError::TooLong { what, length })?;
        self.bytes[start + 2..start + 4].copy_from_slice(&field.to_be_bytes());
        Ok(())
    }

    pub(crate) fn finish(mut self, what: &'static str) -> Result<Vec<u8>, EncodeError> {
        if self.compat == Compat::Rsplib {
            self.pad();
        }
        self.patch_length(0, what)?;
        self.pad();
        Ok(self.bytes)
    }

    pub(crate) fn into_fragment(self) -> Vec<u8> {
        self.bytes
    }
}

fn name(kind: ParameterType) -> &'static str {
    kind.name().unwrap_or("parameter")
}
