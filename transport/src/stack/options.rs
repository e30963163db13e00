//! What dcsctp is told.

use std::time::Duration;

use dcsctp::api::Options;

use super::{MAX_MESSAGE, STREAMS, Stack};
use crate::model::Protocol;

impl Stack {
    pub(super) fn options(&self, protocol: Protocol, local_port: u16, remote_port: u16) -> Options {
        let timers = &self.config.timers;
        let send_buffer = match protocol {
            Protocol::Asap => self.config.send_buffer,
            Protocol::Enrp => self.config.enrp_send_buffer,
        };
        Options {
            local_port,
            remote_port,
            announced_maximum_incoming_streams: STREAMS,
            announced_maximum_outgoing_streams: STREAMS,
            mtu: self.config.mtu,
            max_message_size: MAX_MESSAGE,
            max_receiver_window_buffer_size: self.config.receive_window,
            max_send_buffer_size: send_buffer,
            per_stream_send_queue_limit: send_buffer,
            rto_initial: timers.rto_initial,
            rto_min: timers.rto_min,
            rto_max: timers.rto_max,
            t1_init_timeout: timers.init_timeout,
            t1_cookie_timeout: timers.init_timeout,
            t2_shutdown_timeout: timers.rto_initial,
            max_timer_backoff_duration: Some(timers.rto_max),
            heartbeat_interval: timers.heartbeat,
            delayed_ack_max_timeout: Duration::from_millis(40),
            min_rtt_variance: Duration::from_millis(50),
            max_retransmissions: Some(timers.max_retransmissions),
            max_init_retransmits: Some(timers.max_init_retransmissions),
            enable_partial_reliability: false,
            // Packet::parse has done it, with the processor's instruction.
            disable_checksum_verification: true,
            ..Options::default()
        }
    }
}
