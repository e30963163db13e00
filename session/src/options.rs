//! How a message is to be delivered (RFC 5352 section 6.5.5).

use std::fmt;
use std::ops::BitOr;

/// Options of one message; combined with `|`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SendOptions(u16);

impl SendOptions {
    /// What the session's configuration says; [`SendOptions::TO_LAST`] and [`SendOptions::FAILOVER`] if it says
    /// nothing.
    pub const DEFAULT: Self = Self(0x0000);
    /// When the element cannot be reached the message goes to another one. It may have arrived all the same.
    pub const FAILOVER: Self = Self(0x0001);
    /// When the element cannot be reached the message comes back.
    pub const NO_FAILOVER: Self = Self(0x0002);
    /// To the element to which the message before went. Without it the pool's policy chooses for every message.
    pub const TO_LAST: Self = Self(0x0004);
    /// A copy to every element but this process's own. Copies never fail over.
    pub const TO_ALL: Self = Self(0x0008);
    /// With [`SendOptions::TO_ALL`]: to this process's own element as well.
    pub const TO_SELF: Self = Self(0x0010);
    /// The message may overtake those before it.
    pub const UNORDERED: Self = Self(0x1000);

    const KNOWN: u16 = 0x101f;

    /// The value of RFC 5352; `None` when it has bits without a meaning, or bits that contradict each other.
    pub fn from_bits(bits: u16) -> Option<Self> {
        let options = Self(bits);
        (bits & !Self::KNOWN == 0 && !options.is_contradictory()).then_some(options)
    }

    /// The value of RFC 5352.
    pub const fn bits(self) -> u16 {
        self.0
    }

    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Fail over and do not; one element and all.
    pub fn is_contradictory(self) -> bool {
        let both = |one: Self, two: Self| self.contains(Self(one.0 | two.0));
        both(Self::FAILOVER, Self::NO_FAILOVER) || both(Self::TO_LAST, Self::TO_ALL)
    }

    /// With what `default` says where this one says nothing.
    pub(crate) fn or(self, default: Self) -> Self {
        let order = Self(self.0 & Self::UNORDERED.0);
        if self == order {
            return default | order;
        }
        let failover = Self::FAILOVER.0 | Self::NO_FAILOVER.0;
        if self.0 & failover == 0 { Self(self.0 | default.0 & failover) } else { self }
    }
}

impl BitOr for SendOptions {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for SendOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendOptions({:#06x})", self.0)
    }
}
