//! ASAP messages (RFC 5352, section 2.2).

use crate::codec::{Context, Header, Parameter, Reader, Writer, need, put};
use crate::element::{decode_pe_id, encode_pe_id};
use crate::number::report_unknown_message;
use crate::{
    AsapType, Cause, Compat, DecodeError, Decoded, EncodeError, OperationError, ParameterType,
    PeId, Policy, PoolElement, PoolHandle, ServerId, Transport,
};

const WHAT: &str = "ASAP message";
/// The only flag of any ASAP message.
const FLAG: u8 = 0x01;

/// What a pool consists of, as told to a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution<'a> {
    /// The pool's overall policy; absent means round robin. Its values mean nothing: those of the elements do.
    pub policy: Option<Policy<'a>>,
    /// At least one.
    pub elements: Vec<PoolElement<'a>>,
}

/// An ASAP message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// In failover order; at least one element.
    BusinessCard {
        handle: PoolHandle<'a>,
        elements: Vec<PoolElement<'a>>,
    },
    Cookie(&'a [u8]),
    CookieEcho(&'a [u8]),
    Deregistration {
        handle: PoolHandle<'a>,
        pe_id: PeId,
    },
    /// With an error: rejected.
    DeregistrationResponse {
        handle: PoolHandle<'a>,
        pe_id: PeId,
        error: Option<OperationError<'a>>,
    },
    EndpointKeepAlive {
        /// H flag: the sender wants to become the element's home.
        home: bool,
        server_id: ServerId,
        handle: PoolHandle<'a>,
        /// An extension of rsplib (G10), written only for it.
        pe_id: Option<PeId>,
    },
    EndpointKeepAliveAck {
        handle: PoolHandle<'a>,
        pe_id: PeId,
    },
    EndpointUnreachable {
        handle: PoolHandle<'a>,
        pe_id: PeId,
    },
    Error(OperationError<'a>),
    HandleResolution {
        /// S flag: the sender wants updates.
        subscribe: bool,
        handle: PoolHandle<'a>,
        /// Number of items wanted (draft asap-hropt); `u32::MAX`: all.
        items: Option<u32>,
    },
    HandleResolutionResponse {
        /// A flag: updates will follow.
        accepted: bool,
        handle: PoolHandle<'a>,
        /// Negative by the presence of an error alone (G23).
        outcome: Result<Resolution<'a>, OperationError<'a>>,
    },
    Registration {
        handle: PoolHandle<'a>,
        element: PoolElement<'a>,
    },
    RegistrationResponse {
        /// R flag. Without it an error is a warning that values were changed.
        reject: bool,
        handle: PoolHandle<'a>,
        pe_id: PeId,
        error: Option<OperationError<'a>>,
    },
    ServerAnnounce {
        server_id: ServerId,
        /// SCTP and TCP transports; none: SCTP at the source address, port 3863.
        transports: Vec<Transport<'a>>,
    },
}

/// Parameters of one message, sorted by kind; the order between kinds does not matter to us.
#[derive(Default)]
struct Slots<'a> {
    handle: Option<PoolHandle<'a>>,
    pe_id: Option<PeId>,
    policy: Option<Policy<'a>>,
    error: Option<OperationError<'a>>,
    cookie: Option<&'a [u8]>,
    items: Option<u32>,
    elements: Vec<PoolElement<'a>>,
    transports: Vec<Transport<'a>>,
}

impl<'a> Slots<'a> {
    fn read(
        context: &mut Context<'a>,
        reader: &mut Reader<'a>,
        allowed: &[ParameterType],
    ) -> Result<Self, DecodeError> {
        let what = reader.what();
        let mut slots = Self::default();
        let option = allowed.iter().copied().find(|kind| kind.action().skip);
        while let Some(Parameter { kind, mut value }) = context.parameter_or(option, reader)? {
            if !allowed.contains(&kind) {
                return Err(DecodeError::Unexpected { what, parameter: kind });
            }
            match kind {
                ParameterType::POOL_HANDLE => {
                    put(&mut slots.handle, PoolHandle(value.rest()), what, kind)?
                }
                ParameterType::PE_IDENTIFIER => {
                    put(&mut slots.pe_id, decode_pe_id(value)?, what, kind)?
                }
                ParameterType::POLICY => {
                    put(&mut slots.policy, Policy::decode(value)?, what, kind)?
                }
                ParameterType::OPERATION_ERROR => {
                    put(&mut slots.error, OperationError::decode(value)?, what, kind)?
                }
                ParameterType::COOKIE => put(&mut slots.cookie, value.rest(), what, kind)?,
                ParameterType::HANDLE_RESOLUTION_OPTION => {
                    put(&mut slots.items, value.u32()?, what, kind)?;
                    value.end()?;
                }
                ParameterType::POOL_ELEMENT => {
                    slots.elements.push(PoolElement::decode(context, value)?)
                }
                _ => match Transport::decode(context, Parameter { kind, value })? {
                    Some(transport) => slots.transports.push(transport),
                    None => return Err(DecodeError::Unexpected { what, parameter: kind }),
                },
            }
        }
        Ok(slots)
    }

    fn handle(&self) -> Result<PoolHandle<'a>, DecodeError> {
        need(self.handle, WHAT, ParameterType::POOL_HANDLE)
    }

    fn pe_id(&self) -> Result<PeId, DecodeError> {
        need(self.pe_id, WHAT, ParameterType::PE_IDENTIFIER)
    }

    fn some_elements(self) -> Result<Vec<PoolElement<'a>>, DecodeError> {
        if self.elements.is_empty() {
            return Err(DecodeError::Missing {
                what: WHAT,
                parameter: ParameterType::POOL_ELEMENT,
            });
        }
        Ok(self.elements)
    }
}

