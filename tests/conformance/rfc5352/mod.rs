//! RFC 5352, ASAP: a file for each section.

mod s2_1_transport;
mod s2_2_messages;
mod s3_1_registration;
mod s3_2_deregistration;
mod s3_3_resolution;
mod s3_5_unreachable;
