//! Requests: what a pool user asks of a relay.

use std::{fmt, net::IpAddr};

use crate::{
    bencode::{self, Dict, DictEncoder, Encoder, Fault, Value},
    message::Command,
};

/// One request. Fields that were not given are `None`, `false` or empty; what each means to a call is the relay's to say.
///
/// Names of keys, flags and options are taken in any case, and with spaces or hyphens between their words. Of keys that
/// come twice the last counts; lists that come twice add up. A list may also be one string with commas, as later
/// versions of rtpengine take it.
///
/// ```
/// use dialtone_ng::message::{Command, Datagram, Request};
///
/// let received = b"7_1 d3:sdp5:v=0\r\n7:call-id3:abc8:from-tag1:f5:flagsl13:trust addresse\
///     7:replacel6:origin18:session-connectione8:rtcp-muxl5:offer7:requiree3:ICE6:remove\
///     4:SDESl3:offe7:command5:offere";
/// let request = Request::decode(Datagram::split(received).unwrap().body).unwrap();
/// assert_eq!(request.command, Command::Offer);
/// assert_eq!(request.call_id, Some(&b"abc"[..]));
/// assert_eq!(request.flags.trust_address, Some(true));
/// assert!(request.replace.origin && request.replace.session_connection);
/// assert!(request.rtcp_mux.offer && request.rtcp_mux.require);
/// // Nothing here encrypts.
/// assert_eq!(request.ignored.iter().map(ToString::to_string).collect::<Vec<_>>(), ["SDES"]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    pub command: Command<'a>,
    pub call_id: Option<&'a [u8]>,
    pub from_tag: Option<&'a [u8]>,
    pub to_tag: Option<&'a [u8]>,
    pub via_branch: Option<&'a [u8]>,
    /// The label of who sends the SDP (`label` or `from-label`).
    pub label: Option<&'a [u8]>,
    /// The label of who gets it (`set-label` or `to-label`).
    pub set_label: Option<&'a [u8]>,
    pub sdp: Option<&'a [u8]>,
    pub flags: Flags,
    pub replace: Replace,
    pub ice: Option<Ice>,
    /// Names of interfaces: where the SDP comes from, where it goes to.
    pub direction: [Option<&'a [u8]>; 2],
    pub rtcp_mux: RtcpMux,
    /// As it stands in `m=`, or `accept`.
    pub transport_protocol: Option<&'a [u8]>,
    pub media_address: Option<IpAddr>,
    pub address_family: Option<AddressFamily>,
    pub received_from: Option<IpAddr>,
    /// Whether the call is to be recorded from now on, by `record call` or by a flag.
    pub record_call: Option<bool>,
    pub metadata: Option<&'a [u8]>,
    /// Name of a recording, without its ending.
    pub output_destination: Option<&'a [u8]>,
    /// Seconds.
    pub delete_delay: Option<i64>,
    /// Most calls that `list` answers.
    pub limit: Option<i64>,
    /// Type of service of the media packets; the value is whatever was given.
    pub tos: Option<i64>,
    /// The client can be told `load limit`.
    pub supports_load_limit: bool,
    /// What was given and has no field here, in the order in which it came.
    pub ignored: Vec<Ignored<'a>>,
}

/// Entries of the list `flags`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `trust-address`, or `SIP-source-address` for `Some(false)`.
    pub trust_address: Option<bool>,
    pub symmetric: bool,
    pub asymmetric: bool,
    pub strict_source: bool,
    pub loop_protect: bool,
    /// For `delete`: an unknown call is an error, not a warning.
    pub fatal: bool,
}

/// Entries of the list `replace`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replace {
    pub origin: bool,
    pub session_connection: bool,
    pub session_name: bool,
    pub sdp_version: bool,
    pub username: bool,
    pub zero_address: bool,
}

/// Entries of the list `rtcp-mux`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RtcpMux {
    pub offer: bool,
    pub require: bool,
    pub demux: bool,
    pub accept: bool,
    pub reject: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ice {
    Default,
    Force,
    ForceRelay,
    Optional,
    Remove,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFamily {
    V4,
    V6,
}

/// Something that was given and has no meaning here: a key, an entry of a list, or the value of an option. Its name
/// came from the network: who counts by name bounds how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ignored<'a> {
    /// The key in which it stood, unless it is a key itself.
    pub within: Option<&'static str>,
    pub name: &'a [u8],
}