impl<'a> Message<'a> {
    /// Decodes one message; padding after it may be there or not.
    ///
    /// # Errors
    /// When the message is to be discarded; [`DecodeError::cause`] says what to report, if anything.
    pub fn decode(bytes: &'a [u8]) -> Result<Decoded<'a, Self>, DecodeError> {
        Self::decode_with(bytes, Compat::Rfc)
    }

    /// As [`Self::decode`], from a peer of that kind.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_with(bytes: &'a [u8], compat: Compat) -> Result<Decoded<'a, Self>, DecodeError> {
        let header = Header::decode(WHAT, bytes)?;
        let mut context = Context::new(compat);
        let is_error = header.number == AsapType::ERROR.0;
        let message = Self::decode_body(&mut context, header)
            .map_err(|error| if is_error { error.unreported() } else { error })?;
        if is_error {
            context.unrecognized.clear();
        }
        Ok(Decoded { message, unrecognized: context.unrecognized })
    }

    fn decode_body(context: &mut Context<'a>, header: Header<'a>) -> Result<Self, DecodeError> {
        use ParameterType as P;
        let flag = header.flags & FLAG != 0;
        let mut reader = header.value;
        let mut read = |allowed: &[P]| Slots::read(context, &mut reader, allowed);
        Ok(match AsapType(header.number) {
            AsapType::REGISTRATION => {
                let mut slots = read(&[P::POOL_HANDLE, P::POOL_ELEMENT])?;
                let element = slots.elements.pop();
                if !slots.elements.is_empty() {
                    return Err(DecodeError::Unexpected { what: WHAT, parameter: P::POOL_ELEMENT });
                }
                Self::Registration {
                    handle: slots.handle()?,
                    element: need(element, WHAT, P::POOL_ELEMENT)?,
                }
            }
            AsapType::DEREGISTRATION => {
                let slots = read(&[P::POOL_HANDLE, P::PE_IDENTIFIER])?;
                Self::Deregistration { handle: slots.handle()?, pe_id: slots.pe_id()? }
            }
            AsapType::REGISTRATION_RESPONSE => {
                let slots = read(&[P::POOL_HANDLE, P::PE_IDENTIFIER, P::OPERATION_ERROR])?;
                let (handle, pe_id) = (slots.handle()?, slots.pe_id()?);
                Self::RegistrationResponse { reject: flag, handle, pe_id, error: slots.error }
            }
            AsapType::DEREGISTRATION_RESPONSE => {
                let slots = read(&[P::POOL_HANDLE, P::PE_IDENTIFIER, P::OPERATION_ERROR])?;
                let (handle, pe_id) = (slots.handle()?, slots.pe_id()?);
                Self::DeregistrationResponse { handle, pe_id, error: slots.error }
            }
            AsapType::HANDLE_RESOLUTION => {
                let slots = read(&[P::POOL_HANDLE, P::HANDLE_RESOLUTION_OPTION])?;
                Self::HandleResolution {
                    subscribe: flag,
                    handle: slots.handle()?,
                    items: slots.items,
                }
            }
            AsapType::HANDLE_RESOLUTION_RESPONSE => {
                let mut slots =
                    read(&[P::POOL_HANDLE, P::POLICY, P::POOL_ELEMENT, P::OPERATION_ERROR])?;
                let handle = slots.handle()?;
                let outcome = match slots.error.take() {
                    Some(error) => Err(error),
                    None => Ok(Resolution {
                        policy: slots.policy.take(),
                        elements: slots.some_elements()?,
                    }),
                };
                Self::HandleResolutionResponse { accepted: flag, handle, outcome }
            }
            AsapType::ENDPOINT_KEEP_ALIVE => {
                let server_id = ServerId(reader.u32()?);
                let slots = Slots::read(context, &mut reader, &[P::POOL_HANDLE, P::PE_IDENTIFIER])?;
                Self::EndpointKeepAlive {
                    home: flag,
                    server_id,
                    handle: slots.handle()?,
                    pe_id: slots.pe_id,
                }
            }
            AsapType::ENDPOINT_KEEP_ALIVE_ACK => {
                let slots = read(&[P::POOL_HANDLE, P::PE_IDENTIFIER])?;
                Self::EndpointKeepAliveAck { handle: slots.handle()?, pe_id: slots.pe_id()? }
            }
            AsapType::ENDPOINT_UNREACHABLE => {
                let slots = read(&[P::POOL_HANDLE, P::PE_IDENTIFIER])?;
                Self::EndpointUnreachable { handle: slots.handle()?, pe_id: slots.pe_id()? }
            }
            AsapType::SERVER_ANNOUNCE => {
                let server_id = ServerId(reader.u32()?);
                let slots =
                    Slots::read(context, &mut reader, &[P::SCTP_TRANSPORT, P::TCP_TRANSPORT])?;
                Self::ServerAnnounce { server_id, transports: slots.transports }
            }
            AsapType::COOKIE => Self::Cookie(need(read(&[P::COOKIE])?.cookie, WHAT, P::COOKIE)?),
            AsapType::COOKIE_ECHO => {
                Self::CookieEcho(need(read(&[P::COOKIE])?.cookie, WHAT, P::COOKIE)?)
            }
            AsapType::BUSINESS_CARD => {
                // rsplib writes a policy too (G25); the form has no place for it.
                let slots = read(&[P::POOL_HANDLE, P::POLICY, P::POOL_ELEMENT])?;
                Self::BusinessCard { handle: slots.handle()?, elements: slots.some_elements()? }
            }
            AsapType::ERROR => {
                Self::Error(need(read(&[P::OPERATION_ERROR])?.error, WHAT, P::OPERATION_ERROR)?)
            }
            message => {
                let cause = || Box::new(Cause::unrecognized_message(header.whole).into_owned());
                let report = report_unknown_message(message.0).then(cause);
                return Err(DecodeError::UnknownAsap { message, report });
            }
        })
    }

