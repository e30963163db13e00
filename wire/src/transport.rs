//! Transport parameters and their addresses (RFC 5354, sections 3.1-3.7 and 3.16).

use crate::codec::{Context, Parameter, Reader, Writer};
use crate::{DecodeError, EncodeError, ParameterType, TransportUse};
use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;

/// The addresses of an SCTP transport; a single one, the usual case, needs no allocation.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Addrs(Inner);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Inner {
    One(IpAddr),
    /// Never exactly one, so that equality is that of the slices.
    Many(Box<[IpAddr]>),
}

impl Deref for Addrs {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        match &self.0 {
            Inner::One(addr) => std::slice::from_ref(addr),
            Inner::Many(addrs) => addrs,
        }
    }
}

impl fmt::Debug for Addrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl From<IpAddr> for Addrs {
    fn from(addr: IpAddr) -> Self {
        Self(Inner::One(addr))
    }
}

impl From<Vec<IpAddr>> for Addrs {
    fn from(addrs: Vec<IpAddr>) -> Self {
        match addrs[..] {
            [addr] => Self(Inner::One(addr)),
            _ => Self(Inner::Many(addrs.into_boxed_slice())),
        }
    }
}

impl FromIterator<IpAddr> for Addrs {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addrs: I) -> Self {
        Self::from(addrs.into_iter().collect::<Vec<_>>())
    }
}

/// SCTP Transport: a port, what the association is used for, and at least one address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SctpTransport {
    pub port: u16,
    pub use_: TransportUse,
    pub addrs: Addrs,
}

impl SctpTransport {
    pub(crate) fn decode<'a>(
        context: &mut Context<'a>,
        mut reader: Reader<'a>,
    ) -> Result<Self, DecodeError> {
        let port = reader.u16()?;
        let use_ = TransportUse(reader.u16()?);
        let Some(first) = address(context, &mut reader)? else {
            return Err(DecodeError::Missing {
                what: reader.what(),
                parameter: ParameterType::IPV4_ADDRESS,
            });
        };
        let Some(second) = address(context, &mut reader)? else {
            return Ok(Self { port, use_, addrs: Addrs::from(first) });
        };
        let mut addrs = vec![first, second];
        while let Some(addr) = address(context, &mut reader)? {
            addrs.push(addr);
        }
        Ok(Self { port, use_, addrs: Addrs::from(addrs) })
    }

    pub(crate) fn encode(&self, writer: &mut Writer) -> Result<(), EncodeError> {
        if self.addrs.is_empty() {
            return Err(EncodeError::Empty { what: "addresses of an SCTP transport" });
        }
        writer.nested(ParameterType::SCTP_TRANSPORT, |writer| {
            writer.u16(self.port);
            writer.u16(self.use_.0);
            self.addrs.iter().try_for_each(|addr| encode_address(writer, *addr))
        })
    }
}

/// Where an element serves its users, or a registrar its clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Transport<'a> {
    Dccp { port: u16, service_code: u32, addr: IpAddr },
    Opaque(Cow<'a, [u8]>),
    Sctp(SctpTransport),
    Tcp { port: u16, addr: IpAddr },
    Udp { port: u16, addr: IpAddr },
    UdpLite { port: u16, addr: IpAddr },
}