impl fmt::Display for Ignored<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(within) = self.within {
            write!(f, "{within}/")?;
        }
        // `flags/pierce NAT` and `flags/pierce-NAT` are the same.
        for character in self.name.escape_ascii() {
            write!(f, "{}", if character == b' ' { '-' } else { char::from(character) })?;
        }
        Ok(())
    }
}

/// Why a request cannot be told; its text is what rtpengine answers as `error-reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    #[error("Invalid data (no payload)")]
    NoPayload,
    #[error("Invalid NG data format")]
    Format,
    #[error("Could not decode bencode dictionary")]
    Bencode(#[from] bencode::DecodeError),
    #[error("Dictionary contains no key \"command\"")]
    NoCommand,
}

impl<'a> Request<'a> {
    pub const fn new(command: Command<'a>) -> Self {
        Self {
            command,
            call_id: None,
            from_tag: None,
            to_tag: None,
            via_branch: None,
            label: None,
            set_label: None,
            sdp: None,
            flags: Flags {
                trust_address: None,
                symmetric: false,
                asymmetric: false,
                strict_source: false,
                loop_protect: false,
                fatal: false,
            },
            replace: Replace {
                origin: false,
                session_connection: false,
                session_name: false,
                sdp_version: false,
                username: false,
                zero_address: false,
            },
            ice: None,
            direction: [None; 2],
            rtcp_mux: RtcpMux {
                offer: false,
                require: false,
                demux: false,
                accept: false,
                reject: false,
            },
            transport_protocol: None,
            media_address: None,
            address_family: None,
            received_from: None,
            record_call: None,
            metadata: None,
            output_destination: None,
            delete_delay: None,
            limit: None,
            tos: None,
            supports_load_limit: false,
            ignored: Vec::new(),
        }
    }

    /// Reads the body of a datagram.
    pub fn decode(body: &'a [u8]) -> Result<Self, RequestError> {
        match body.first() {
            None => return Err(RequestError::NoPayload),
            Some(b'd') => {}
            Some(_) => return Err(RequestError::Format),
        }
        let value = Value::decode(body)?;
        // What starts with a `d` and decodes is a dictionary.
        let dict = value.as_dict().ok_or(RequestError::Format)?;
        Self::from_dict(dict)
    }

    fn from_dict(dict: &Dict<'a>) -> Result<Self, RequestError> {
        let command = dict.bytes("command").ok_or(RequestError::NoCommand)?;
        let mut request = Self::new(Command::from_bytes(command));
        for (key, value) in &dict.entries {
            request.take(key, value);
        }
        Ok(request)
    }

    fn take(&mut self, key: &'a [u8], value: &Value<'a>) {
        let bytes = value.as_bytes();
        match Plain::of(key).name() {
            b"command" => {}
            b"call-id" => self.call_id = bytes,
            b"from-tag" => self.from_tag = bytes,
            b"to-tag" => self.to_tag = bytes,
            b"via-branch" => self.via_branch = bytes,
            b"label" | b"from-label" => self.label = bytes,
            b"set-label" | b"to-label" => self.set_label = bytes,
            b"sdp" => self.sdp = bytes,
            b"flags" => each(value, |flag| self.take_flag(flag)),
            b"replace" => each(value, |option| self.take_replace("replace", option, option)),
            b"rtcp-mux" => each(value, |option| self.take_rtcp_mux("rtcp-mux", option, option)),
            b"supports" => each(value, |option| match Plain::of(option).name() {
                b"load-limit" => self.supports_load_limit = true,
                _ => self.ignore("supports", option),
            }),
            b"ice" => match bytes.map(Plain::of).as_ref().map(Plain::name) {
                Some(b"default") => self.ice = Some(Ice::Default),
                Some(b"force") => self.ice = Some(Ice::Force),
                Some(b"force-relay" | b"force_relay") => self.ice = Some(Ice::ForceRelay),
                Some(b"optional") => self.ice = Some(Ice::Optional),
                Some(b"remove") => self.ice = Some(Ice::Remove),
                _ => self.ignore("ICE", bytes.unwrap_or_default()),
            },
            b"direction" => {
                let list = value.as_list().unwrap_or_default();
                self.direction = [0, 1].map(|side| list.get(side).and_then(Value::as_bytes));
            }
            b"transport-protocol" => self.transport_protocol = bytes,
            b"media-address" => {
                self.media_address = bytes.and_then(address);
                if self.media_address.is_none() {
                    self.ignore("media-address", bytes.unwrap_or_default());
                }
            }
            b"address-family" => match bytes {
                Some(b"IP4" | b"ip4" | b"inet") => self.address_family = Some(AddressFamily::V4),
                Some(b"IP6" | b"ip6" | b"inet6") => self.address_family = Some(AddressFamily::V6),
                _ => self.ignore("address-family", bytes.unwrap_or_default()),
            },
            b"received-from" => {
                // The family says nothing that the address does not.
                let text = value.as_list().and_then(|list| list.get(1)?.as_bytes());
                self.received_from = text.and_then(address);
                if self.received_from.is_none() {
                    self.ignore("received-from", text.unwrap_or_default());
                }
            }
            b"record-call" => match bytes {
                Some(b"yes" | b"on") => self.record_call = Some(true),
                Some(b"no" | b"off") => self.record_call = Some(false),
                _ => self.ignore("record-call", bytes.unwrap_or_default()),
            },
            b"metadata" => self.metadata = bytes,
            b"output-destination" => self.output_destination = bytes,
            b"delete-delay" => self.delete_delay = value.to_integer(),
            b"limit" => self.limit = value.to_integer(),
            b"tos" => self.tos = value.to_integer(),
            _ => self.ignored.push(Ignored { within: None, name: key }),
        }
    }

