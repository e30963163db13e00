//! Names of header fields: known ones as an enum, whatever their case and form; the others keep their text.

/// A header field's name. Comparison ignores case, and compact forms are the same name (RFC 3261 sections 7.3.1, 7.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum HeaderName {
    Accept,
    AcceptContact,
    AcceptEncoding,
    AcceptLanguage,
    AlertInfo,
    Allow,
    AllowEvents,
    AuthenticationInfo,
    Authorization,
    CallId,
    CallInfo,
    Contact,
    ContentDisposition,
    ContentEncoding,
    ContentLanguage,
    ContentLength,
    ContentType,
    CSeq,
    Date,
    ErrorInfo,
    Event,
    Expires,
    FlowTimer,
    From,
    Identity,
    InReplyTo,
    MaxBreadth,
    MaxForwards,
    MimeVersion,
    MinExpires,
    MinSe,
    Organization,
    PAssertedIdentity,
    PPreferredIdentity,
    Path,
    Priority,
    Privacy,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyRequire,
    RAck,
    Reason,
    RecordRoute,
    ReferTo,
    ReferredBy,
    RejectContact,
    Replaces,
    ReplyTo,
    RequestDisposition,
    Require,
    RetryAfter,
    Route,
    RSeq,
    Server,
    ServiceRoute,
    SessionExpires,
    Subject,
    SubscriptionState,
    Supported,
    Timestamp,
    To,
    Unsupported,
    UserAgent,
    Via,
    Warning,
    WwwAuthenticate,
    /// A name that this library does not know; compare the text of the header.
    Other,
}