impl<'a> Transport<'a> {
    /// A TCP transport at `addr`.
    pub const fn tcp(addr: SocketAddr) -> Transport<'static> {
        Transport::Tcp { port: addr.port(), addr: addr.ip() }
    }

    /// A UDP transport at `addr`.
    pub const fn udp(addr: SocketAddr) -> Transport<'static> {
        Transport::Udp { port: addr.port(), addr: addr.ip() }
    }

    /// The parameter type, which is the transport type that a pool has to agree on.
    pub const fn kind(&self) -> ParameterType {
        match self {
            Self::Dccp { .. } => ParameterType::DCCP_TRANSPORT,
            Self::Opaque(_) => ParameterType::OPAQUE_TRANSPORT,
            Self::Sctp(_) => ParameterType::SCTP_TRANSPORT,
            Self::Tcp { .. } => ParameterType::TCP_TRANSPORT,
            Self::Udp { .. } => ParameterType::UDP_TRANSPORT,
            Self::UdpLite { .. } => ParameterType::UDP_LITE_TRANSPORT,
        }
    }

    /// Transport Use; everything but SCTP is data-only (G19).
    pub const fn transport_use(&self) -> TransportUse {
        match self {
            Self::Sctp(sctp) => sctp.use_,
            _ => TransportUse::DATA_ONLY,
        }
    }

    /// The port; none for an opaque transport.
    pub const fn port(&self) -> Option<u16> {
        match self {
            Self::Dccp { port, .. }
            | Self::Tcp { port, .. }
            | Self::Udp { port, .. }
            | Self::UdpLite { port, .. }
            | Self::Sctp(SctpTransport { port, .. }) => Some(*port),
            Self::Opaque(_) => None,
        }
    }

    /// All addresses; none for an opaque transport.
    pub fn addrs(&self) -> &[IpAddr] {
        match self {
            Self::Dccp { addr, .. }
            | Self::Tcp { addr, .. }
            | Self::Udp { addr, .. }
            | Self::UdpLite { addr, .. } => std::slice::from_ref(addr),
            Self::Opaque(_) => &[],
            Self::Sctp(sctp) => &sctp.addrs,
        }
    }

    /// The first address with the port; none for an opaque transport.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(*self.addrs().first()?, self.port()?))
    }

    /// Copies what is borrowed.
    pub fn into_owned(self) -> Transport<'static> {
        match self {
            Self::Dccp { port, service_code, addr } => Transport::Dccp { port, service_code, addr },
            Self::Opaque(data) => Transport::Opaque(Cow::Owned(data.into_owned())),
            Self::Sctp(sctp) => Transport::Sctp(sctp),
            Self::Tcp { port, addr } => Transport::Tcp { port, addr },
            Self::Udp { port, addr } => Transport::Udp { port, addr },
            Self::UdpLite { port, addr } => Transport::UdpLite { port, addr },
        }
    }

    /// The same, borrowing from this one where that saves an allocation.
    pub fn borrow(&self) -> Transport<'_> {
        match self {
            Self::Dccp { port, service_code, addr } => {
                Transport::Dccp { port: *port, service_code: *service_code, addr: *addr }
            }
            Self::Opaque(data) => Transport::Opaque(Cow::Borrowed(data)),
            Self::Sctp(sctp) => Transport::Sctp(sctp.clone()),
            Self::Tcp { port, addr } => Transport::Tcp { port: *port, addr: *addr },
            Self::Udp { port, addr } => Transport::Udp { port: *port, addr: *addr },
            Self::UdpLite { port, addr } => Transport::UdpLite { port: *port, addr: *addr },
        }
    }

    /// From a parameter; `None` if it is not a transport.
    pub(crate) fn decode(
        context: &mut Context<'a>,
        parameter: Parameter<'a>,
    ) -> Result<Option<Self>, DecodeError> {
        let mut reader = parameter.value;
        Ok(Some(match parameter.kind {
            ParameterType::DCCP_TRANSPORT => {
                let port = reader.u16()?;
                reader.u16()?;
                let service_code = reader.u32()?;
                Self::Dccp { port, service_code, addr: sole_address(context, reader)? }
            }
            ParameterType::OPAQUE_TRANSPORT => Self::Opaque(Cow::Borrowed(reader.rest())),
            ParameterType::SCTP_TRANSPORT => Self::Sctp(SctpTransport::decode(context, reader)?),
            ParameterType::TCP_TRANSPORT => {
                let (port, addr) = port_and_address(context, reader)?;
                Self::Tcp { port, addr }
            }
            ParameterType::UDP_TRANSPORT => {
                let (port, addr) = port_and_address(context, reader)?;
                Self::Udp { port, addr }
            }
            ParameterType::UDP_LITE_TRANSPORT => {
                let (port, addr) = port_and_address(context, reader)?;
                Self::UdpLite { port, addr }
            }
            _ => return Ok(None),
        }))
    }

    pub(crate) fn encode(&self, writer: &mut Writer) -> Result<(), EncodeError> {
        match self {
            Self::Dccp { port, service_code, addr } => writer.nested(self.kind(), |writer| {
                writer.u16(*port);
                writer.u16(0);
                writer.u32(*service_code);
                encode_address(writer, *addr)
            }),
            Self::Opaque(data) => writer.leaf(self.kind(), data),
            Self::Sctp(sctp) => sctp.encode(writer),
            Self::Tcp { port, addr } | Self::Udp { port, addr } | Self::UdpLite { port, addr } => {
                writer.nested(self.kind(), |writer| {
                    writer.u16(*port);
                    writer.u16(0);
                    encode_address(writer, *addr)
                })
            }
        }
    }
}

/// The reserved field is ignored (RFC 5354, section 3.5), also where rsplib puts a Transport Use (G19).
fn port_and_address<'a>(
    context: &mut Context<'a>,
    mut reader: Reader<'a>,
) -> Result<(u16, IpAddr), DecodeError> {
    let port = reader.u16()?;
    reader.u16()?;
    Ok((port, sole_address(context, reader)?))
}

fn sole_address<'a>(
    context: &mut Context<'a>,
    mut reader: Reader<'a>,
) -> Result<IpAddr, DecodeError> {
    let what = reader.what();
    let Some(addr) = address(context, &mut reader)? else {
        return Err(DecodeError::Missing { what, parameter: ParameterType::IPV4_ADDRESS });
    };
    match context.parameter(&mut reader)? {
        None => Ok(addr),
        Some(second) => Err(DecodeError::Unexpected { what, parameter: second.kind }),
    }
}

fn address<'a>(
    context: &mut Context<'a>,
    reader: &mut Reader<'a>,
) -> Result<Option<IpAddr>, DecodeError> {
    let what = reader.what();
    let Some(Parameter { kind, mut value }) = context.parameter(reader)? else {
        return Ok(None);
    };
    let addr = match kind {
        ParameterType::IPV4_ADDRESS => IpAddr::V4(Ipv4Addr::from(value.octets::<4>()?)),
        ParameterType::IPV6_ADDRESS => IpAddr::V6(Ipv6Addr::from(value.octets::<16>()?)),
        parameter => return Err(DecodeError::Unexpected { what, parameter }),
    };
    value.end()?;
    Ok(Some(addr))
}

fn encode_address(writer: &mut Writer, addr: IpAddr) -> Result<(), EncodeError> {
    match addr {
        IpAddr::V4(addr) => writer.leaf(ParameterType::IPV4_ADDRESS, &addr.octets()),
        IpAddr::V6(addr) => writer.leaf(ParameterType::IPV6_ADDRESS, &addr.octets()),
    }
}
