//! RFC 5353, ENRP: a file for each section. Scripted peers and a real registrar core; timers as telephony has them:
//! PEER-HEARTBEAT-CYCLE 1 s, MAX-TIME-LAST-HEARD 2.5 s, MAX-TIME-NO-RESPONSE 1 s.

mod s2_messages;
mod s3_2_startup;
mod s3_3_updates;
mod s3_4_presence;
mod s3_5_takeover;
mod s3_6_audit;
mod s3_7_reports;
mod s4_defaults;
