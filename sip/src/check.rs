//! What every message must have beyond its structure (RFC 3261 sections 8.1.1, 8.2, 16.3).

use crate::{HeaderName, Message, ParseError};

impl Message {
    /// Checks the headers that routing and transactions stand on: present, once, well-formed, consistent. A missing
    /// Max-Forwards is legal (RFC 3261 section 16.3), an unknown URI scheme is the application's matter (416).
    ///
    /// # Errors
    /// The first fault; [`ParseError::status`] has the answer for a request.
    pub fn check(&self) -> Result<(), ParseError> {
        for name in [
            HeaderName::From,
            HeaderName::To,
            HeaderName::CallId,
            HeaderName::CSeq,
            HeaderName::MaxForwards,
        ] {
            if self.headers_named(name).nth(1).is_some() {
                return Err(ParseError::Repeated(name));
            }
        }
        for via in self.vias() {
            via?;
        }
        if self.header(HeaderName::Via).is_none() {
            return Err(ParseError::Missing(HeaderName::Via));
        }
        self.from()?;
        self.to()?;
        self.call_id()?;
        let cseq = self.cseq()?;
        self.max_forwards()?;
        for route in self.routes() {
            route?;
        }
        if self.is_request() {
            if self.method() != Some(cseq.method) {
                return Err(ParseError::MethodMismatch);
            }
            self.request_uri()?;
        }
        Ok(())
    }
}
