//! ENRP messages (RFC 5353, section 2).

use crate::codec::{Context, Header, Parameter, Reader, Writer, need, put};
use crate::number::report_unknown_message;
use crate::{
    Cause, Compat, DecodeError, Decoded, EncodeError, EnrpType, OperationError, ParameterType,
    PoolElement, PoolHandle, ServerId, ServerInformation, UpdateAction,
};

const WHAT: &str = "ENRP message";
const FLAG_0: u8 = 0x01;
const FLAG_1: u8 = 0x02;

/// A pool with elements, as registrars hand it to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolEntry<'a> {
    pub handle: PoolHandle<'a>,
    /// At least one.
    pub elements: Vec<PoolElement<'a>>,
}

/// An ENRP message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    pub sender: ServerId,
    /// [`ServerId::NONE`] to the group, and allowed point-to-point too.
    pub receiver: ServerId,
    pub body: Body<'a>,
}

/// What an ENRP message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    Error(OperationError<'a>),
    HandleTableRequest {
        /// W flag.
        own_children_only: bool,
    },
    HandleTableResponse {
        /// R flag.
        reject: bool,
        /// M flag: another request fetches more.
        more: bool,
        pools: Vec<PoolEntry<'a>>,
    },
    HandleUpdate {
        /// T flag (draft enrp-takeover): the receiver should take this element over.
        takeover_suggested: bool,
        action: UpdateAction,
        handle: PoolHandle<'a>,
        element: Box<PoolElement<'a>>,
    },
    InitTakeover {
        target: ServerId,
    },
    InitTakeoverAck {
        target: ServerId,
    },
    ListRequest,
    ListResponse {
        /// R flag.
        reject: bool,
        servers: Vec<ServerInformation>,
    },
    Presence {
        /// R flag, bit 0 (G4).
        reply_required: bool,
        /// Checksum of what the sender owns.
        checksum: Option<u16>,
        server: Option<ServerInformation>,
    },
    TakeoverServer {
        target: ServerId,
    },
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
        let is_error = header.number == EnrpType::ERROR.0;
        let message = Self::decode_value(&mut context, header)
            .map_err(|error| if is_error { error.unreported() } else { error })?;
        if is_error {
            context.unrecognized.clear();
        }
        Ok(Decoded { message, unrecognized: context.unrecognized })
    }

    fn decode_value(context: &mut Context<'a>, header: Header<'a>) -> Result<Self, DecodeError> {
        let number = EnrpType(header.number);
        // An unknown message need not have the two identifiers.
        if number.name().is_none() {
            let cause = || Box::new(Cause::unrecognized_message(header.whole).into_owned());
            let report = report_unknown_message(number.0).then(cause);
            return Err(DecodeError::UnknownEnrp { message: number, report });
        }
        let mut reader = header.value;
        let sender = ServerId(reader.u32()?);
        let receiver = ServerId(reader.u32()?);
        let flag_0 = header.flags & FLAG_0 != 0;
        let flag_1 = header.flags & FLAG_1 != 0;
        let body = match number {
            EnrpType::PRESENCE => presence(context, &mut reader, flag_0)?,
            EnrpType::HANDLE_TABLE_REQUEST => {
                Body::HandleTableRequest { own_children_only: flag_0 }
            }
            EnrpType::HANDLE_TABLE_RESPONSE => Body::HandleTableResponse {
                reject: flag_0,
                more: flag_1,
                pools: pools(context, &mut reader)?,
            },
            EnrpType::HANDLE_UPDATE => {
                let action = UpdateAction(reader.u16()?);
                reader.u16()?;
                update(context, &mut reader, flag_0, action)?
            }
            EnrpType::LIST_REQUEST => Body::ListRequest,
            EnrpType::LIST_RESPONSE => {
                Body::ListResponse { reject: flag_0, servers: servers(context, &mut reader)? }
            }
            EnrpType::INIT_TAKEOVER => Body::InitTakeover { target: ServerId(reader.u32()?) },
            EnrpType::INIT_TAKEOVER_ACK => {
                Body::InitTakeoverAck { target: ServerId(reader.u32()?) }
            }
            EnrpType::TAKEOVER_SERVER => Body::TakeoverServer { target: ServerId(reader.u32()?) },
            _ => Body::Error(error(context, &mut reader)?),
        };
        // What the bodies above have consumed leaves nothing but, in those without parameters, unknown ones.
        match context.parameter(&mut reader)? {
            None => Ok(Self { sender, receiver, body }),
            Some(parameter) => {
                Err(DecodeError::Unexpected { what: WHAT, parameter: parameter.kind })
            }
        }
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
        let mut writer = Writer::message(self.body.number().0, self.body.flags(), compat);
        writer.u32(self.sender.0);
        writer.u32(self.receiver.0);
        self.body.encode(&mut writer)?;
        writer.finish(WHAT)
    }
}

