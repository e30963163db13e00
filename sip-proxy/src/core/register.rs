//! The registrar function (RFC 3261 section 10.3, RFC 3327, RFC 5626 section 6): from a REGISTER request to a save, and
//! from its outcome to the answer.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::SocketAddr;

use dialtone_location::{BindingKey, Change, NewBinding, Record, Request, Save, limits};
use dialtone_sip::{Contact, HeaderName, Message, NameAddr, ResponseBuilder, SipUri, Uri, unquote};
use dialtone_sip_pool::keys::Keys;

use crate::core::hop::{self, Hop};
use crate::core::settings::{Names, Settings, escape_controls};

/// Longest values of From, To and CSeq, and of all Via values together, bytes: they are not stored, but every answer has
/// them.
const MAX_PARTY: usize = 1_000;
const MAX_CSEQ: usize = 100;
const MAX_VIAS: usize = 4_000;

/// Option tags that a REGISTER may require.
const SUPPORTED: [&str; 2] = ["path", "outbound"];

/// Why a REGISTER is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Status code and reason phrase.
    Status(u16, &'static str),
    /// 420 with these option tags.
    Extensions(String),
    /// 423: the shortest life.
    TooBrief(u32),
}

/// What the store has to do for a REGISTER request.
pub(crate) fn request(
    message: &Message,
    source: Hop,
    names: &Names,
    settings: &Settings,
    keys: &Keys,
    now_ms: u64,
) -> Result<Request, Refusal> {
    let malformed = |reason| Refusal::Status(400, reason);
    // Step 2: "the registrar MUST process the Require header field values".
    let unknown: Vec<&str> = message
        .tokens(HeaderName::Require)
        .filter(|tag| !SUPPORTED.iter().any(|known| known.eq_ignore_ascii_case(tag)))
        .collect();
    if !unknown.is_empty() {
        return Err(Refusal::Extensions(unknown.join(", ")));
    }
    for (name, limit, reason) in [
        (HeaderName::From, MAX_PARTY, "From Too Long"),
        (HeaderName::To, MAX_PARTY, "To Too Long"),
        (HeaderName::CSeq, MAX_CSEQ, "CSeq Too Long"),
        (HeaderName::CallId, limits::CALL_ID, "Call-ID Too Long"),
        (HeaderName::Via, MAX_VIAS, "Via Too Long"),
    ] {
        let length: usize = message.headers_named(name).map(|header| header.value().len()).sum();
        if length > limit {
            return Err(malformed(reason));
        }
    }
    // Step 5: the address-of-record, "if not valid for the domain in the Request-URI, 404".
    let to = message.to().map_err(|_| malformed("Malformed To"))?;
    // RFC 4475 section 3.3.4: "the To: header field is required to contain a SIP or SIPS URI".
    let to = to.uri.sip().ok_or(malformed("To Is Not a SIP URI"))?;
    let aor = names.aor(to).ok_or(Refusal::Status(404, "Not Found"))?;
    let call_id: Box<str> = message.call_id().map_err(|_| malformed("Missing Call-ID"))?.into();
    if call_id.contains(char::is_control) {
        return Err(malformed("Malformed Call-ID"));
    }
    let cseq = message.cseq().map_err(|_| malformed("Malformed CSeq"))?.seq;
    let expires = message.expires();
    let mut bindings = Vec::new();
    let mut everything = false;
    for contact in message.contacts() {
        match contact.map_err(|_| malformed("Malformed Contact"))? {
            Contact::Star => everything = true,
            Contact::Addr(address) => {
                if bindings.len() == settings.max_bindings {
                    return Err(Refusal::Status(403, "Too Many Contacts"));
                }
                bindings.push(binding(message, &address, source, expires, settings, keys)?);
            }
        }
    }
    let change = match (everything, bindings.is_empty()) {
        // Step 6: "If the request has additional Contact fields or an expiration time other than zero, the request
        // is invalid, and the server MUST return a 400".
        (true, false) => return Err(malformed("Star With Other Contacts")),
        (true, true) if expires != Some(0) => return Err(malformed("Star Needs Expires 0")),
        (true, true) => Change::RemoveAll,
        (false, false) => Change::Bindings(bindings),
        (false, true) => return Ok(Request::Lookup { aor, now_ms }),
    };
    let save = Save {
        aor,
        call_id,
        cseq,
        now_ms,
        max_bindings: settings.max_bindings,
        evict_oldest: settings.evict_oldest,
        change,
    };
    Ok(Request::Save(Box::new(save)))
}

