//! Protocol numbers: newtypes with their known constants, so that unknown values survive and can be echoed.

use std::fmt;

macro_rules! number {
    ($(#[$meta:meta])* $name:ident($inner:ty, $width:literal) {
        $($(#[$const_meta:meta])* $constant:ident = $value:literal, $label:literal;)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            $($(#[$const_meta])* pub const $constant: Self = Self($value);)*

            /// The name of a known value.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($label),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, concat!("{:#0", $width, "x}"), self.0),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

number! {
    /// ASAP message types (RFC 5352, section 2.2).
    AsapType(u8, "4") {
        REGISTRATION = 0x01, "registration";
        DEREGISTRATION = 0x02, "deregistration";
        REGISTRATION_RESPONSE = 0x03, "registration response";
        DEREGISTRATION_RESPONSE = 0x04, "deregistration response";
        HANDLE_RESOLUTION = 0x05, "handle resolution";
        HANDLE_RESOLUTION_RESPONSE = 0x06, "handle resolution response";
        ENDPOINT_KEEP_ALIVE = 0x07, "endpoint keep-alive";
        ENDPOINT_KEEP_ALIVE_ACK = 0x08, "endpoint keep-alive ack";
        ENDPOINT_UNREACHABLE = 0x09, "endpoint unreachable";
        SERVER_ANNOUNCE = 0x0a, "server announce";
        COOKIE = 0x0b, "cookie";
        COOKIE_ECHO = 0x0c, "cookie echo";
        BUSINESS_CARD = 0x0d, "business card";
        ERROR = 0x0e, "error";
    }
}

number! {
    /// ENRP message types (RFC 5353, section 2).
    EnrpType(u8, "4") {
        PRESENCE = 0x01, "presence";
        HANDLE_TABLE_REQUEST = 0x02, "handle table request";
        HANDLE_TABLE_RESPONSE = 0x03, "handle table response";
        HANDLE_UPDATE = 0x04, "handle update";
        LIST_REQUEST = 0x05, "list request";
        LIST_RESPONSE = 0x06, "list response";
        INIT_TAKEOVER = 0x07, "init takeover";
        INIT_TAKEOVER_ACK = 0x08, "init takeover ack";
        TAKEOVER_SERVER = 0x09, "takeover server";
        ERROR = 0x0a, "error";
    }
}

number! {
    /// Parameter types (RFC 5354, section 3). The two action bits are part of the value.
    ParameterType(u16, "6") {
        IPV4_ADDRESS = 0x0001, "IPv4 address";
        IPV6_ADDRESS = 0x0002, "IPv6 address";
        DCCP_TRANSPORT = 0x0003, "DCCP transport";
        SCTP_TRANSPORT = 0x0004, "SCTP transport";
        TCP_TRANSPORT = 0x0005, "TCP transport";
        UDP_TRANSPORT = 0x0006, "UDP transport";
        UDP_LITE_TRANSPORT = 0x0007, "UDP-Lite transport";
        POLICY = 0x0008, "pool member selection policy";
        POOL_HANDLE = 0x0009, "pool handle";
        POOL_ELEMENT = 0x000a, "pool element";
        SERVER_INFORMATION = 0x000b, "server information";
        OPERATION_ERROR = 0x000c, "operation error";
        COOKIE = 0x000d, "cookie";
        PE_IDENTIFIER = 0x000e, "PE identifier";
        PE_CHECKSUM = 0x000f, "PE checksum";
        OPAQUE_TRANSPORT = 0x0010, "opaque transport";
        /// Number of items wanted in a handle resolution (draft asap-hropt).
        HANDLE_RESOLUTION_OPTION = 0x803f, "handle resolution option";
        /// UDP port of an element's SCTP encapsulation (RFC 6951), inside Pool Element; our own.
        ENCAPSULATION_PORT = 0x8c0d, "UDP encapsulation port";
    }
}

number! {
    /// Error causes (RFC 5354, section 3.12).
    CauseCode(u16, "6") {
        UNSPECIFIED = 0x0000, "unspecified error";
        UNRECOGNIZED_PARAMETER = 0x0001, "unrecognized parameter";
        UNRECOGNIZED_MESSAGE = 0x0002, "unrecognized message";
        INVALID_VALUES = 0x0003, "invalid values";
        NON_UNIQUE_PE_IDENTIFIER = 0x0004, "non-unique PE identifier";
        INCONSISTENT_POLICY = 0x0005, "inconsistent pooling policy";
        LACK_OF_RESOURCES = 0x0006, "lack of resources";
        INCONSISTENT_TRANSPORT = 0x0007, "inconsistent transport type";
        INCONSISTENT_USE = 0x0008, "inconsistent data/control configuration";
        UNKNOWN_POOL_HANDLE = 0x0009, "unknown pool handle";
        SECURITY = 0x000a, "rejected due to security considerations";
    }
}

number! {
    /// Pool policies (RFC 5356). Bit 31: private use, bit 30: adaptive.
    PolicyType(u32, "10") {
        ROUND_ROBIN = 0x0000_0001, "round robin";
        WEIGHTED_ROUND_ROBIN = 0x0000_0002, "weighted round robin";
        RANDOM = 0x0000_0003, "random";
        WEIGHTED_RANDOM = 0x0000_0004, "weighted random";
        PRIORITY = 0x0000_0005, "priority";
        LEAST_USED = 0x4000_0001, "least used";
        LEAST_USED_DEGRADATION = 0x4000_0002, "least used with degradation";
        PRIORITY_LEAST_USED = 0x4000_0003, "priority least used";
        RANDOMIZED_LEAST_USED = 0x4000_0004, "randomized least used";
    }
}

impl PolicyType {
    /// False for the two numbers that RFC 5356 declares invalid.
    pub const fn is_valid(self) -> bool {
        !matches!(self.0, 0x0000_0000 | 0x4000_0000)
    }
}

number! {
    /// Transport Use of an SCTP Transport (RFC 5354, section 3.4).
    TransportUse(u16, "6") {
        DATA_ONLY = 0x0000, "data only";
        DATA_PLUS_CONTROL = 0x0001, "data plus control";
    }
}

number! {
    /// Update Action of ENRP_HANDLE_UPDATE (RFC 5353, section 2.4).
    UpdateAction(u16, "6") {
        ADD_PE = 0x0000, "add PE";
        DEL_PE = 0x0001, "delete PE";
    }
}

number! {
    /// Identifies a pool element within its pool (RFC 5352, section 3.1).
    PeId(u32, "10") {}
}

number! {
    /// Identifies a registrar (RFC 5353, section 2.1).
    ServerId(u32, "10") {
        /// No server, or the whole group.
        NONE = 0x0000_0000, "none";
    }
}

/// What the two top bits of an unknown type ask for (RFC 5354, sections 3 and 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    /// Skip the parameter and go on; otherwise the whole message is discarded.
    pub(crate) skip: bool,
    pub(crate) report: bool,
}

impl ParameterType {
    pub(crate) const fn action(self) -> Action {
        Action { skip: self.0 & 0x8000 != 0, report: self.0 & 0x4000 != 0 }
    }
}

/// RFC 5354, section 4: only 00 and 01 are defined for messages; the reserved 10 and 11 are treated as 00.
pub(crate) const fn report_unknown_message(number: u8) -> bool {
    number >> 6 == 0b01
}
