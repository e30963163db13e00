//! What makes a message part of a transaction (RFC 3261 sections 17.1.3, 17.2.3).

use std::fmt::Write as _;
use std::sync::Arc;

use crate::{HeaderName, Message, Method, ParseError, Via};

/// Matches responses to a client transaction: branch of the topmost Via and method of CSeq.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey(Arc<str>);

/// Matches requests to a server transaction: branch, sent-by and method, where ACK matches its INVITE. Requests
/// without the branch cookie match as RFC 2543 did.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerKey(Arc<str>);

impl ClientKey {
    /// The key of a request that is sent, or of a response that came.
    ///
    /// # Errors
    /// [`ParseError`] when Via or CSeq is missing or malformed.
    pub fn of(message: &Message) -> Result<Self, ParseError> {
        let via = message.top_via()?;
        let branch = via.branch().ok_or(ParseError::Header(HeaderName::Via))?;
        Ok(Self::new(branch, message.cseq()?.method))
    }

    pub fn new(branch: &str, method: Method<'_>) -> Self {
        Self([branch, " ", method.as_str()].concat().into())
    }
}

impl ServerKey {
    /// The key of a request that came.
    ///
    /// # Errors
    /// [`ParseError`] when a header that it is made of is missing or malformed.
    pub fn of(request: &Message) -> Result<Self, ParseError> {
        let method =
            request.method().filter(|_| request.is_request()).ok_or(ParseError::StartLine)?;
        Self::of_method(request, if method == Method::Ack { Method::Invite } else { method })
    }

    /// The key of the INVITE that a CANCEL is about (RFC 3261 section 9.2).
    ///
    /// # Errors
    /// As [`ServerKey::of`].
    pub fn cancelled_by(cancel: &Message) -> Result<Self, ParseError> {
        Self::of_method(cancel, Method::Invite)
    }

    fn of_method(request: &Message, method: Method<'_>) -> Result<Self, ParseError> {
        let via = request.top_via()?;
        let mut key = String::with_capacity(96);
        match via.rfc3261_branch() {
            Some(branch) => {
                key.push_str(branch);
                Self::push_sent_by(&mut key, &via);
            }
            None => {
                // RFC 2543: Request-URI, From tag, Call-ID, CSeq number and topmost Via. The To tag is left out: that
                // of an ACK is the response's.
                key.push_str(request.request_uri_str().unwrap_or(""));
                key.push(' ');
                key.push_str(request.from()?.tag().unwrap_or(""));
                key.push(' ');
                key.push_str(request.call_id()?);
                // Writing to a string cannot fail.
                let _ = write!(key, " {} ", request.cseq()?.seq);
                key.push_str(via.branch().unwrap_or(""));
                Self::push_sent_by(&mut key, &via);
            }
        }
        key.push_str(method.as_str());
        Ok(Self(key.into()))
    }

    fn push_sent_by(key: &mut String, via: &Via<'_>) {
        key.push(' ');
        let at = key.len();
        key.push_str(via.sent_by);
        key[at..].make_ascii_lowercase();
        key.push(' ');
    }
}
