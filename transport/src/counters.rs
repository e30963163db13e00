//! Counters of one endpoint: written by its thread and tasks, read as a snapshot.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What an endpoint has counted since it was bound.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Name and value of every counter, for metrics.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        #[derive(Debug, Default)]
        pub(crate) struct Live {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Live {
            pub(crate) fn snapshot(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// UDP datagrams received.
    packets_in,
    /// UDP datagrams sent.
    packets_out,
    /// Datagrams that the operating system refused to send.
    send_failures,
    /// Not an SCTP packet, or its chunks do not add up.
    malformed,
    /// CRC32c wrong.
    bad_checksum,
    /// COOKIE ECHO whose cookie this endpoint did not make for this peer.
    bad_cookie,
    /// COOKIE ECHO whose cookie is genuine, but too old.
    stale_cookie,
    /// Packets that belong to no association.
    out_of_the_blue,
    /// Packets of an association's peer address whose verification tag was wrong.
    wrong_tag,
    /// INITs dropped by a rate limit.
    handshakes_dropped,
    /// Associations refused because there were too many, all in all or with one address.
    associations_refused,
    /// TCP connections that the system could not hand over: out of descriptors, or gone already.
    accepts_failed,
    /// Associations and connections that came up.
    ups,
    /// Associations and connections that ended after they had been up.
    downs,
    /// Aborts received.
    aborts_in,
    /// Peers that restarted without ending their association.
    restarts,
    /// Peers whose UDP address changed.
    moves,
    /// ICMP errors that matched an association.
    icmp_matched,
    /// ICMP errors that matched none.
    icmp_unmatched,
    /// Messages delivered to the consumer.
    messages_in,
    /// Messages accepted for sending.
    messages_out,
    /// Messages dropped: wrong payload protocol identifier.
    wrong_ppid,
    /// Messages dropped: no such association, or too large.
    sends_dropped,
    /// Commands that found a full queue; each ended its association.
    commands_overflowed,
    /// Peers dropped since they did not drain their buffer.
    slow_peers,
    /// Peers dropped since what they sent waited for too much that they did not send.
    hoarders,
    /// Peers dropped since they used streams that they were not offered.
    violations,
    /// TCP streams closed for a frame error.
    bad_frames,
    /// TCP streams that ended, or were closed after 10 s, within a message.
    unfinished,
    /// TLS handshakes of accepted connections that were completed.
    tls_accepted,
    /// TLS handshakes that failed, either side's: wrong certificate, wrong version, no TLS at all.
    tls_failed,
    /// TLS handshakes that took too long or made room for newer ones.
    tls_unfinished,
    /// Connections reset since too many handshakes had begun in that second.
    tls_limited,
    /// Faults of the SCTP code, each contained to one association.
    faults,
}

pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