impl Body<'_> {
    /// The message's type.
    pub const fn number(&self) -> EnrpType {
        match self {
            Self::Error(_) => EnrpType::ERROR,
            Self::HandleTableRequest { .. } => EnrpType::HANDLE_TABLE_REQUEST,
            Self::HandleTableResponse { .. } => EnrpType::HANDLE_TABLE_RESPONSE,
            Self::HandleUpdate { .. } => EnrpType::HANDLE_UPDATE,
            Self::InitTakeover { .. } => EnrpType::INIT_TAKEOVER,
            Self::InitTakeoverAck { .. } => EnrpType::INIT_TAKEOVER_ACK,
            Self::ListRequest => EnrpType::LIST_REQUEST,
            Self::ListResponse { .. } => EnrpType::LIST_RESPONSE,
            Self::Presence { .. } => EnrpType::PRESENCE,
            Self::TakeoverServer { .. } => EnrpType::TAKEOVER_SERVER,
        }
    }

    fn flags(&self) -> u8 {
        let (flag_0, flag_1) = match self {
            Self::HandleTableRequest { own_children_only } => (*own_children_only, false),
            Self::HandleTableResponse { reject, more, .. } => (*reject, *more),
            Self::HandleUpdate { takeover_suggested, .. } => (*takeover_suggested, false),
            Self::ListResponse { reject, .. } => (*reject, false),
            Self::Presence { reply_required, .. } => (*reply_required, false),
            _ => (false, false),
        };
        u8::from(flag_0) * FLAG_0 + u8::from(flag_1) * FLAG_1
    }

    fn encode(&self, writer: &mut Writer) -> Result<(), EncodeError> {
        match self {
            Self::Error(error) => error.encode(writer),
            Self::HandleTableRequest { .. } | Self::ListRequest => Ok(()),
            Self::HandleTableResponse { pools, .. } => pools.iter().try_for_each(|pool| {
                if pool.elements.is_empty() {
                    return Err(EncodeError::Empty { what: "pool entry" });
                }
                pool.handle.encode(writer)?;
                pool.elements
                    .iter()
                    .try_for_each(|element| element.encode_between_registrars(writer))
            }),
            Self::HandleUpdate { takeover_suggested: _, action, handle, element } => {
                writer.u16(action.0);
                writer.u16(0);
                handle.encode(writer)?;
                element.encode_between_registrars(writer)
            }
            Self::InitTakeover { target }
            | Self::InitTakeoverAck { target }
            | Self::TakeoverServer { target } => {
                writer.u32(target.0);
                Ok(())
            }
            Self::ListResponse { servers, .. } => {
                servers.iter().try_for_each(|server| server.encode(writer))
            }
            Self::Presence { reply_required: _, checksum, server } => {
                if writer.compat() == Compat::Rsplib && (checksum.is_none() || server.is_none()) {
                    return Err(EncodeError::RsplibRequires {
                        what: "checksum and server information",
                    });
                }
                if let Some(checksum) = checksum {
                    writer.leaf(ParameterType::PE_CHECKSUM, &checksum.to_be_bytes())?;
                }
                server.as_ref().map_or(Ok(()), |server| server.encode(writer))
            }
        }
    }
}

