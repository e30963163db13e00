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
        let candidates: &[Self] = match name.len() {
            1 => {
                return match name[0].to_ascii_lowercase() {
                    b'a' => Self::AcceptContact,
                    b'u' => Self::AllowEvents,
                    b'i' => Self::CallId,
                    b'm' => Self::Contact,
                    b'e' => Self::ContentEncoding,
                    b'l' => Self::ContentLength,
                    b'c' => Self::ContentType,
                    b'o' => Self::Event,
                    b'f' => Self::From,
                    b'y' => Self::Identity,
                    b'r' => Self::ReferTo,
                    b'b' => Self::ReferredBy,
                    b'j' => Self::RejectContact,
                    b'd' => Self::RequestDisposition,
                    b'x' => Self::SessionExpires,
                    b's' => Self::Subject,
                    b'k' => Self::Supported,
                    b't' => Self::To,
                    b'v' => Self::Via,
                    _ => Self::Other,
                };
            }
            2 => &[Self::To],
            3 => &[Self::Via],
            4 => &[Self::From, Self::Path, Self::CSeq, Self::Date, Self::RAck, Self::RSeq],
            5 => &[Self::Route, Self::Allow, Self::Event],
            6 => &[Self::Accept, Self::MinSe, Self::Reason, Self::Server],
            7 => &[
                Self::Contact,
                Self::CallId,
                Self::Expires,
                Self::Privacy,
                Self::Require,
                Self::Subject,
                Self::Warning,
            ],
            8 => &[Self::Identity, Self::Priority, Self::ReferTo, Self::Replaces, Self::ReplyTo],
            9 => &[Self::Supported, Self::CallInfo, Self::Timestamp],
            10 => &[Self::UserAgent, Self::AlertInfo, Self::ErrorInfo, Self::FlowTimer],
            11 => &[
                Self::InReplyTo,
                Self::MaxBreadth,
                Self::MinExpires,
                Self::ReferredBy,
                Self::RetryAfter,
                Self::Unsupported,
            ],
            12 => &[
                Self::MaxForwards,
                Self::RecordRoute,
                Self::ContentType,
                Self::AllowEvents,
                Self::MimeVersion,
                Self::Organization,
            ],
            13 => &[Self::Authorization, Self::ProxyRequire, Self::ServiceRoute],
            14 => &[Self::ContentLength, Self::AcceptContact, Self::RejectContact],
            15 => &[Self::AcceptEncoding, Self::AcceptLanguage, Self::SessionExpires],
            16 => &[Self::ContentEncoding, Self::ContentLanguage, Self::WwwAuthenticate],
            18 => &[Self::ProxyAuthenticate, Self::SubscriptionState],
            19 => &[
                Self::AuthenticationInfo,
                Self::ContentDisposition,
                Self::PAssertedIdentity,
                Self::ProxyAuthorization,
                Self::RequestDisposition,
            ],
            20 => &[Self::PPreferredIdentity],
            _ => &[],
        };
        for candidate in candidates {
            if candidate.as_str().as_bytes().eq_ignore_ascii_case(name) {
                return *candidate;
            }
        }
        Self::Other
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
