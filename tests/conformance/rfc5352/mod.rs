//! RFC 5352, ASAP: a file for each section.

mod s2_1_transport;
mod s2_2_messages;
mod s3_1_element;
mod s3_1_registration;
mod s3_2_deregistration;
mod s3_2_element;
mod s3_3_resolution;
mod s3_3_user;
mod s3_4_keep_alive;
mod s3_5_unreachable;
mod s3_5_user;
mod s3_6_hunt;
mod s4_roles;
mod s6_1_registration;
mod s7_defaults;
mod s8_ports;
