//! Error causes and the Operation Error parameter that carries them (RFC 5354, section 3.12).

use crate::codec::{Context, Reader, Writer};
use crate::{CauseCode, DecodeError, EncodeError, ParameterType, Policy, PoolElement, Transport};
use std::borrow::Cow;

/// What went wrong, with the information that the code demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause<'a> {
    pub code: CauseCode,
    /// Cause-specific information, without padding.
    pub info: Cow<'a, [u8]>,
}

impl<'a> Cause<'a> {
    /// A cause that carries no information.
    pub const fn plain(code: CauseCode) -> Cause<'static> {
        Cause { code, info: Cow::Borrowed(&[]) }
    }

    /// RFC 5354, section 3.12.2: the complete TLV that was not recognized.
    pub const fn unrecognized_parameter(tlv: &'a [u8]) -> Self {
        Self { code: CauseCode::UNRECOGNIZED_PARAMETER, info: Cow::Borrowed(tlv) }
    }

    /// RFC 5354, section 3.12.3: the message that was not recognized, cut where it would not fit an ERROR.
    pub fn unrecognized_message(message: &'a [u8]) -> Self {
        let info = &message[..message.len().min(MAX_INFO)];
        Self { code: CauseCode::UNRECOGNIZED_MESSAGE, info: Cow::Borrowed(info) }
    }

    /// RFC 5354, section 3.12.4, for an invalid policy.
    ///
    /// # Errors
    /// When the policy's data does not fit a parameter.
    pub fn invalid_policy(policy: &Policy<'_>) -> Result<Cause<'static>, EncodeError> {
        Self::with(CauseCode::INVALID_VALUES, |writer| policy.encode(writer))
    }

    /// RFC 5354, section 3.12.4, for an invalid transport.
    ///
    /// # Errors
    /// When the transport does not fit a parameter.
    pub fn invalid_transport(transport: &Transport<'_>) -> Result<Cause<'static>, EncodeError> {
        Self::with(CauseCode::INVALID_VALUES, |writer| transport.encode(writer))
    }

    /// RFC 5354, section 3.12.4, for an element whose identifier or registration life is invalid.
    ///
    /// # Errors
    /// When the element does not fit a parameter.
    pub fn invalid_element(element: &PoolElement<'_>) -> Result<Cause<'static>, EncodeError> {
        Self::with(CauseCode::INVALID_VALUES, |writer| element.encode(writer))
    }

    /// RFC 5354, section 3.12.6: the pool's overall policy.
    ///
    /// # Errors
    /// When the policy's data does not fit a parameter.
    pub fn inconsistent_policy(policy: &Policy<'_>) -> Result<Cause<'static>, EncodeError> {
        Self::with(CauseCode::INCONSISTENT_POLICY, |writer| policy.encode(writer))
    }

    /// RFC 5354, section 3.12.8: a transport that shows the pool's transport type.
    ///
    /// # Errors
    /// When the transport does not fit a parameter.
    pub fn inconsistent_transport(
        transport: &Transport<'_>,
    ) -> Result<Cause<'static>, EncodeError> {
        Self::with(CauseCode::INCONSISTENT_TRANSPORT, |writer| transport.encode(writer))
    }

    fn with(
        code: CauseCode,
        fill: impl FnOnce(&mut Writer) -> Result<(), EncodeError>,
    ) -> Result<Cause<'static>, EncodeError> {
        let mut writer = Writer::fragment();
        fill(&mut writer)?;
        Ok(Cause { code, info: Cow::Owned(writer.into_fragment()) })
    }

    /// The policy in the information of [`CauseCode::INCONSISTENT_POLICY`]; rsplib sends none (G24).
    pub fn policy(&self) -> Option<Policy<'_>> {
        let parameter = self.parameter(&mut Context::new(Default::default()))?;
        (parameter.kind == ParameterType::POLICY).then(|| Policy::decode(parameter.value).ok())?
    }

    /// The transport in the information of [`CauseCode::INCONSISTENT_TRANSPORT`].
    pub fn transport(&self) -> Option<Transport<'_>> {
        let mut context = Context::new(Default::default());
        let parameter = self.parameter(&mut context)?;
        Transport::decode(&mut context, parameter).ok()?
    }

    fn parameter<'s>(&'s self, context: &mut Context<'s>) -> Option<crate::codec::Parameter<'s>> {
        context.parameter(&mut Reader::new("cause", &self.info)).ok()?
    }

    /// Copies what is borrowed.
    pub fn into_owned(self) -> Cause<'static> {
        Cause { code: self.code, info: Cow::Owned(self.info.into_owned()) }
    }
}

/// Room for the information of one cause in an ERROR message of either protocol, whose headers take 20 bytes.
const MAX_INFO: usize = (0xffff - 20) / 4 * 4;

/// One or more causes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationError<'a> {
    pub causes: Vec<Cause<'a>>,
}

impl<'a> From<Cause<'a>> for OperationError<'a> {
    fn from(cause: Cause<'a>) -> Self {
        Self { causes: vec![cause] }
    }
}

impl<'a> From<Vec<Cause<'a>>> for OperationError<'a> {
    fn from(causes: Vec<Cause<'a>>) -> Self {
        Self { causes }
    }
}

impl From<CauseCode> for OperationError<'static> {
    fn from(code: CauseCode) -> Self {
        Self::from(Cause::plain(code))
    }
}

impl<'a> OperationError<'a> {
    /// Whether a cause of this code is there.
    pub fn contains(&self, code: CauseCode) -> bool {
        self.causes.iter().any(|cause| cause.code == code)
    }

    /// Copies what is borrowed.
    pub fn into_owned(self) -> OperationError<'static> {
        OperationError { causes: self.causes.into_iter().map(Cause::into_owned).collect() }
    }

    /// As many of `causes` as fit an ERROR message.
    pub(crate) fn fitting(causes: &'a [Cause<'a>]) -> Self {
        let mut room = MAX_INFO + 4;
        let fits = |cause: &&Cause<'a>| {
            let size = 4 + cause.info.len().next_multiple_of(4);
            room.checked_sub(size).inspect(|rest| room = *rest).is_some()
        };
        let borrow =
            |cause: &'a Cause<'a>| Cause { code: cause.code, info: Cow::Borrowed(&cause.info) };
        Self { causes: causes.iter().take_while(fits).map(borrow).collect() }
    }

    pub(crate) fn decode(mut reader: Reader<'a>) -> Result<Self, DecodeError> {
        let mut causes = Vec::new();
        while let Some(tlv) = reader.tlv()? {
            causes.push(Cause { code: CauseCode(tlv.number), info: Cow::Borrowed(tlv.value) });
        }
        Ok(Self { causes })
    }

    pub(crate) fn encode(&self, writer: &mut Writer) -> Result<(), EncodeError> {
        writer.nested(ParameterType::OPERATION_ERROR, |writer| {
            self.causes.iter().try_for_each(|cause| {
                writer.tlv(cause.code.0, "error cause", false, |writer| {
                    writer.raw(&cause.info);
                    Ok(())
                })
            })
        })
    }
}
