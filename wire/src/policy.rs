//! Pool member selection policies (RFC 5354, section 3.8; RFC 5356).

use crate::codec::{Reader, Writer};
use crate::{DecodeError, EncodeError, ParameterType, PolicyType};
use std::borrow::Cow;

/// A policy with the values of one element. Loads and degradations are fractions of 0xffffffff.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Policy<'a> {
    LeastUsed {
        load: u32,
    },
    LeastUsedDegradation {
        load: u32,
        degradation: u32,
    },
    /// A policy that this crate does not know; the data survives.
    Other {
        number: PolicyType,
        data: Cow<'a, [u8]>,
    },
    /// Bigger is better.
    Priority {
        priority: u32,
    },
    PriorityLeastUsed {
        load: u32,
        degradation: u32,
    },
    Random,
    RandomizedLeastUsed {
        load: u32,
    },
    RoundRobin,
    /// Weight 0: cannot serve.
    WeightedRandom {
        weight: u32,
    },
    /// Weight 0: cannot serve.
    WeightedRoundRobin {
        weight: u32,
    },
}

impl<'a> Policy<'a> {
    /// The policy's number.
    pub const fn number(&self) -> PolicyType {
        match self {
            Self::LeastUsed { .. } => PolicyType::LEAST_USED,
            Self::LeastUsedDegradation { .. } => PolicyType::LEAST_USED_DEGRADATION,
            Self::Other { number, .. } => *number,
            Self::Priority { .. } => PolicyType::PRIORITY,
            Self::PriorityLeastUsed { .. } => PolicyType::PRIORITY_LEAST_USED,
            Self::Random => PolicyType::RANDOM,
            Self::RandomizedLeastUsed { .. } => PolicyType::RANDOMIZED_LEAST_USED,
            Self::RoundRobin => PolicyType::ROUND_ROBIN,
            Self::WeightedRandom { .. } => PolicyType::WEIGHTED_RANDOM,
            Self::WeightedRoundRobin { .. } => PolicyType::WEIGHTED_ROUND_ROBIN,
        }
    }

