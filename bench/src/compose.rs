//! What a phone writes, and where it goes.

use std::net::SocketAddr;

use crate::text::{Text, parameter};

/// A response; `tag` is added to To unless it is empty, `extra` are whole header lines, a body is an SDP.
pub(crate) fn respond(request: &Text, status: &str, tag: &str, extra: &str, body: &str) -> String {
    let vias: String = request.all("via").map(|via| format!("Via: {via}\r\n")).collect();
    let routes: String =
        request.all("record-route").map(|route| format!("Record-Route: {route}\r\n")).collect();
    let header = |name| request.get(name).unwrap_or_default();
    let tag = if tag.is_empty() || parameter(header("to"), "tag").is_some() {
        String::new()
    } else {
        format!(";tag={tag}")
    };
    let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
    format!(
        "SIP/2.0 {status}\r\n{vias}{routes}From: {}\r\nTo: {}{tag}\r\nCall-ID: {}\r\nCSeq: {}\r\n{extra}{kind}Content-Length: {}\r\n\r\n{body}",
        header("from"),
        header("to"),
        header("call-id"),
        header("cseq"),
        body.len(),
    )
}

/// Host and port of a SIP URI with a numeric host; 5060 when it has none.
pub(crate) fn host_port(uri: &str) -> Option<SocketAddr> {
    let rest = uri.strip_prefix("sip:")?;
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let host = rest.split([';', '?']).next()?;
    host.parse().ok().or_else(|| Some(SocketAddr::new(host.parse().ok()?, 5060)))
}