    fn take_flag(&mut self, flag: &'a [u8]) {
        match Plain::of(flag).name() {
            b"trust-address" => self.flags.trust_address = Some(true),
            b"sip-source-address" => self.flags.trust_address = Some(false),
            b"symmetric" => self.flags.symmetric = true,
            b"asymmetric" => self.flags.asymmetric = true,
            b"strict-source" => self.flags.strict_source = true,
            b"loop-protect" => self.flags.loop_protect = true,
            b"fatal" => self.flags.fatal = true,
            b"record-call" => self.record_call = Some(true),
            // Later versions of rtpengine take the options of other lists here as well.
            name if name.starts_with(b"replace-") => {
                self.take_replace("flags", flag, &flag[b"replace-".len()..]);
            }
            name if name.starts_with(b"rtcp-mux-") => {
                self.take_rtcp_mux("flags", flag, &flag[b"rtcp-mux-".len()..]);
            }
            _ => self.ignore("flags", flag),
        }
    }

    fn take_replace(&mut self, within: &'static str, whole: &'a [u8], option: &'a [u8]) {
        let replace = &mut self.replace;
        match Plain::of(option).name() {
            b"origin" => replace.origin = true,
            b"session-connection" => replace.session_connection = true,
            b"session-name" => replace.session_name = true,
            b"sdp-version" => replace.sdp_version = true,
            b"username" => replace.username = true,
            b"zero-address" => replace.zero_address = true,
            _ => self.ignore(within, whole),
        }
    }

    fn take_rtcp_mux(&mut self, within: &'static str, whole: &'a [u8], option: &'a [u8]) {
        let mux = &mut self.rtcp_mux;
        match Plain::of(option).name() {
            b"offer" => mux.offer = true,
            b"require" => mux.require = true,
            b"demux" => mux.demux = true,
            b"accept" => mux.accept = true,
            b"reject" => mux.reject = true,
            _ => self.ignore(within, whole),
        }
    }

    fn ignore(&mut self, within: &'static str, name: &'a [u8]) {
        self.ignored.push(Ignored { within: Some(within), name });
    }

    /// The datagram. What was ignored is not sent again. Nothing bounds its length: who sends it sees whether it goes.
    pub fn encode(&self, cookie: &[u8]) -> Vec<u8> {
        let sdp = self.sdp.map_or(0, <[u8]>::len);
        let mut datagram = Vec::with_capacity(cookie.len() + sdp + 400);
        datagram.extend_from_slice(cookie);
        datagram.push(b' ');
        let mut encoder = Encoder::new(datagram);
        encoder.dict(|dict| self.write(dict));
        encoder.into_bytes()
    }

