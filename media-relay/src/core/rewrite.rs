//! Session descriptions as the other party is to see them: with the relay's addresses and ports, and otherwise as they
//! were.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dialtone_ng::message::Replace;
use dialtone_sip::sdp::{Address, Sdp, SdpEdit, Section};

/// What becomes of one media description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Not relayed: rejected by its author, or not over UDP.
    Keep,
    /// Rejected by the relay.
    Reject,
    Relay {
        ip: IpAddr,
        port: u16,
        /// Of RTCP, should the description name it.
        rtcp_port: u16,
        /// Whether RTP and RTCP may share the port; `None` leaves what stands there: it is no RTP.
        mux: Option<bool>,
    },
}

/// Applies the plans, one for each media description. ICE goes: the relay takes no part in it, and candidates that it
/// lets through would lead around it. So does BUNDLE, since every description has ports of its own now.
pub(super) fn rewrite(sdp: &Sdp<'_>, plans: &[Plan], replace: Replace) -> Vec<u8> {
    let mut edit = SdpEdit::new(sdp);
    let session = sdp.session();
    let first = plans.iter().find_map(|plan| match plan {
        Plan::Relay { ip, .. } => Some(*ip),
        Plan::Keep | Plan::Reject => None,
    });
    let relayed = || {
        let of_plan = sdp.medias().zip(plans);
        of_plan.filter(|(_, plan)| matches!(plan, Plan::Relay { .. }))
    };
    // What media without an address of its own inherits in the end.
    let connection = session.connection();
    let mut inherited = connection.as_ref().and_then(|connection| connection.ip);
    if let Some(ip) = first {
        if replace.origin {
            edit.set_origin_address(ip);
        }
        let needed = relayed().any(|(media, _)| media.connection().is_none());
        if connection.is_some() && (replace.session_connection || needed) {
            inherited = Some(set_address(&mut edit, session, connection.as_ref(), ip));
        }
        for attribute in session.attributes() {
            let is_bundle = attribute.name == b"group"
                && attribute.value.is_some_and(|value| value.starts_with(b"BUNDLE"));
            if attribute.is_ice() || is_bundle {
                edit.remove(&attribute);
            }
        }
    }
    for (media, plan) in sdp.medias().zip(plans) {
        match *plan {
            Plan::Keep => {
                let is_active = media.media_line().is_some_and(|line| line.port != 0);
                if let Some(connection) = connection.as_ref().filter(|connection| {
                    is_active && media.connection().is_none() && connection.ip != inherited
                }) {
                    edit.copy_connection(media, connection);
                }
            }
            Plan::Reject => {
                edit.set_port(media, 0);
            }
            Plan::Relay { ip, port, rtcp_port, mux } => {
                edit.set_port(media, port);
                let own = media.connection();
                if own.is_some() || (inherited != Some(ip) && !is_hold(inherited)) {
                    set_address(&mut edit, media, own.as_ref(), ip);
                }
                set_attributes(&mut edit, media, rtcp_port, mux);
            }
        }
    }
    edit.finish()
}

/// Sets the address of a section; what is on hold by an address of zeroes stays so. Returns what stands there then.
fn set_address<'a>(
    edit: &mut SdpEdit<'_, 'a>,
    section: Section<'_, 'a>,
    present: Option<&Address<'_>>,
    ip: IpAddr,
) -> IpAddr {
    let ip = match ip {
        IpAddr::V4(_) if is_hold(present.and_then(|present| present.ip)) => {
            Ipv4Addr::UNSPECIFIED.into()
        }
        IpAddr::V6(_) if is_hold(present.and_then(|present| present.ip)) => {
            Ipv6Addr::UNSPECIFIED.into()
        }
        ip => ip,
    };
    if present.is_none_or(|present| present.ip != Some(ip)) {
        edit.set_connection(section, ip);
    }
    ip
}

fn is_hold(ip: Option<IpAddr>) -> bool {
    ip.is_some_and(|ip| ip.is_unspecified())
}

fn set_attributes<'a>(
    edit: &mut SdpEdit<'_, 'a>,
    media: Section<'_, 'a>,
    rtcp_port: u16,
    mux: Option<bool>,
) {
    let (mut named, mut muxed) = (false, false);
    for attribute in media.attributes() {
        match attribute.name {
            b"rtcp" => match attribute.value {
                Some(_) if !named => {
                    named = true;
                    edit.replace(attribute.value_span, rtcp_port.to_string().into_bytes());
                }
                _ => {
                    edit.remove(&attribute);
                }
            },
            b"rtcp-mux" if mux == Some(true) && !muxed => muxed = true,
            b"rtcp-mux" | b"rtcp-mux-only" if mux == Some(false) => {
                edit.remove(&attribute);
            }
            _ if attribute.is_ice() => {
                edit.remove(&attribute);
            }
            _ => {}
        }
    }
    if mux == Some(true) && !muxed {
        edit.append_attribute(media, "rtcp-mux");
    }
}