    /// The policy of that number with all values 0, as it stands for a whole pool (RFC 5352, section 2.2.6).
    pub const fn of_pool(number: PolicyType) -> Policy<'static> {
        match number {
            PolicyType::LEAST_USED => Policy::LeastUsed { load: 0 },
            PolicyType::LEAST_USED_DEGRADATION => {
                Policy::LeastUsedDegradation { load: 0, degradation: 0 }
            }
            PolicyType::PRIORITY => Policy::Priority { priority: 0 },
            PolicyType::PRIORITY_LEAST_USED => {
                Policy::PriorityLeastUsed { load: 0, degradation: 0 }
            }
            PolicyType::RANDOM => Policy::Random,
            PolicyType::RANDOMIZED_LEAST_USED => Policy::RandomizedLeastUsed { load: 0 },
            PolicyType::ROUND_ROBIN => Policy::RoundRobin,
            PolicyType::WEIGHTED_RANDOM => Policy::WeightedRandom { weight: 0 },
            PolicyType::WEIGHTED_ROUND_ROBIN => Policy::WeightedRoundRobin { weight: 0 },
            number => Policy::Other { number, data: Cow::Borrowed(&[]) },
        }
    }

    /// The weight, if the policy has one.
    pub const fn weight(&self) -> Option<u32> {
        match self {
            Self::WeightedRandom { weight } | Self::WeightedRoundRobin { weight } => Some(*weight),
            _ => None,
        }
    }

    /// The load, if the policy has one.
    pub const fn load(&self) -> Option<u32> {
        match self {
            Self::LeastUsed { load }
            | Self::LeastUsedDegradation { load, .. }
            | Self::PriorityLeastUsed { load, .. }
            | Self::RandomizedLeastUsed { load } => Some(*load),
            _ => None,
        }
    }

    /// Copies what is borrowed.
    pub fn into_owned(self) -> Policy<'static> {
        match self {
            Self::LeastUsed { load } => Policy::LeastUsed { load },
            Self::LeastUsedDegradation { load, degradation } => {
                Policy::LeastUsedDegradation { load, degradation }
            }
            Self::Other { number, data } => {
                Policy::Other { number, data: Cow::Owned(data.into_owned()) }
            }
            Self::Priority { priority } => Policy::Priority { priority },
            Self::PriorityLeastUsed { load, degradation } => {
                Policy::PriorityLeastUsed { load, degradation }
            }
            Self::Random => Policy::Random,
            Self::RandomizedLeastUsed { load } => Policy::RandomizedLeastUsed { load },
            Self::RoundRobin => Policy::RoundRobin,
            Self::WeightedRandom { weight } => Policy::WeightedRandom { weight },
            Self::WeightedRoundRobin { weight } => Policy::WeightedRoundRobin { weight },
        }
    }

    /// The same, borrowing from this one.
    pub fn borrow(&self) -> Policy<'_> {
        match self {
            Self::Other { number, data } => {
                Policy::Other { number: *number, data: Cow::Borrowed(data) }
            }
            Self::LeastUsed { load } => Policy::LeastUsed { load: *load },
            Self::LeastUsedDegradation { load, degradation } => {
                Policy::LeastUsedDegradation { load: *load, degradation: *degradation }
            }
            Self::Priority { priority } => Policy::Priority { priority: *priority },
            Self::PriorityLeastUsed { load, degradation } => {
                Policy::PriorityLeastUsed { load: *load, degradation: *degradation }
            }
            Self::Random => Policy::Random,
            Self::RandomizedLeastUsed { load } => Policy::RandomizedLeastUsed { load: *load },
            Self::RoundRobin => Policy::RoundRobin,
            Self::WeightedRandom { weight } => Policy::WeightedRandom { weight: *weight },
            Self::WeightedRoundRobin { weight } => Policy::WeightedRoundRobin { weight: *weight },
        }
    }

    /// From the value of a Policy parameter.
    pub(crate) fn decode(mut reader: Reader<'a>) -> Result<Self, DecodeError> {
        let policy = match PolicyType(reader.u32()?) {
            PolicyType::LEAST_USED => Self::LeastUsed { load: reader.u32()? },
            PolicyType::LEAST_USED_DEGRADATION => {
                Self::LeastUsedDegradation { load: reader.u32()?, degradation: reader.u32()? }
            }
            PolicyType::PRIORITY => Self::Priority { priority: reader.u32()? },
            PolicyType::PRIORITY_LEAST_USED => {
                Self::PriorityLeastUsed { load: reader.u32()?, degradation: reader.u32()? }
            }
            PolicyType::RANDOM => Self::Random,
            PolicyType::RANDOMIZED_LEAST_USED => Self::RandomizedLeastUsed { load: reader.u32()? },
            PolicyType::ROUND_ROBIN => Self::RoundRobin,
            PolicyType::WEIGHTED_RANDOM => Self::WeightedRandom { weight: reader.u32()? },
            PolicyType::WEIGHTED_ROUND_ROBIN => Self::WeightedRoundRobin { weight: reader.u32()? },
            number => {
                let data = Cow::Borrowed(reader.rest());
                return Ok(Self::Other { number, data });
            }
        };
        reader.end()?;
        Ok(policy)
    }

    pub(crate) fn encode(&self, writer: &mut Writer) -> Result<(), EncodeError> {
        writer.tlv(ParameterType::POLICY.0, "policy", false, |writer| {
            writer.u32(self.number().0);
            match self {
                Self::LeastUsed { load } | Self::RandomizedLeastUsed { load } => writer.u32(*load),
                Self::LeastUsedDegradation { load, degradation }
                | Self::PriorityLeastUsed { load, degradation } => {
                    writer.u32(*load);
                    writer.u32(*degradation);
                }
                Self::Other { data, .. } => writer.raw(data),
                Self::Priority { priority } => writer.u32(*priority),
                Self::Random | Self::RoundRobin => {}
                Self::WeightedRandom { weight } | Self::WeightedRoundRobin { weight } => {
                    writer.u32(*weight)
                }
            }
            Ok(())
        })
    }
}
