//! Mixing without sockets and clocks: packets in, a call for every 20 ms, packets out.
//!
//! - A [`Room`] has members; [`Room::tick`] plays what each has sent and sends everybody the sum of the others.
//! - [`Inbound`] is what one member sends: [`jitter`], [`codec`], [`conceal`].
//! - [`rtp`] and [`rtcp`] read and write packets, [`dtmf`] the keys, [`tones`] makes the room's own sounds, [`resample`]
//!   stands between members at 8 kHz and at 16 kHz.
//!
//! A room sums its narrow members at 8 kHz and its wide ones at 16 kHz, and converts each *sum* to the other rate, once.
//! So a member's own sound can be taken out of the total exactly, at its own rate, and a room of telephones costs nothing
//! for what it does not have.

pub mod codec;
pub mod conceal;
pub mod dtmf;
mod g711;
pub mod inbound;
pub mod jitter;
pub mod level;
pub mod member;
pub mod resample;
pub mod room;
pub mod rtcp;
pub mod rtp;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod tones;

pub use codec::Codec;
pub use inbound::{Inbound, Received, Reception};
pub use member::{MemberSettings, MemberStats};
pub use room::{Frames, Room, RoomEvent, RoomSettings, Sink};

/// Units of 125 µs in a frame.
pub const UNITS: usize = 160;
/// Samples of a frame at 8 kHz.
pub const NARROW: usize = 160;
/// Samples of a frame at 16 kHz.
pub const WIDE: usize = 320;
/// Frames in a second.
pub const TICKS_PER_SECOND: u32 = 50;