fn presence<'a>(
    context: &mut Context<'a>,
    reader: &mut Reader<'a>,
    reply_required: bool,
) -> Result<Body<'a>, DecodeError> {
    let (mut checksum, mut server) = (None, None);
    while let Some(Parameter { kind, mut value }) = context.parameter(reader)? {
        match kind {
            ParameterType::PE_CHECKSUM => {
                put(&mut checksum, value.u16()?, WHAT, kind)?;
                value.end()?;
            }
            ParameterType::SERVER_INFORMATION => {
                put(&mut server, ServerInformation::decode(context, value)?, WHAT, kind)?;
            }
            parameter => return Err(DecodeError::Unexpected { what: WHAT, parameter }),
        }
    }
    Ok(Body::Presence { reply_required, checksum, server })
}

/// Pool Handle and its Pool Elements, repeated; here the order matters.
fn pools<'a>(
    context: &mut Context<'a>,
    reader: &mut Reader<'a>,
) -> Result<Vec<PoolEntry<'a>>, DecodeError> {
    let mut pools: Vec<PoolEntry<'a>> = Vec::new();
    let empty = |pools: &[PoolEntry<'_>]| pools.last().is_some_and(|pool| pool.elements.is_empty());
    let missing = Err(DecodeError::Missing { what: WHAT, parameter: ParameterType::POOL_ELEMENT });
    while let Some(Parameter { kind, value }) = context.parameter(reader)? {
        match (kind, pools.last_mut()) {
            (ParameterType::POOL_HANDLE, _) => {
                if empty(&pools) {
                    return missing;
                }
                pools.push(PoolEntry { handle: PoolHandle(value.rest()), elements: Vec::new() });
            }
            (ParameterType::POOL_ELEMENT, Some(pool)) => {
                pool.elements.push(PoolElement::decode(context, value)?)
            }
            (parameter, _) => return Err(DecodeError::Unexpected { what: WHAT, parameter }),
        }
    }
    if empty(&pools) {
        return missing;
    }
    Ok(pools)
}

fn update<'a>(
    context: &mut Context<'a>,
    reader: &mut Reader<'a>,
    takeover_suggested: bool,
    action: UpdateAction,
) -> Result<Body<'a>, DecodeError> {
    let (mut handle, mut element) = (None, None);
    while let Some(Parameter { kind, value }) = context.parameter(reader)? {
        match kind {
            ParameterType::POOL_HANDLE => put(&mut handle, PoolHandle(value.rest()), WHAT, kind)?,
            ParameterType::POOL_ELEMENT => {
                put(&mut element, PoolElement::decode(context, value)?, WHAT, kind)?
            }
            parameter => return Err(DecodeError::Unexpected { what: WHAT, parameter }),
        }
    }
    let handle = need(handle, WHAT, ParameterType::POOL_HANDLE)?;
    let element = Box::new(need(element, WHAT, ParameterType::POOL_ELEMENT)?);
    Ok(Body::HandleUpdate { takeover_suggested, action, handle, element })
}

fn servers<'a>(
    context: &mut Context<'a>,
    reader: &mut Reader<'a>,
) -> Result<Vec<ServerInformation>, DecodeError> {
    let mut servers = Vec::new();
    while let Some(Parameter { kind, value }) = context.parameter(reader)? {
        if kind != ParameterType::SERVER_INFORMATION {
            return Err(DecodeError::Unexpected { what: WHAT, parameter: kind });
        }
        servers.push(ServerInformation::decode(context, value)?);
    }
    Ok(servers)
}

fn error<'a>(
    context: &mut Context<'a>,
    reader: &mut Reader<'a>,
) -> Result<OperationError<'a>, DecodeError> {
    let mut error = None;
    while let Some(Parameter { kind, value }) = context.parameter(reader)? {
        if kind != ParameterType::OPERATION_ERROR {
            return Err(DecodeError::Unexpected { what: WHAT, parameter: kind });
        }
        put(&mut error, OperationError::decode(value)?, WHAT, kind)?;
    }
    need(error, WHAT, ParameterType::OPERATION_ERROR)
}

/// The ENRP_ERROR from `sender` to `receiver` that reports `causes`, as many as fit; `None` if there are none.
pub fn error_reply(sender: ServerId, receiver: ServerId, causes: &[Cause<'_>]) -> Option<Vec<u8>> {
    let error = OperationError::fitting(causes);
    if error.causes.is_empty() {
        return None;
    }
    Message { sender, receiver, body: Body::Error(error) }.encode().ok()
}