    fn write(&self, dict: &mut DictEncoder<'_>) {
        dict.bytes("command", self.command.as_bytes());
        let strings = [
            ("call-id", self.call_id),
            ("from-tag", self.from_tag),
            ("to-tag", self.to_tag),
            ("via-branch", self.via_branch),
            ("label", self.label),
            ("set-label", self.set_label),
            ("sdp", self.sdp),
            ("ICE", self.ice.map(Ice::name)),
            ("transport-protocol", self.transport_protocol),
            ("metadata", self.metadata),
            ("output-destination", self.output_destination),
            ("address-family", self.address_family.map(AddressFamily::name)),
        ];
        for (key, value) in strings {
            if let Some(value) = value {
                dict.bytes(key, value);
            }
        }
        let flags = [
            ("trust-address", self.flags.trust_address == Some(true)),
            ("SIP-source-address", self.flags.trust_address == Some(false)),
            ("symmetric", self.flags.symmetric),
            ("asymmetric", self.flags.asymmetric),
            ("strict-source", self.flags.strict_source),
            ("loop-protect", self.flags.loop_protect),
            ("fatal", self.flags.fatal),
        ];
        let replace = [
            ("origin", self.replace.origin),
            ("session-connection", self.replace.session_connection),
            ("session-name", self.replace.session_name),
            ("SDP-version", self.replace.sdp_version),
            ("username", self.replace.username),
            ("zero-address", self.replace.zero_address),
        ];
        let rtcp_mux = [
            ("offer", self.rtcp_mux.offer),
            ("require", self.rtcp_mux.require),
            ("demux", self.rtcp_mux.demux),
            ("accept", self.rtcp_mux.accept),
            ("reject", self.rtcp_mux.reject),
        ];
        let supports = [("load limit", self.supports_load_limit)];
        let lists: [(&str, &[(&str, bool)]); 4] = [
            ("flags", &flags),
            ("replace", &replace),
            ("rtcp-mux", &rtcp_mux),
            ("supports", &supports),
        ];
        for (key, options) in lists {
            if options.iter().any(|(_, set)| *set) {
                let set = options.iter().filter(|(_, set)| *set);
                dict.strings(key, set.map(|(name, _)| name));
            }
        }
        if let [Some(from), to] = self.direction {
            dict.strings("direction", [Some(from), to].into_iter().flatten());
        }
        if let Some(address) = self.media_address {
            dict.bytes("media-address", address.to_string());
        }
        if let Some(address) = self.received_from {
            let family = if address.is_ipv4() { AddressFamily::V4 } else { AddressFamily::V6 };
            dict.list("received-from", |list| {
                list.bytes(family.name());
                list.bytes(address.to_string());
            });
        }
        if let Some(record) = self.record_call {
            dict.bytes("record-call", if record { "yes" } else { "no" });
        }
        let integers =
            [("delete-delay", self.delete_delay), ("limit", self.limit), ("TOS", self.tos)];
        for (key, value) in integers {
            if let Some(value) = value {
                dict.integer(key, value);
            }
        }
    }
}

impl Ice {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Default => b"default",
            Self::Force => b"force",
            Self::ForceRelay => b"force-relay",
            Self::Optional => b"optional",
            Self::Remove => b"remove",
        }
    }
}

impl AddressFamily {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::V4 => b"IP4",
            Self::V6 => b"IP6",
        }
    }
}

impl RequestError {
    /// Where the bencode is broken, for the log; the answer does not say it.
    pub const fn fault(&self) -> Option<(usize, Fault)> {
        match self {
            Self::Bencode(error) => Some((error.offset, error.fault)),
            _ => None,
        }
    }
}

/// The strings of a list, or of one string with commas.
fn each<'a>(value: &Value<'a>, mut take: impl FnMut(&'a [u8])) {
    match value {
        Value::List(list) => list.iter().filter_map(Value::as_bytes).for_each(take),
        Value::Bytes(bytes) => {
            for part in bytes.split(|byte| *byte == b',') {
                take(part);
            }
        }
        Value::Integer(_) | Value::Dict(_) => {}
    }
}

/// An address, an IPv6 one also in brackets.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(bytes).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok()
}

/// A name with small letters, and hyphens for spaces. A name that is too long is none that is known.
struct Plain {
    name: [u8; Self::LONGEST],
    length: usize,
}

impl Plain {
    const LONGEST: usize = 32;

    fn of(written: &[u8]) -> Self {
        let mut plain = Self { name: [0; Self::LONGEST], length: 0 };
        if let Some(name) = plain.name.get_mut(..written.len()) {
            for (to, from) in name.iter_mut().zip(written) {
                *to = if *from == b' ' { b'-' } else { from.to_ascii_lowercase() };
            }
            plain.length = written.len();
        }
        plain
    }

