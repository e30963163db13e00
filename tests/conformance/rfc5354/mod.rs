//! RFC 5354, common parameters: what every message is made of.

mod s2_s4_framing;
mod s3_12_causes;
mod s3_parameters;
