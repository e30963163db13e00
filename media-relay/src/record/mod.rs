//! Recording of calls to files: pcap of all packets, WAV of G.711 audio.
//!
//! [`Recorder`] owns a folder and a thread that writes. A recording of a call ([`Recorder::begin`]) hands out one
//! [`Tap`] for each of its pairs; workers of the [plane](crate::plane) copy accepted packets into it. The queue between
//! them is bounded by bytes: what does not fit is dropped and counted, and the call is not disturbed.

mod tap;

pub use tap::{Packet, Tap};