fn binding(
    message: &Message,
    address: &NameAddr<'_>,
    source: Hop,
    expires: Option<u32>,
    settings: &Settings,
    keys: &Keys,
) -> Result<NewBinding, Refusal> {
    let malformed = |reason| Refusal::Status(400, reason);
    let Uri::Sip(uri) = &address.uri else { return Err(malformed("Contact Is Not a SIP URI")) };
    let q = address.q().ok_or(malformed("Malformed q"))?;
    // Step 7: parameter, header, default; "MAY shorten", 423 only below the minimum and not for removals.
    let lifetime =
        address.expires().or(expires).unwrap_or(settings.default_expires).min(settings.max_expires);
    if lifetime != 0 && lifetime < settings.min_expires {
        return Err(Refusal::TooBrief(settings.min_expires));
    }
    let mut params = String::new();
    for param in address.params.iter() {
        if !["q", "expires"].iter().any(|name| param.name.eq_ignore_ascii_case(name)) {
            params.push_str(param.raw.trim());
        }
    }
    if uri.raw.len() > limits::CONTACT {
        return Err(malformed("Contact Too Long"));
    }
    if params.len() > limits::PARAMS {
        return Err(malformed("Contact Parameters Too Long"));
    }
    // Line ends in what was folded would end the header that answers and requests carry it in.
    if uri.raw.contains(char::is_control) || params.contains(char::is_control) {
        return Err(malformed("Malformed Contact"));
    }
    let instance = address.params.get("+sip.instance").map(unquote).unwrap_or(Cow::Borrowed(""));
    if instance.len() > limits::INSTANCE {
        return Err(malformed("Instance Too Long"));
    }
    // RFC 5626 section 6: reg-id without instance is ignored.
    let reg_id = address.params.get("reg-id").filter(|_| !instance.is_empty());
    let reg_id = reg_id.map_or(Ok(0), str::parse).map_err(|_| malformed("Malformed reg-id"))?;
    let key = if reg_id == 0 {
        BindingKey::contact(&canonical(uri))
    } else {
        BindingKey::flow(&instance, reg_id)
    };
    if key.as_str().len() > limits::KEY {
        return Err(malformed("Contact Too Long"));
    }
    // Only what a pool element adds is a way that can be believed.
    let path = if source.is_core() { joined_paths(message)? } else { String::new() };
    let token = NameAddr::parse(hop::first_value(&path)).ok();
    let token = token.as_ref().and_then(|top| top.uri.sip());
    let gateway =
        token.and_then(|uri| hop::token_of(uri, keys)).map_or(0, |token| token.flow.gateway);
    let flow_token = token.filter(|_| gateway != 0).and_then(|uri| uri.user).unwrap_or("");
    Ok(NewBinding {
        key,
        contact: uri.raw.into(),
        params: params.into(),
        q,
        lifetime,
        user_agent: message.header_str(HeaderName::UserAgent).map_or("".into(), |text| {
            let text = escape_controls(cut(text, limits::USER_AGENT));
            cut(&text, limits::USER_AGENT).into()
        }),
        received: received(message, source).into(),
        gateway,
        flow_token: flow_token.into(),
        path: path.into(),
        instance: instance.into(),
        reg_id,
    })
}

fn joined_paths(message: &Message) -> Result<String, Refusal> {
    let mut joined = String::new();
    for value in message.values(HeaderName::Path) {
        let value = value.map_err(|_| Refusal::Status(400, "Malformed Path"))?;
        NameAddr::parse(value.text).map_err(|_| Refusal::Status(400, "Malformed Path"))?;
        if !joined.is_empty() {
            joined.push_str(", ");
        }
        joined.push_str(value.text);
        if joined.len() > limits::PATH {
            return Err(Refusal::Status(400, "Path Too Long"));
        }
        if value.text.contains(char::is_control) {
            return Err(Refusal::Status(400, "Malformed Path"));
        }
    }
    Ok(joined)
}

