//! Messages made from scratch or derived from others: responses, ACK, CANCEL, requests of tools.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::{BuildError, HeaderName, Message, Method, Via};

/// A response to a request: Via stack, From, To, Call-ID and CSeq copied (RFC 3261 section 8.2.6.2).
#[derive(Debug)]
pub struct ResponseBuilder<'a> {
    request: &'a Message,
    code: u16,
    reason: Cow<'a, str>,
    to_tag: Option<Cow<'a, str>>,
    source: Option<SocketAddr>,
    headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    copied: Vec<HeaderName>,
    body: Option<(Cow<'a, str>, Cow<'a, [u8]>)>,
}

impl<'a> ResponseBuilder<'a> {
    /// A response with the usual reason phrase of its code.
    pub fn new(request: &'a Message, code: u16) -> Self {
        Self {
            request,
            code,
            reason: Cow::Borrowed(reason_phrase(code)),
            to_tag: None,
            source: None,
            headers: Vec::new(),
            copied: Vec::new(),
            body: None,
        }
    }

    /// Another reason phrase.
    pub fn reason(mut self, reason: impl Into<Cow<'a, str>>) -> Self {
        self.reason = reason.into();
        self
    }

    /// The tag to add to To when the request has none; not for 100 (RFC 3261 section 8.2.6.2).
    pub fn to_tag(mut self, tag: impl Into<Cow<'a, str>>) -> Self {
        self.to_tag = Some(tag.into());
        self
    }

