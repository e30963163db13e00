//! Session timers (RFC 4028).

use std::time::Duration;

use dialtone_sip::{HeaderName, Message, Method, Params};

/// Who refreshes a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refresher {
    /// Who sent the request.
    Caller,
    /// We, who answer.
    Us,
}

/// What was agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionTimer {
    pub(crate) interval: Duration,
    pub(crate) refresher: Refresher,
    /// Whether the caller knows of it, so that it may be demanded.
    required: bool,
}

/// A wish is shorter than the least that is taken: 422.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooSmall;

/// No longer than a day, whatever is wished.
const LONGEST: u32 = 86_400;

impl SessionTimer {
    /// From a request that begins or refreshes a session; `wish` is ours when it has none.
    pub(crate) fn agree(
        request: &Message,
        wish: Duration,
        least: Duration,
    ) -> Result<Self, TooSmall> {
        let knows = request.has_token(HeaderName::Supported, "timer");
        let asked = request.header_str(HeaderName::SessionExpires).and_then(parse);
        let min = request.header_str(HeaderName::MinSe).and_then(parse).map_or(0, |(min, _)| min);
        match asked {
            Some((seconds, refresher)) => {
                let interval = Duration::from_secs(seconds.into());
                if interval < least {
                    // Section 9: only to those who understand the answer; the others are given more time.
                    if knows {
                        return Err(TooSmall);
                    }
                }
                // Section 9, table 2.
                let refresher = match (knows, refresher) {
                    (false, _) | (true, Some(Refresher::Us)) => Refresher::Us,
                    (true, _) => Refresher::Caller,
                };
                Ok(Self { interval: interval.max(least), refresher, required: knows })
            }
            None => {
                let interval = wish.max(least).max(Duration::from_secs(min.into()));
                let refresher = if knows { Refresher::Caller } else { Refresher::Us };
                Ok(Self { interval, refresher, required: knows })
            }
        }
    }

    /// The headers of the answer.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&'static str, String)> {
        let refresher = match self.refresher {
            Refresher::Caller => "uac",
            Refresher::Us => "uas",
        };
        let value = format!("{};refresher={refresher}", self.interval.as_secs());
        // Section 9: "If the refresher parameter is 'uac', the UAS MUST place a Require header field"; who does not know
        // the extension must not be told of it.
        let require =
            (self.refresher == Refresher::Caller).then(|| ("Require", "timer".to_owned()));
        self.required.then_some(("Session-Expires", value)).into_iter().chain(require)
    }

    /// When it ends if nobody refreshes it (section 10: a third, at most 32 s, before the interval is over).
    pub(crate) fn ends_after(&self) -> Duration {
        self.interval - (self.interval / 3).min(Duration::from_secs(32))
    }

    /// When we refresh it, if that is ours to do.
    pub(crate) fn refresh_after(&self) -> Option<Duration> {
        (self.refresher == Refresher::Us).then_some(self.interval / 2)
    }

    /// From an answer to our own refresh, in which `uac` means us.
    pub(crate) fn answered(&mut self, response: &Message) {
        let said = response.header_str(HeaderName::SessionExpires).and_then(parse);
        if let Some((seconds, refresher)) = said {
            self.interval = Duration::from_secs(seconds.max(90).into());
            self.refresher = match refresher {
                // The one who answers is the caller of the dialog.
                Some(Refresher::Us) => Refresher::Caller,
                _ => Refresher::Us,
            };
        }
    }

    /// Whether UPDATE may be used for a refresh.
    pub(crate) fn allows_update(request: &Message) -> bool {
        request.tokens(HeaderName::Allow).any(|method| Method::new(method) == Method::Update)
    }
}

/// `SECONDS;refresher=uac|uas`.
fn parse(text: &str) -> Option<(u32, Option<Refresher>)> {
    let (seconds, params) = text.split_at(text.find(';').unwrap_or(text.len()));
    let seconds: u32 = seconds.trim().parse().ok()?;
    let refresher = match Params::new(params).get("refresher") {
        Some(value) if value.eq_ignore_ascii_case("uac") => Some(Refresher::Caller),
        Some(value) if value.eq_ignore_ascii_case("uas") => Some(Refresher::Us),
        _ => None,
    };
    Some((seconds.min(LONGEST), refresher))
}
