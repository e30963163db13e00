//! Pool handles, pool elements and server information (RFC 5354, sections 3.9-3.11).

use crate::codec::{Context, Reader, Writer, need, put};
use crate::{
    Compat, DecodeError, EncodeError, ParameterType, PeId, Policy, SctpTransport, ServerId,
    Transport, TransportUse,
};
use std::net::IpAddr;

/// The name of a pool: opaque bytes, compared as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolHandle<'a>(pub &'a [u8]);

impl PoolHandle<'_> {
    pub(crate) fn encode(self, writer: &mut Writer) -> Result<(), EncodeError> {
        writer.leaf(ParameterType::POOL_HANDLE, self.0)
    }
}

pub(crate) fn encode_pe_id(pe_id: PeId, writer: &mut Writer) -> Result<(), EncodeError> {
    writer.leaf(ParameterType::PE_IDENTIFIER, &pe_id.0.to_be_bytes())
}

pub(crate) fn decode_pe_id(mut reader: Reader<'_>) -> Result<PeId, DecodeError> {
    let pe_id = PeId(reader.u32()?);
    reader.end()?;
    Ok(pe_id)
}

/// An element of a pool, as registered or as handed out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolElement<'a> {
    pub pe_id: PeId,
    /// The home registrar; [`ServerId::NONE`] while undetermined.
    pub home: ServerId,
    /// Registration life in seconds; -1 is infinite.
    pub life: i32,
    /// Where users reach the element.
    pub transport: Transport<'a>,
    pub policy: Policy<'a>,
    /// Where registrars reach the element; filled in by the home registrar.
    pub asap_transport: Option<SctpTransport>,
    /// UDP port of the ASAP transport's encapsulation; filled in by the home registrar, left out for rsplib.
    pub encaps_port: Option<u16>,
}