impl HeaderName {
    /// The name as it is usually written; empty for [`HeaderName::Other`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "Accept",
            Self::AcceptContact => "Accept-Contact",
            Self::AcceptEncoding => "Accept-Encoding",
            Self::AcceptLanguage => "Accept-Language",
            Self::AlertInfo => "Alert-Info",
            Self::Allow => "Allow",
            Self::AllowEvents => "Allow-Events",
            Self::AuthenticationInfo => "Authentication-Info",
            Self::Authorization => "Authorization",
            Self::CallId => "Call-ID",
            Self::CallInfo => "Call-Info",
            Self::Contact => "Contact",
            Self::ContentDisposition => "Content-Disposition",
            Self::ContentEncoding => "Content-Encoding",
            Self::ContentLanguage => "Content-Language",
            Self::ContentLength => "Content-Length",
            Self::ContentType => "Content-Type",
            Self::CSeq => "CSeq",
            Self::Date => "Date",
            Self::ErrorInfo => "Error-Info",
            Self::Event => "Event",
            Self::Expires => "Expires",
            Self::FlowTimer => "Flow-Timer",
            Self::From => "From",
            Self::Identity => "Identity",
            Self::InReplyTo => "In-Reply-To",
            Self::MaxBreadth => "Max-Breadth",
            Self::MaxForwards => "Max-Forwards",
            Self::MimeVersion => "MIME-Version",
            Self::MinExpires => "Min-Expires",
            Self::MinSe => "Min-SE",
            Self::Organization => "Organization",
            Self::PAssertedIdentity => "P-Asserted-Identity",
            Self::PPreferredIdentity => "P-Preferred-Identity",
            Self::Path => "Path",
            Self::Priority => "Priority",
            Self::Privacy => "Privacy",
            Self::ProxyAuthenticate => "Proxy-Authenticate",
            Self::ProxyAuthorization => "Proxy-Authorization",
            Self::ProxyRequire => "Proxy-Require",
            Self::RAck => "RAck",
            Self::Reason => "Reason",
            Self::RecordRoute => "Record-Route",
            Self::ReferTo => "Refer-To",
            Self::ReferredBy => "Referred-By",
            Self::RejectContact => "Reject-Contact",
            Self::Replaces => "Replaces",
            Self::ReplyTo => "Reply-To",
            Self::RequestDisposition => "Request-Disposition",
            Self::Require => "Require",
            Self::RetryAfter => "Retry-After",
            Self::Route => "Route",
            Self::RSeq => "RSeq",
            Self::Server => "Server",
            Self::ServiceRoute => "Service-Route",
            Self::SessionExpires => "Session-Expires",
            Self::Subject => "Subject",
            Self::SubscriptionState => "Subscription-State",
            Self::Supported => "Supported",
            Self::Timestamp => "Timestamp",
            Self::To => "To",
            Self::Unsupported => "Unsupported",
            Self::UserAgent => "User-Agent",
            Self::Via => "Via",
            Self::Warning => "Warning",
            Self::WwwAuthenticate => "WWW-Authenticate",
            Self::Other => "",
        }
    }

    /// Finds a name by its long or compact form.
    pub fn find(name: &[u8]) -> Self {
        // Lower case of the first letter tells most names of one length apart.
        let first = match name.first() {
            Some(byte) => byte | 0x20,
            None => return Self::Other,
        };
        let (canonical, found) = match (name.len(), first) {
            (1, b'a') => return Self::AcceptContact,
            (1, b'u') => return Self::AllowEvents,
            (1, b'i') => return Self::CallId,
            (1, b'm') => return Self::Contact,
            (1, b'e') => return Self::ContentEncoding,
            (1, b'l') => return Self::ContentLength,
            (1, b'c') => return Self::ContentType,
            (1, b'o') => return Self::Event,
            (1, b'f') => return Self::From,
            (1, b'y') => return Self::Identity,
            (1, b'r') => return Self::ReferTo,
            (1, b'b') => return Self::ReferredBy,
            (1, b'j') => return Self::RejectContact,
            (1, b'd') => return Self::RequestDisposition,
            (1, b'x') => return Self::SessionExpires,
            (1, b's') => return Self::Subject,
            (1, b'k') => return Self::Supported,
            (1, b't') => return Self::To,
            (1, b'v') => return Self::Via,
            (2, b't') => ("To", Self::To),
            (3, b'v') => ("Via", Self::Via),
            (4, b'c') => ("CSeq", Self::CSeq),
            (4, b'd') => ("Date", Self::Date),
            (4, b'f') => ("From", Self::From),
            (4, b'p') => ("Path", Self::Path),
            (4, b'r') if name.eq_ignore_ascii_case(b"RAck") => return Self::RAck,
            (4, b'r') => ("RSeq", Self::RSeq),
            (5, b'a') => ("Allow", Self::Allow),
            (5, b'e') => ("Event", Self::Event),
            (5, b'r') => ("Route", Self::Route),
            (6, b'a') => ("Accept", Self::Accept),
            (6, b'm') => ("Min-SE", Self::MinSe),
            (6, b'r') => ("Reason", Self::Reason),
            (6, b's') => ("Server", Self::Server),
            (7, b'c') if name.eq_ignore_ascii_case(b"Call-ID") => return Self::CallId,
            (7, b'c') => ("Contact", Self::Contact),
            (7, b'e') => ("Expires", Self::Expires),
            (7, b'p') => ("Privacy", Self::Privacy),
            (7, b'r') => ("Require", Self::Require),
            (7, b's') => ("Subject", Self::Subject),
            (7, b'w') => ("Warning", Self::Warning),
            (8, b'i') => ("Identity", Self::Identity),
            (8, b'p') => ("Priority", Self::Priority),
            (8, b'r') if name.eq_ignore_ascii_case(b"Refer-To") => return Self::ReferTo,
            (8, b'r') if name.eq_ignore_ascii_case(b"Replaces") => return Self::Replaces,
            (8, b'r') => ("Reply-To", Self::ReplyTo),
            (9, b'c') => ("Call-Info", Self::CallInfo),
            (9, b's') => ("Supported", Self::Supported),
            (9, b't') => ("Timestamp", Self::Timestamp),
            (10, b'a') => ("Alert-Info", Self::AlertInfo),
            (10, b'e') => ("Error-Info", Self::ErrorInfo),
            (10, b'f') => ("Flow-Timer", Self::FlowTimer),
            (10, b'u') => ("User-Agent", Self::UserAgent),
            (11, b'i') => ("In-Reply-To", Self::InReplyTo),
            (11, b'm') if name.eq_ignore_ascii_case(b"Max-Breadth") => return Self::MaxBreadth,
            (11, b'm') => ("Min-Expires", Self::MinExpires),
            (11, b'r') if name.eq_ignore_ascii_case(b"Referred-By") => return Self::ReferredBy,
            (11, b'r') => ("Retry-After", Self::RetryAfter),
            (11, b'u') => ("Unsupported", Self::Unsupported),
            (12, b'a') => ("Allow-Events", Self::AllowEvents),
            (12, b'c') => ("Content-Type", Self::ContentType),
            (12, b'm') if name.eq_ignore_ascii_case(b"Max-Forwards") => return Self::MaxForwards,
            (12, b'm') => ("MIME-Version", Self::MimeVersion),
            (12, b'o') => ("Organization", Self::Organization),
            (12, b'r') => ("Record-Route", Self::RecordRoute),
            (13, b'a') => ("Authorization", Self::Authorization),
            (13, b'p') => ("Proxy-Require", Self::ProxyRequire),
            (13, b's') => ("Service-Route", Self::ServiceRoute),
            (14, b'a') => ("Accept-Contact", Self::AcceptContact),
            (14, b'c') => ("Content-Length", Self::ContentLength),
            (14, b'r') => ("Reject-Contact", Self::RejectContact),
            (15, b'a') if name.eq_ignore_ascii_case(b"Accept-Encoding") => {
                return Self::AcceptEncoding;
            }
            (15, b'a') => ("Accept-Language", Self::AcceptLanguage),
            (15, b's') => ("Session-Expires", Self::SessionExpires),
            (16, b'c') if name.eq_ignore_ascii_case(b"Content-Encoding") => {
                return Self::ContentEncoding;
            }
            (16, b'c') => ("Content-Language", Self::ContentLanguage),
            (16, b'w') => ("WWW-Authenticate", Self::WwwAuthenticate),
            (18, b'p') => ("Proxy-Authenticate", Self::ProxyAuthenticate),
            (18, b's') => ("Subscription-State", Self::SubscriptionState),
            (19, b'a') => ("Authentication-Info", Self::AuthenticationInfo),
            (19, b'c') => ("Content-Disposition", Self::ContentDisposition),
            (19, b'p') if name.eq_ignore_ascii_case(b"P-Asserted-Identity") => {
                return Self::PAssertedIdentity;
            }
            (19, b'p') => ("Proxy-Authorization", Self::ProxyAuthorization),
            (19, b'r') => ("Request-Disposition", Self::RequestDisposition),
            (20, b'p') => ("P-Preferred-Identity", Self::PPreferredIdentity),
            _ => return Self::Other,
        };
        if name == canonical.as_bytes() || name.eq_ignore_ascii_case(canonical.as_bytes()) {
            found
        } else {
            Self::Other
        }
    }

    /// Whether several values may stand in one line, separated by commas (RFC 3261 section 7.3.1). Credentials and
    /// challenges contain commas of their own and are no lists.
    pub const fn is_list(self) -> bool {
        matches!(
            self,
            Self::Accept
                | Self::AcceptContact
                | Self::AcceptEncoding
                | Self::AcceptLanguage
                | Self::AlertInfo
                | Self::Allow
                | Self::AllowEvents
                | Self::CallInfo
                | Self::Contact
                | Self::ContentEncoding
                | Self::ContentLanguage
                | Self::ErrorInfo
                | Self::InReplyTo
                | Self::PAssertedIdentity
                | Self::PPreferredIdentity
                | Self::Path
                | Self::ProxyRequire
                | Self::Reason
                | Self::RecordRoute
                | Self::RejectContact
                | Self::RequestDisposition
                | Self::Require
                | Self::Route
                | Self::ServiceRoute
                | Self::Supported
                | Self::Unsupported
                | Self::Via
                | Self::Warning
        )
    }
}

impl std::fmt::Display for HeaderName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