    /// Where the request came from: noted in the topmost Via as [`crate::Edit::stamp_via`] does. Not needed when the
    /// request was stamped already.
    pub fn source(mut self, source: SocketAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// One more header.
    pub fn header(mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Copies all lines of a header from the request, such as Record-Route or Path.
    pub fn copy(mut self, name: HeaderName) -> Self {
        self.copied.push(name);
        self
    }

    /// A body.
    pub fn body(
        mut self,
        content_type: impl Into<Cow<'a, str>>,
        body: impl Into<Cow<'a, [u8]>>,
    ) -> Self {
        self.body = Some((content_type.into(), body.into()));
        self
    }

    /// The response.
    ///
    /// # Errors
    /// [`BuildError`] when the message is no request, or has no Via: then there is nowhere to send an answer.
    /// Other missing headers are left out, so that broken requests are answered.
    pub fn build(&self) -> Result<Bytes, BuildError> {
        let request = self.request;
        if !request.is_request() {
            return Err(BuildError::NotRequest);
        }
        let top = request.first_value(HeaderName::Via);
        let Some(top) = top else { return Err(BuildError::Missing(HeaderName::Via)) };
        let body: &[u8] = self.body.as_ref().map_or(&[], |(_, body)| body);
        let mut out = Vec::with_capacity(request.head().len() + body.len() + 256);
        out.extend_from_slice(b"SIP/2.0 ");
        out.extend_from_slice(self.code.to_string().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.reason.as_bytes());
        out.extend_from_slice(b"\r\n");
        let stamped = self.source.and_then(|source| stamped_via(top.text, source));
        for (index, header) in request.headers().enumerate() {
            match header.name {
                HeaderName::Via if index == top.line && stamped.is_some() => {
                    let raw = header.raw();
                    let from = top.span.start - header.line_span().start;
                    let to = top.span.end - header.line_span().start;
                    out.extend_from_slice(&raw[..from]);
                    out.extend_from_slice(stamped.as_deref().unwrap_or(top.text).as_bytes());
                    out.extend_from_slice(&raw[to..]);
                }
                HeaderName::Via | HeaderName::From | HeaderName::CallId | HeaderName::CSeq => {
                    out.extend_from_slice(header.raw());
                }
                // RFC 3261 section 8.2.6.1: "Timestamp ... MUST be copied into this 100 (Trying)".
                HeaderName::Timestamp if self.code == 100 => out.extend_from_slice(header.raw()),
                HeaderName::To => {
                    let tagged = request.to().map_or(true, |to| to.tag().is_some());
                    match &self.to_tag {
                        Some(tag) if !tagged && self.code != 100 => {
                            let raw = header.raw();
                            let end = header.value_span().end - header.line_span().start;
                            out.extend_from_slice(&raw[..end]);
                            out.extend_from_slice(b";tag=");
                            out.extend_from_slice(tag.as_bytes());
                            out.extend_from_slice(&raw[end..]);
                        }
                        _ => out.extend_from_slice(header.raw()),
                    }
                }
                name if self.copied.contains(&name) => out.extend_from_slice(header.raw()),
                _ => {}
            }
        }
        for (name, value) in &self.headers {
            push_line(&mut out, name, value.as_bytes());
        }
        if let Some((content_type, _)) = &self.body {
            push_line(&mut out, "Content-Type", content_type.as_bytes());
        }
        push_line(&mut out, "Content-Length", body.len().to_string().as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body);
        Ok(out.into())
    }
}

/// A request from scratch.
#[derive(Debug)]
pub struct RequestBuilder {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl RequestBuilder {
    pub fn new(method: Method<'_>, uri: &str) -> Self {
        let mut head = Vec::with_capacity(512);
        head.extend_from_slice(method.as_str().as_bytes());
        head.push(b' ');
        head.extend_from_slice(uri.as_bytes());
        head.extend_from_slice(b" SIP/2.0\r\n");
        Self { head, body: Vec::new() }
    }

    /// Adds a header; in order. Max-Forwards and Via are the caller's matter, Content-Length is not.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        push_line(&mut self.head, name, value.as_bytes());
        self
    }

    /// Adds a Via with `rport`.
    pub fn via(self, transport: &str, sent_by: SocketAddr, branch: &str) -> Self {
        let value =
            format!("SIP/2.0/{transport} {};rport;branch={branch}", crate::host_port(sent_by));
        self.header("Via", &value)
    }

    /// Sets the body.
    pub fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.header("Content-Type", content_type)
    }

    /// An OPTIONS request as a health check: every header that RFC 3261 section 8.1.1 asks for.
    pub fn options(
        uri: &str,
        transport: &str,
        local: SocketAddr,
        branch: &str,
        call_id: &str,
        tag: &str,
    ) -> Self {
        let from = format!("<sip:{}>;tag={tag}", crate::host_port(local));
        Self::new(Method::Options, uri)
            .via(transport, local, branch)
            .header("Max-Forwards", "70")
            .header("From", &from)
            .header("To", &format!("<{uri}>"))
            .header("Call-ID", call_id)
            .header("CSeq", "1 OPTIONS")
    }

    /// The request.
    pub fn build(mut self) -> Bytes {
        push_line(&mut self.head, "Content-Length", self.body.len().to_string().as_bytes());
        self.head.extend_from_slice(b"\r\n");
        self.head.extend_from_slice(&self.body);
        self.head.into()
    }
}

/// The ACK for a final response other than 2xx, which belongs to the INVITE's transaction (RFC 3261 section 17.1.1.3).
///
/// # Errors
/// [`BuildError`] when the INVITE or the response lacks what it is made of.
pub fn ack_for(invite: &Message, response: &Message) -> Result<Bytes, BuildError> {
    let to = response.header(HeaderName::To).ok_or(BuildError::Missing(HeaderName::To))?;
    derive(invite, Method::Ack, to.value())
}

/// The CANCEL for an INVITE as it was sent (RFC 3261 section 9.1).
///
/// # Errors
/// [`BuildError`] when the INVITE lacks what it is made of.
pub fn cancel_for(invite: &Message) -> Result<Bytes, BuildError> {
    let to = invite.header(HeaderName::To).ok_or(BuildError::Missing(HeaderName::To))?;
    derive(invite, Method::Cancel, to.value())
}

fn derive(invite: &Message, method: Method<'_>, to: &[u8]) -> Result<Bytes, BuildError> {
    let uri = invite.request_uri_str().ok_or(BuildError::NotRequest)?;
    let Some(via) = invite.first_value(HeaderName::Via) else {
        return Err(BuildError::Missing(HeaderName::Via));
    };
    let from = invite.header(HeaderName::From).ok_or(BuildError::Missing(HeaderName::From))?;
    let call_id =
        invite.header(HeaderName::CallId).ok_or(BuildError::Missing(HeaderName::CallId))?;
    let cseq = invite.cseq().map_err(|_| BuildError::Missing(HeaderName::CSeq))?;
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(uri.as_bytes());
    out.extend_from_slice(b" SIP/2.0\r\n");
    // "MUST contain a single Via header field, and this MUST be equal to the top Via header field of the original
    // request."
    push_line(&mut out, "Via", via.text.as_bytes());
    for route in invite.headers_named(HeaderName::Route) {
        out.extend_from_slice(route.raw());
    }
    push_line(&mut out, "Max-Forwards", b"70");
    push_line(&mut out, "From", from.value());
    push_line(&mut out, "To", to);
    push_line(&mut out, "Call-ID", call_id.value());
    push_line(&mut out, "CSeq", format!("{} {method}", cseq.seq).as_bytes());
    push_line(&mut out, "Content-Length", b"0");
    out.extend_from_slice(b"\r\n");
    Ok(out.into())
}

/// A Via value with `received` and `rport` as seen by the receiver of the request; `None` when nothing changes or the
/// value cannot be read.
pub(crate) fn stamped_via(text: &str, source: SocketAddr) -> Option<String> {
    let via = Via::parse(text).ok()?;
    let ip = source.ip().to_canonical();
    let same_address = via.host.ip() == Some(ip);
    let params = via.params.as_str();
    let mut out = String::with_capacity(text.len() + 64);
    out.push_str(crate::syntax::trim(&via.raw[..via.raw.len() - params.len()]));
    let (mut wants_port, mut has_received) = (false, false);
    for param in via.params.iter() {
        if param.name.eq_ignore_ascii_case("received") {
            has_received = true;
        } else if param.name.eq_ignore_ascii_case("rport") {
            wants_port = true;
            // Writing to a string cannot fail.
            let _ = write!(out, ";rport={}", source.port());
        } else {
            out.push_str(param.raw);
        }
    }
    if !wants_port && !has_received && same_address {
        return None;
    }
    if wants_port || !same_address {
        let _ = write!(out, ";received={ip}");
    }
    Some(out)
}

fn push_line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The usual reason phrase of a status code (RFC 3261 section 21 and extensions).
pub const fn reason_phrase(code: u16) -> &'static str {
    match code {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        199 => "Early Dialog Terminated",
        200 => "OK",
        202 => "Accepted",
        204 => "No Notification",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        305 => "Use Proxy",
        380 => "Alternative Service",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        412 => "Conditional Request Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        421 => "Extension Required",
        422 => "Session Interval Too Small",
        423 => "Interval Too Brief",
        430 => "Flow Failed",
        439 => "First Hop Lacks Outbound Support",
        440 => "Max-Breadth Exceeded",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        493 => "Undecipherable",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        _ => match code / 100 {
            1 => "Progress",
            2 => "Success",
            3 => "Redirection",
            4 => "Client Error",
            5 => "Server Error",
            _ => "Global Failure",
        },
    }
}