impl<'a> PoolElement<'a> {
    /// Copies what is borrowed.
    pub fn into_owned(self) -> PoolElement<'static> {
        let Self { pe_id, home, life, transport, policy, asap_transport, encaps_port } = self;
        PoolElement {
            pe_id,
            home,
            life,
            transport: transport.into_owned(),
            policy: policy.into_owned(),
            asap_transport,
            encaps_port,
        }
    }

    /// Upper bound of the encoded length in bytes, to fill messages up to their limit.
    pub fn max_len(&self) -> usize {
        let transport = |addrs: &[IpAddr]| 12 + 20 * addrs.len();
        let user = match &self.transport {
            Transport::Opaque(data) => 8 + data.len(),
            other => transport(other.addrs()),
        };
        let policy = match &self.policy {
            Policy::Other { data, .. } => 12 + data.len(),
            _ => 16,
        };
        let asap = self.asap_transport.as_ref().map_or(0, |asap| transport(&asap.addrs));
        16 + user + policy + asap + 8
    }

    pub(crate) fn decode(
        context: &mut Context<'a>,
        mut reader: Reader<'a>,
    ) -> Result<Self, DecodeError> {
        let what = reader.what();
        let pe_id = PeId(reader.u32()?);
        let home = ServerId(reader.u32()?);
        let mut life = reader.u32()?.cast_signed();
        if context.compat == Compat::Rsplib && life > 0 {
            life = life.cast_unsigned().div_ceil(1000).cast_signed();
        }
        let (mut transport, mut policy, mut asap_transport, mut encaps_port) =
            (None, None, None, None);
        let option = Some(ParameterType::ENCAPSULATION_PORT);
        while let Some(parameter) = context.parameter_or(option, &mut reader)? {
            let kind = parameter.kind;
            let mut value = parameter.value;
            match kind {
                ParameterType::POLICY => put(&mut policy, Policy::decode(value)?, what, kind)?,
                ParameterType::ENCAPSULATION_PORT => {
                    put(&mut encaps_port, value.u16()?, what, kind)?;
                    value.u16()?;
                    value.end()?;
                }
                // User and ASAP transport are told apart by their order: the user's comes first.
                ParameterType::SCTP_TRANSPORT if transport.is_some() => {
                    put(&mut asap_transport, SctpTransport::decode(context, value)?, what, kind)?;
                }
                _ => match Transport::decode(context, parameter)? {
                    Some(found) => put(&mut transport, found, what, kind)?,
                    None => return Err(DecodeError::Unexpected { what, parameter: kind }),
                },
            }
        }
        Ok(Self {
            pe_id,
            home,
            life,
            transport: need(transport, what, ParameterType::SCTP_TRANSPORT)?,
            policy: need(policy, what, ParameterType::POLICY)?,
            asap_transport,
            encaps_port,
        })
    }

    pub(crate) fn encode(&self, writer: &mut Writer) -> Result<(), EncodeError> {
        let rsplib = writer.compat() == Compat::Rsplib;
        writer.nested(ParameterType::POOL_ELEMENT, |writer| {
            writer.u32(self.pe_id.0);
            writer.u32(self.home.0);
            let life =
                if rsplib && self.life > 0 { self.life.saturating_mul(1000) } else { self.life };
            writer.u32(life.cast_unsigned());
            self.transport.encode(writer)?;
            self.policy.encode(writer)?;
            if let Some(asap) = &self.asap_transport {
                asap.encode(writer)?;
            }
            match self.encaps_port {
                Some(port) if !rsplib => {
                    let [high, low] = port.to_be_bytes();
                    writer.leaf(ParameterType::ENCAPSULATION_PORT, &[high, low, 0, 0])
                }
                _ => Ok(()),
            }
        })
    }

    /// Whether a peer of that kind takes the element from a registrar: rsplib wants a home and an ASAP transport with a
    /// real port and data-only use (G27).
    pub fn fits_between_registrars(&self, compat: Compat) -> bool {
        compat == Compat::Rfc || self.missing_for_rsplib().is_none()
    }

    fn missing_for_rsplib(&self) -> Option<&'static str> {
        let usable = |asap: &SctpTransport| asap.port != 0 && asap.use_ == TransportUse::DATA_ONLY;
        if !self.asap_transport.as_ref().is_some_and(usable) {
            return Some("an ASAP transport with a port and data-only use");
        }
        (self.home == ServerId::NONE).then_some("the home of an element")
    }

    pub(crate) fn encode_between_registrars(&self, writer: &mut Writer) -> Result<(), EncodeError> {
        if writer.compat() == Compat::Rsplib
            && let Some(what) = self.missing_for_rsplib()
        {
            return Err(EncodeError::RsplibRequires { what });
        }
        self.encode(writer)
    }
}

/// A registrar and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerInformation {
    pub server_id: ServerId,
    pub transport: SctpTransport,
}

impl ServerInformation {
    pub(crate) fn decode<'a>(
        context: &mut Context<'a>,
        mut reader: Reader<'a>,
    ) -> Result<Self, DecodeError> {
        let what = reader.what();
        let server_id = ServerId(reader.u32()?);
        let mut transport = None;
        while let Some(parameter) = context.parameter(&mut reader)? {
            match parameter.kind {
                ParameterType::SCTP_TRANSPORT => {
                    put(
                        &mut transport,
                        SctpTransport::decode(context, parameter.value)?,
                        what,
                        parameter.kind,
                    )?;
                }
                parameter => return Err(DecodeError::Unexpected { what, parameter }),
            }
        }
        Ok(Self { server_id, transport: need(transport, what, ParameterType::SCTP_TRANSPORT)? })
    }

    pub(crate) fn encode(&self, writer: &mut Writer) -> Result<(), EncodeError> {
        writer.nested(ParameterType::SERVER_INFORMATION, |writer| {
            writer.u32(self.server_id.0);
            self.transport.encode(writer)
        })
    }
}