/// Where a phone that registers directly must be called, if that is not its contact: where the request came from, when
/// its Via does not say the same (RFC 3581 section 4: it is behind a NAT). A sender without NAT may register another
/// place than its own.
fn received(message: &Message, source: Hop) -> String {
    let Some(address) = source.edge_address() else { return String::new() };
    let written = message
        .top_via()
        .ok()
        .and_then(|via| Some(SocketAddr::new(via.host.ip()?, via.port_or_default())));
    match source {
        _ if written == Some(address) => String::new(),
        Hop::Tcp(_) => format!("tcp:{address}"),
        _ => format!("udp:{address}"),
    }
}

fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A form in which URIs that are equal by RFC 3261 section 19.1.4 are mostly equal text. That equality is not
/// transitive (parameters in one URI only do not count), so no form can be exact: here all parameters count.
fn canonical(uri: &SipUri<'_>) -> String {
    let mut out = String::with_capacity(uri.raw.len());
    out.push_str(if uri.secure { "sips:" } else { "sip:" });
    if let Some(user) = uri.user_unescaped() {
        out.push_str(&escape_controls(&user));
        out.push('@');
    }
    let host = uri.host.to_string().to_ascii_lowercase();
    out.push_str(&host);
    if let Some(port) = uri.port {
        let _ = write!(out, ":{port}");
    }
    let mut params: Vec<String> = uri
        .params
        .iter()
        .map(|param| {
            let value = param.value.map(|value| format!("={value}")).unwrap_or_default();
            format!(";{}{value}", param.name).to_ascii_lowercase()
        })
        .collect();
    params.sort();
    params.iter().for_each(|param| out.push_str(param));
    if let Some(headers) = uri.headers {
        let _ = write!(out, "?{headers}");
    }
    out
}

/// 200 with all current bindings (step 8).
///
/// DEVIATION(RFC 3327 section 5.3): Path is kept although the phone did not announce support, and not copied into the
/// answer: gateways add it for the core alone.
pub(crate) fn accepted<'a>(
    message: &'a Message,
    bindings: &[Record],
    now_ms: u64,
) -> ResponseBuilder<'a> {
    let mut response = ResponseBuilder::new(message, 200);
    for record in bindings {
        let mut contact = String::with_capacity(record.contact.len() + record.params.len() + 32);
        let _ = write!(contact, "<{}>{}", record.contact, record.params);
        if record.q != 1000 {
            let _ = write!(contact, ";q=0.{:03}", record.q);
        }
        let seconds = record.expires_at.saturating_sub(now_ms).div_ceil(1000);
        let _ = write!(contact, ";expires={seconds}");
        response = response.header("Contact", contact);
    }
    // RFC 5626 section 6: "outbound" in Require says that flows were kept.
    let flows = bindings.iter().any(|record| record.reg_id != 0);
    if flows && message.has_token(HeaderName::Supported, "outbound") {
        response = response.header("Require", "outbound");
    }
    response
}

/// The answer to a refused REGISTER.
pub(crate) fn refused<'a>(message: &'a Message, refusal: &Refusal) -> ResponseBuilder<'a> {
    match refusal {
        Refusal::Status(code, reason) => ResponseBuilder::new(message, *code).reason(*reason),
        Refusal::Extensions(tags) => {
            ResponseBuilder::new(message, 420).header("Unsupported", tags.clone())
        }
        Refusal::TooBrief(min) => {
            ResponseBuilder::new(message, 423).header("Min-Expires", min.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contacts_that_are_equal_have_one_form() {
        let form = |text| canonical(&SipUri::parse(text).expect("uri"));
        assert_eq!(form("sip:%61lice@HOST.test;b=2;A=1"), form("sip:alice@host.TEST;a=1;B=2"));
        assert_ne!(form("sip:alice@host"), form("sip:Alice@host"));
        assert_ne!(form("sip:alice@host"), form("sip:alice@host:5060"));
        assert_ne!(form("sip:alice@host"), form("sips:alice@host"));
    }
}