    fn name(&self) -> &[u8] {
        &self.name[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::Datagram;

    fn decode(datagram: &[u8]) -> Result<Request<'_>, RequestError> {
        Request::decode(Datagram::split(datagram).unwrap().body)
    }

    fn ignored(request: &Request<'_>) -> Vec<String> {
        request.ignored.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_cannot_be_told_is_answered_as_rtpengine_does() {
        let reason = |datagram: &[u8]| decode(datagram).unwrap_err().to_string();
        assert_eq!(reason(b"1 "), "Invalid data (no payload)");
        assert_eq!(reason(b"1 le"), "Invalid NG data format");
        assert_eq!(reason(b"1 {\"command\":\"ping\"}"), "Invalid NG data format");
        assert_eq!(reason(b"1 d7:command4:ping"), "Could not decode bencode dictionary");
        assert_eq!(reason(b"1 de"), "Dictionary contains no key \"command\"");
        assert_eq!(reason(b"1 d7:commandi4ee"), "Dictionary contains no key \"command\"");
        assert_eq!(decode(b"1 d7:command3:fooe").unwrap().command, Command::Other(b"foo"));
        assert_eq!(decode(b"1 d7:command4:PINGe").unwrap().command, Command::Other(b"PING"));
    }

    #[test]
    fn what_kamailio_sends() {
        // Its offer for rtpengine_manage("replace-origin replace-session-connection ICE=remove rtcp-mux-demux
        // trust-address RTP/AVP record-call direction=pub direction=priv media-address=192.0.2.1").
        let datagram = b"1234_7 d8:supportsl10:load limite3:sdp6:v=0 \r\n3:ICE6:remove9:directionl3:pub4:prive\
            5:flagsl13:trust-addresse7:replacel6:origin18:session-connectione8:rtcp-muxl5:demuxe\
            18:transport-protocol7:RTP/AVP13:media-address9:192.0.2.111:record-call2:on\
            7:call-id3:a@b13:received-froml3:IP49:192.0.2.9e8:from-tag2:ft7:command5:offere";
        let request = decode(datagram).unwrap();
        let expected = Request {
            call_id: Some(b"a@b"),
            from_tag: Some(b"ft"),
            sdp: Some(b"v=0 \r\n"),
            flags: Flags { trust_address: Some(true), ..Flags::default() },
            replace: Replace { origin: true, session_connection: true, ..Replace::default() },
            ice: Some(Ice::Remove),
            direction: [Some(b"pub"), Some(b"priv")],
            rtcp_mux: RtcpMux { demux: true, ..RtcpMux::default() },
            transport_protocol: Some(b"RTP/AVP"),
            media_address: Some("192.0.2.1".parse().unwrap()),
            received_from: Some("192.0.2.9".parse().unwrap()),
            record_call: Some(true),
            supports_load_limit: true,
            ..Request::new(Command::Offer)
        };
        assert_eq!(request, expected);
    }

    #[test]
    fn names_are_taken_with_spaces_hyphens_and_in_any_case() {
        let request = decode(
            b"1 d7:command5:offer7:call ID1:c3:SDP1:s14:address family3:IP613:received froml3:IP63:::1e\
              11:record call2:no12:delete delay2:305:flagsl18:SIP source address13:strict source\
              14:rtcp-mux-offer14:replace-origine7:replacel11:SDP versione\
              18:transport protocol9:RTP/SAVPFe",
        )
        .unwrap();
        let expected = Request {
            call_id: Some(b"c"),
            sdp: Some(b"s"),
            address_family: Some(AddressFamily::V6),
            received_from: Some("::1".parse().unwrap()),
            record_call: Some(false),
            delete_delay: Some(30),
            flags: Flags { trust_address: Some(false), strict_source: true, ..Flags::default() },
            rtcp_mux: RtcpMux { offer: true, ..RtcpMux::default() },
            replace: Replace { origin: true, sdp_version: true, ..Replace::default() },
            transport_protocol: Some(b"RTP/SAVPF"),
            ..Request::new(Command::Offer)
        };
        assert_eq!(request, expected);
    }

    #[test]
    fn what_has_no_meaning_is_kept_by_name() {
        let request = decode(
            b"1 d7:command5:offer5:codecd5:stripl4:opusee5:flagsl10:pierce NAT9:symmetric3:no\ni4ee3:ICE4:lite7:replacel3:alle\
              8:rtcp-muxl3:offe13:media-address4:home14:address family3:IPX13:received-fromle\
              11:record-calli1ee",
        )
        .unwrap();
        assert_eq!(
            ignored(&request),
            [
                "codec",
                "flags/pierce-NAT",
                "flags/no\\n",
                "ICE/lite",
                "replace/all",
                "rtcp-mux/off",
                "media-address/home",
                "address-family/IPX",
                "received-from/",
                "record-call/",
            ]
        );
        assert!(request.flags.symmetric);
    }

    #[test]
    fn of_keys_that_come_twice_the_last_counts_and_lists_add_up() {
        let request = decode(
            b"1 d7:command5:offer7:call-id1:a7:call-id1:b7:replacel6:origine7:replace8:usernamee",
        )
        .unwrap();
        assert_eq!(request.call_id, Some(&b"b"[..]));
        assert!(request.replace.origin && request.replace.username);
    }

    #[test]
    fn a_list_may_be_one_string() {
        let request = decode(b"1 d7:command5:offer5:flags23:trust-address,symmetrice").unwrap();
        assert_eq!(request.flags.trust_address, Some(true));
        assert!(request.flags.symmetric);
    }

    #[test]
    fn a_name_of_any_length_is_survived() {
        for length in [31, 32, 33, 5_000] {
            let name = "x".repeat(length);
            let datagram = format!("1 d7:command4:ping{length}:{name}1:ye");
            let request = decode(datagram.as_bytes()).unwrap();
            assert_eq!(ignored(&request), [name]);
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes_to_the_same(
            strings in prop::collection::vec(prop::option::of("[ -~]{0,30}"), 9),
            bits in prop::collection::vec(any::<bool>(), 17),
            options in (0..4_usize, 0..6_usize, 0..3_usize, 0..3_usize),
            addresses in (prop::option::of(any::<IpAddr>()), prop::option::of(any::<IpAddr>())),
            numbers in prop::collection::vec(prop::option::of(any::<i64>()), 3),
        ) {
            let string = |at: usize| strings[at].as_deref().map(str::as_bytes);
            let request = Request {
                call_id: string(0),
                from_tag: string(1),
                to_tag: string(2),
                via_branch: string(3),
                label: string(4),
                set_label: string(5),
                sdp: string(6),
                flags: Flags {
                    trust_address: [None, Some(true), Some(false), None][options.0],
                    symmetric: bits[0],
                    asymmetric: bits[1],
                    strict_source: bits[2],
                    loop_protect: bits[3],
                    fatal: bits[4],
                },
                replace: Replace {
                    origin: bits[5],
                    session_connection: bits[6],
                    session_name: bits[7],
                    sdp_version: bits[8],
                    username: bits[9],
                    zero_address: bits[10],
                },
                ice: [
                    None,
                    Some(Ice::Default),
                    Some(Ice::Force),
                    Some(Ice::ForceRelay),
                    Some(Ice::Optional),
                    Some(Ice::Remove),
                ][options.1],
                direction: [string(7), string(7).and(string(8))],
                rtcp_mux: RtcpMux {
                    offer: bits[11],
                    require: bits[12],
                    demux: bits[13],
                    accept: bits[14],
                    reject: bits[15],
                },
                transport_protocol: string(8),
                media_address: addresses.0,
                address_family: [None, Some(AddressFamily::V4), Some(AddressFamily::V6)][options.2],
                received_from: addresses.1,
                record_call: [None, Some(true), Some(false)][options.3],
                metadata: string(5),
                output_destination: string(4),
                delete_delay: numbers[0],
                limit: numbers[1],
                tos: numbers[2],
                supports_load_limit: bits[16],
                ..Request::new(Command::Answer)
            };
            let datagram = request.encode(b"cookie");
            let split = Datagram::split(&datagram).unwrap();
            prop_assert_eq!(split.cookie, b"cookie");
            prop_assert_eq!(Request::decode(split.body).unwrap(), request);
        }

        #[test]
        fn any_datagram_is_survived(datagram in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Some(datagram) = Datagram::split(&datagram) {
                let _ = Request::decode(datagram.body);
            }
        }
    }
}