    /// Encodes as the RFC says.
    ///
    /// # Errors
    /// When a length does not fit its field or a list that must not be empty is.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        self.encode_with(Compat::Rfc)
    }

    /// Encodes for a peer of that kind.
    ///
    /// # Errors
    /// As [`Self::encode`], or when the peer would reject the message.
    pub fn encode_with(&self, compat: Compat) -> Result<Vec<u8>, EncodeError> {
        let mut writer =
            Writer::message(self.number().0, if self.flag() { FLAG } else { 0 }, compat);
        self.encode_body(&mut writer)?;
        writer.finish(WHAT)
    }

    fn encode_body(&self, writer: &mut Writer) -> Result<(), EncodeError> {
        match self {
            Self::BusinessCard { handle, elements } => {
                handle.encode(writer)?;
                encode_elements(elements, writer)
            }
            Self::Cookie(cookie) | Self::CookieEcho(cookie) => {
                writer.leaf(ParameterType::COOKIE, cookie)
            }
            Self::Deregistration { handle, pe_id }
            | Self::EndpointKeepAliveAck { handle, pe_id }
            | Self::EndpointUnreachable { handle, pe_id } => {
                handle.encode(writer)?;
                encode_pe_id(*pe_id, writer)
            }
            Self::DeregistrationResponse { handle, pe_id, error }
            | Self::RegistrationResponse { reject: _, handle, pe_id, error } => {
                handle.encode(writer)?;
                encode_pe_id(*pe_id, writer)?;
                error.as_ref().map_or(Ok(()), |error| error.encode(writer))
            }
            Self::EndpointKeepAlive { home: _, server_id, handle, pe_id } => {
                writer.u32(server_id.0);
                handle.encode(writer)?;
                match pe_id {
                    Some(pe_id) if writer.compat() == Compat::Rsplib => {
                        encode_pe_id(*pe_id, writer)
                    }
                    _ => Ok(()),
                }
            }
            Self::Error(error) => error.encode(writer),
            Self::HandleResolution { subscribe: _, handle, items } => {
                handle.encode(writer)?;
                items.map_or(Ok(()), |items| {
                    writer.leaf(ParameterType::HANDLE_RESOLUTION_OPTION, &items.to_be_bytes())
                })
            }
            Self::HandleResolutionResponse { accepted: _, handle, outcome } => {
                handle.encode(writer)?;
                match outcome {
                    Ok(Resolution { policy, elements }) => {
                        // rsplib discards an answer without it, which means the same.
                        let default = (writer.compat() == Compat::Rsplib)
                            .then_some(&crate::Policy::RoundRobin);
                        policy.as_ref().or(default).map_or(Ok(()), |p| p.encode(writer))?;
                        encode_elements(elements, writer)
                    }
                    Err(error) => error.encode(writer),
                }
            }
            Self::Registration { handle, element } => {
                handle.encode(writer)?;
                element.encode(writer)
            }
            Self::ServerAnnounce { server_id, transports } => {
                writer.u32(server_id.0);
                transports.iter().try_for_each(|transport| transport.encode(writer))
            }
        }
    }

    const fn flag(&self) -> bool {
        match self {
            Self::EndpointKeepAlive { home: flag, .. }
            | Self::HandleResolution { subscribe: flag, .. }
            | Self::HandleResolutionResponse { accepted: flag, .. }
            | Self::RegistrationResponse { reject: flag, .. } => *flag,
            _ => false,
        }
    }

    /// The message's type.
    pub const fn number(&self) -> AsapType {
        match self {
            Self::BusinessCard { .. } => AsapType::BUSINESS_CARD,
            Self::Cookie(_) => AsapType::COOKIE,
            Self::CookieEcho(_) => AsapType::COOKIE_ECHO,
            Self::Deregistration { .. } => AsapType::DEREGISTRATION,
            Self::DeregistrationResponse { .. } => AsapType::DEREGISTRATION_RESPONSE,
            Self::EndpointKeepAlive { .. } => AsapType::ENDPOINT_KEEP_ALIVE,
            Self::EndpointKeepAliveAck { .. } => AsapType::ENDPOINT_KEEP_ALIVE_ACK,
            Self::EndpointUnreachable { .. } => AsapType::ENDPOINT_UNREACHABLE,
            Self::Error(_) => AsapType::ERROR,
            Self::HandleResolution { .. } => AsapType::HANDLE_RESOLUTION,
            Self::HandleResolutionResponse { .. } => AsapType::HANDLE_RESOLUTION_RESPONSE,
            Self::Registration { .. } => AsapType::REGISTRATION,
            Self::RegistrationResponse { .. } => AsapType::REGISTRATION_RESPONSE,
            Self::ServerAnnounce { .. } => AsapType::SERVER_ANNOUNCE,
        }
    }
}

fn encode_elements(elements: &[PoolElement<'_>], writer: &mut Writer) -> Result<(), EncodeError> {
    if elements.is_empty() {
        return Err(EncodeError::Empty { what: "list of pool elements" });
    }
    elements.iter().try_for_each(|element| element.encode(writer))
}

/// The ASAP_ERROR that reports `causes`, as many as fit; `None` if there are none.
pub fn error_reply(causes: &[Cause<'_>]) -> Option<Vec<u8>> {
    let error = OperationError::fitting(causes);
    if error.causes.is_empty() {
        return None;
    }
    Message::Error(error).encode().ok()
}
