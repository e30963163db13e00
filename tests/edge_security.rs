//! What phones cannot make gateways do, and what gateways leave as it is: tampered tokens, made-up routes, foreign
//! domains; the size and the body of an INVITE.

#[allow(dead_code, reason = "each test has use for a part of it")]
#[path = "support/sip.rs"]
mod sip;

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use dialtone::launcher::{Launcher, Layout};
use dialtone_sip_pool::{
    keys::Keys,
    token::{FlowToken, Use},
};
use sip::{Dialog, LIMIT, Phone, call, hang_up, uri};

/// The project's promise: what is added to a request on its way to a phone, in bytes.
const BUDGET: usize = 350;

/// Two gateways with a phone each, registered.
fn start() -> (Launcher, Phone, Phone) {
    let layout = Layout { registrars: 1, ..Layout::default() };
    let mut launcher = Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap();
    launcher.start_registrar(1).unwrap();
    let names = [
        launcher.spawn_location_db(),
        launcher.spawn_proxy(1),
        launcher.spawn_gateway(1),
        launcher.spawn_gateway(2),
    ];
    for name in names {
        launcher.wait_ready(&name.unwrap()).unwrap();
    }
    let mut alice = phone(&mut launcher, "alice", 1);
    let mut bob = phone(&mut launcher, "bob", 2);
    alice.register();
    bob.register();
    (launcher, alice, bob)
}

/// A phone with an address of its own that uses gateway `n`.
fn phone(launcher: &mut Launcher, user: &str, n: u8) -> Phone {
    let socket = UdpSocket::bind((launcher.slice().host(100 + n), 0)).unwrap();
    Phone::new(user, socket, address(launcher, n, "sip-udp"))
}

fn address(launcher: &mut Launcher, gateway: u8, purpose: &str) -> SocketAddr {
    let addresses = launcher.addresses(&format!("sip-gateway-{gateway}")).unwrap();
    addresses[purpose].parse().unwrap()
}

/// Asks for something in a dialog along these routes; the code of the answer, or `None` if it reached Bob.
fn in_dialog(
    alice: &mut Phone,
    bob: &mut Phone,
    dialog: &Dialog,
    routes: &[String],
) -> Option<u16> {
    let request = dialog.request(alice, "INFO", routes);
    alice.send(&request);
    let call_id = &dialog.call_id;
    for _ in 0..500 {
        if let Some(answer) = alice.receive(Duration::from_millis(20))
            && answer.status() >= 200
            && answer.value("Call-ID") == call_id
        {
            return Some(answer.status());
        }
        if let Some(delivered) = bob.receive(Duration::from_millis(1)) {
            assert!(delivered.is("INFO"), "{}", delivered.start());
            bob.answer(&delivered, "200 OK", "", "");
            alice.expect("Bob's answer", |answer| answer.status() == 200);
            return None;
        }
    }
    panic!("neither answered nor delivered: {request}");
}

/// The token of a route.
fn token(route: &str) -> &str {
    uri(route).strip_prefix("sip:").unwrap().split_once('@').unwrap().0
}

/// Every text that differs from a token by one bit of what it stands for.
fn tampered(token: &str) -> Vec<String> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut all = Vec::new();
    for at in 0..token.len() {
        let digit = ALPHABET.iter().position(|digit| *digit == token.as_bytes()[at]).unwrap();
        for bit in 0..6 {
            let mut bytes = token.as_bytes().to_vec();
            bytes[at] = ALPHABET[digit ^ (1 << bit)];
            all.push(String::from_utf8(bytes).unwrap());
        }
    }
    all
}

/// Every text that differs from a token by one bit and still is ASCII.
fn mistyped(token: &str) -> Vec<String> {
    let flip = |bit: usize| {
        let mut bytes = token.as_bytes().to_vec();
        bytes[bit / 7] ^= 1 << (bit % 7);
        String::from_utf8(bytes).unwrap()
    };
    (0..7 * token.len()).map(flip).collect()
}

/// Whether a token can stand in a URI at all (RFC 3261 section 25.1, `user`).
fn is_user(token: &str) -> bool {
    token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&byte))
}

#[test]
fn tokens_with_one_bit_changed_are_refused() {
    let (mut launcher, mut alice, mut bob) = start();
    let (dialog, delivered) = call(&mut alice, &mut bob, "", "");
    let [own, other] = dialog.routes.clone().try_into().unwrap();
    assert_eq!(in_dialog(&mut alice, &mut bob, &dialog, &dialog.routes), None);

    // Record-Route tokens, in the Route of a request inside the dialog: of the own flow and of the other one.
    let mut tried = 0;
    for (place, original) in [(0, &own), (1, &other)] {
        let original_token = token(original);
        let changed: BTreeSet<String> =
            tampered(original_token).into_iter().chain(mistyped(original_token)).collect();
        for changed in changed {
            let mut routes = dialog.routes.clone();
            routes[place] = original.replace(original_token, &changed);
            let code = in_dialog(&mut alice, &mut bob, &dialog, &routes);
            // What is no URI any more is a bad request, if not a forbidden one.
            let right = code == Some(403) || (code == Some(400) && !is_user(&changed));
            assert!(right, "{code:?} for {routes:?}");
            tried += 1;
        }
    }
    // The token of the own flow, preloaded in a new request: it would not even be used.
    let changed = tampered(token(&own)).swap_remove(77);
    let headers = format!("Route: {}\r\n", own.replace(token(&own), &changed));
    let request = alice.request("MESSAGE", "sip:bob@dialtone.test", &headers, "");
    assert_eq!(alice.ask(&request).status(), 403);

    // Path tokens never reach a phone; this is what the proxy has stored of Bob's.
    let keys = Keys::load(&launcher.folder().join("keys")).unwrap();
    let flow = FlowToken::verify(&keys, token(&other).as_bytes()).unwrap().flow;
    let path = FlowToken { use_: Use::Path, flow }.sign(&keys);
    let as_route = other.replace(token(&other), &path);
    let code = in_dialog(&mut alice, &mut bob, &dialog, &[own.clone(), as_route]);
    assert_eq!(code, Some(403), "a phone may not use Path tokens");
    let core = address(&mut launcher, 2, "sip-core");
    let mut proxy = TcpStream::connect(core).unwrap();
    proxy.set_read_timeout(Some(LIMIT)).unwrap();
    for changed in tampered(&path) {
        assert_eq!(core_status(&mut proxy, core, &changed, &bob.local), 403, "{changed}");
        tried += 1;
    }
    assert!(bob.receive(Duration::from_millis(200)).is_none());
    // With the right one it would have reached Bob.
    write_request(&mut proxy, core, &path, &bob.local);
    let message = bob.expect("a MESSAGE", |message| message.is("MESSAGE"));
    bob.answer(&message, "200 OK", "", "");

    println!("table: {tried} tokens with one bit changed, each refused");
    let record: Vec<&str> = delivered.lines("Record-Route");
    assert_eq!(record.len(), 2, "{record:?}");
    hang_up(&mut alice, &mut bob, &dialog);
    assert_eq!(launcher.stop_all(), Vec::<String>::new());
}

/// A request as a proxy sends it.
fn write_request(proxy: &mut TcpStream, core: SocketAddr, token: &str, target: &SocketAddr) {
    let id = fastrand::u64(..);
    let text = format!(
        "MESSAGE sip:bob@{target} SIP/2.0\r\nVia: SIP/2.0/TCP {};branch=z9hG4bK{id:x}\r\nRoute: <sip:{token}@{core};lr>\r\n\
         Max-Forwards: 70\r\nFrom: <sip:x@dialtone.test>;tag=x\r\nTo: <sip:bob@dialtone.test>\r\nCall-ID: {id:x}\r\n\
         CSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n",
        proxy.local_addr().unwrap()
    );
    proxy.write_all(text.as_bytes()).unwrap();
}

/// The final answer to such a request.
fn core_status(proxy: &mut TcpStream, core: SocketAddr, token: &str, target: &SocketAddr) -> u16 {
    write_request(proxy, core, token, target);
    let mut text = String::new();
    let mut byte = [0];
    loop {
        while !text.ends_with("\r\n\r\n") {
            proxy.read_exact(&mut byte).unwrap();
            text.push(char::from(byte[0]));
        }
        let code = text.trim_start().strip_prefix("SIP/2.0 ").map(|rest| rest[..3].parse());
        match code {
            Some(Ok(code @ 200..)) => return code,
            _ => text.clear(),
        }
    }
}

/// Somebody outside who must not hear a word.
struct Canary {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddr,
}

impl Canary {
    fn new(launcher: &Launcher) -> Self {
        let tcp = TcpListener::bind((launcher.slice().host(200), 0)).unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).unwrap();
        tcp.set_nonblocking(true).unwrap();
        // It is all ears.
        udp.send_to(b"tweet", address).unwrap();
        udp.recv_from(&mut [0; 10]).unwrap();
        udp.set_nonblocking(true).unwrap();
        Self { udp, tcp, address }
    }

    fn assert_silence(&self, after: &str) {
        let mut buffer = [0; 2_000];
        let heard = self.udp.recv_from(&mut buffer);
        let nothing = heard.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        let text = String::from_utf8_lossy(&buffer);
        assert!(nothing, "after {after}: {heard:?}: {}", text.trim_end_matches('\0'));
        let connected = self.tcp.accept().map(|(_, from)| from);
        let nobody = connected.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(nobody, "after {after}: a connection from {connected:?}");
    }
}

#[test]
fn routes_made_up_by_a_phone_lead_nowhere() {
    let (mut launcher, mut alice, mut bob) = start();
    let canary = Canary::new(&launcher);
    let at = canary.address;
    let gateway = alice.gateway;
    let bobs_gateway = bob.gateway;
    let (dialog, _) = call(&mut alice, &mut bob, "", "");
    let [own, other] = dialog.routes.clone().try_into().unwrap();
    let there = format!("<sip:{at};lr>");
    let over_tcp = format!("<sip:{at};transport=tcp;lr>");

    // Inside a dialog every value must be a token: of the own gateway first, then of the other one.
    for routes in [
        vec![there.clone()],
        vec![over_tcp.clone()],
        vec![own.clone(), there.clone()],
        vec![own.clone(), over_tcp.clone()],
        vec![own.clone(), other.clone(), there.clone()],
        vec![there.clone(), own.clone(), other.clone()],
        vec![own.clone(), format!("<sip:{at}>")],
        vec![own.clone(), format!("<sip:x@sip-proxy.pool.invalid;lr>"), there.clone()],
        vec![format!("<sip:{gateway};lr>"), there.clone()],
        vec![format!("<sip:{gateway};lr>"), format!("<sip:{bobs_gateway};lr>"), there.clone()],
    ] {
        assert_eq!(in_dialog(&mut alice, &mut bob, &dialog, &routes), Some(403), "{routes:?}");
        canary.assert_silence(&format!("{routes:?}"));
    }
    // Without a route the target alone leads nowhere.
    let elsewhere = Dialog { target: format!("sip:x@{at}"), ..dialog.clone() };
    let code = in_dialog(&mut alice, &mut bob, &elsewhere, &[]);
    assert!(code.is_some_and(|code| code >= 400), "{code:?}");
    canary.assert_silence("a foreign target without a route");
    // A host beside a right token, and a foreign target behind right tokens, change nothing: tokens decide.
    let host = |route: &str, host: SocketAddr| {
        format!("<sip:{}@{at};lr>", token(route)).replace(&at.to_string(), &host.to_string())
    };
    let moved = [own.clone(), host(&other, at)];
    in_dialog(&mut alice, &mut bob, &dialog, &moved);
    canary.assert_silence("a right token at a foreign host");
    assert_eq!(in_dialog(&mut alice, &mut bob, &elsewhere, &dialog.routes), None);
    canary.assert_silence("a foreign target along right routes");

    // New requests: preloaded routes are not followed, the request goes to Bob.
    for headers in [
        format!("Route: {there}\r\n"),
        format!("Route: {over_tcp}\r\n"),
        format!("Route: <sip:{gateway};lr>, {there}\r\n"),
        format!("Route: {own}\r\nRoute: {there}\r\n"),
        format!("Route: {own}\r\nRoute: {other}\r\nRoute: {there}\r\n"),
        format!("Path: {there}\r\n"),
        format!("Record-Route: {there}\r\n"),
    ] {
        let request = alice.request("MESSAGE", "sip:bob@dialtone.test", &headers, "");
        alice.send(&request);
        let delivered = bob.expect("a MESSAGE", |message| message.is("MESSAGE"));
        for name in ["Route", "Path"] {
            assert!(delivered.lines(name).is_empty(), "{:?}", delivered.lines(name));
        }
        assert!(!delivered.lines("Record-Route").concat().contains(&at.to_string()));
        bob.answer(&delivered, "200 OK", "", "");
        alice.expect("Bob's answer", |answer| answer.status() == 200);
        canary.assert_silence(&headers);
    }

    // Foreign domains are refused whatever is asked.
    for domain in
        [at.to_string(), "elsewhere.test".to_owned(), format!("dialtone.test.{}", at.ip())]
    {
        for method in ["INVITE", "MESSAGE", "OPTIONS", "REGISTER", "SUBSCRIBE", "BYE"] {
            let target = if method == "REGISTER" {
                format!("sip:{domain}")
            } else {
                format!("sip:x@{domain}")
            };
            let headers = alice.contact();
            let request = alice.request(method, &target, &headers, "");
            let answer = alice.ask(&request);
            assert_eq!(answer.status(), 403, "{method} {target}");
            if method == "INVITE" {
                // Or it would be repeated.
                let branch = request.lines().find(|line| line.starts_with("Via")).unwrap();
                let ack = request.replace("INVITE", "ACK").replace(
                    request.lines().find(|line| line.starts_with("To")).unwrap(),
                    answer.lines("To")[0],
                );
                assert!(ack.contains(branch));
                alice.send(&ack);
            }
            canary.assert_silence(&format!("{method} {target}"));
        }
    }

    // Parameters that name another place.
    for target in [
        format!("sip:bob@dialtone.test;maddr={}", at.ip()),
        format!("sip:bob@dialtone.test:{};maddr={}", at.port(), at.ip()),
    ] {
        let request = alice.request("OPTIONS", &target, "", "");
        alice.send(&request);
        if let Some(delivered) = bob.receive(Duration::from_millis(500)) {
            bob.answer(&delivered, "200 OK", "", "");
        }
        alice.expect("an answer", |answer| answer.status() >= 200);
        canary.assert_silence(&target);
    }
    // Answers go where requests came from, whatever Via says.
    for via in [
        format!("SIP/2.0/UDP {at};branch="),
        format!("SIP/2.0/UDP {at};maddr={};branch=", at.ip()),
        format!(
            "SIP/2.0/UDP {};maddr={};received={};rport={};branch=",
            alice.local,
            at.ip(),
            at.ip(),
            at.port()
        ),
    ] {
        let own_via = format!("SIP/2.0/UDP {};branch=", alice.local);
        let request =
            alice.request("OPTIONS", "sip:nobody@dialtone.test", "", "").replace(";rport", "");
        assert!(request.contains(&own_via));
        let answer = alice.ask(&request.replace(&own_via, &via));
        assert_eq!(answer.status(), 404);
        canary.assert_silence(&via);
    }

    // Who says to be elsewhere is called where it is.
    let headers =
        format!("Contact: <sip:bob@{at}>\r\nPath: {there}\r\nSupported: path\r\nExpires: 60\r\n");
    let request = bob.request("REGISTER", "sip:dialtone.test", &headers, "");
    let request = request.replace("To: <sip:dialtone.test>", "To: <sip:bob@dialtone.test>");
    assert_eq!(bob.ask(&request).status(), 200);
    let unregister = bob.contact() + "Expires: 0\r\n";
    let request = bob.request("REGISTER", "sip:dialtone.test", &unregister, "");
    let request = request.replace("To: <sip:dialtone.test>", "To: <sip:bob@dialtone.test>");
    assert_eq!(bob.ask(&request).status(), 200);
    let request = alice.request("MESSAGE", "sip:bob@dialtone.test", "", "");
    alice.send(&request);
    let delivered = bob.expect("a MESSAGE", |message| message.is("MESSAGE"));
    assert_eq!(delivered.start(), format!("MESSAGE sip:bob@{at} SIP/2.0"));
    bob.answer(&delivered, "200 OK", "", "");
    alice.expect("Bob's answer", |answer| answer.status() == 200);
    canary.assert_silence("a Contact elsewhere");

    hang_up(&mut alice, &mut bob, &dialog);
    canary.assert_silence("everything");
    assert_eq!(launcher.stop_all(), Vec::<String>::new());
}

/// A session description with audio and video, of this length.
fn video(local: SocketAddr, length: usize) -> String {
    let ip = local.ip();
    let mut sdp = format!(
        "v=0\r\no=alice 2890844526 2890844526 IN IP4 {ip}\r\ns=Dialtone \u{e9}\u{2713}\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
         m=audio 49170 RTP/AVP 96 8 0 101\r\na=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1\r\n\
         a=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\n\
         m=video 51372 RTP/AVP 97 98\r\nb=AS:1024\r\na=rtpmap:97 H264/90000\r\n\
         a=fmtp:97 profile-level-id=42e01f;packetization-mode=1\r\na=rtpmap:98 VP8/90000\r\na=rtcp-fb:* nack pli\r\n\
         a=rtcp-fb:* ccm fir\r\na=sendrecv\r\n"
    );
    // The rest is an attribute that nobody knows, with the odd byte in it.
    let rest = length.checked_sub(sdp.len() + "a=x-rest:\r\n".len()).unwrap();
    let odd = "\t \u{fc}%00=;,<>\"";
    let filling = format!("{odd}{}", "x".repeat(rest - odd.len()));
    sdp.push_str(&format!("a=x-rest:{filling}\r\n"));
    assert_eq!(sdp.len(), length);
    sdp
}

#[test]
fn a_long_invite_with_video_arrives_over_udp_as_it_was_sent() {
    let (mut launcher, mut alice, mut bob) = start();
    let headers = format!(
        "{}Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, INFO\r\nSupported: replaces, outbound\r\nX-Odd :  \u{fc}\r\n\tfolded\r\n\
         Content-Type: application/sdp\r\n",
        alice.contact()
    );
    let size = 1_200;
    let mut length = 700;
    // Random parts have a length of their own: correct the body until all fits.
    let (invite, body) = (0..1_000)
        .find_map(|_| {
            let body = video(alice.local, length);
            let invite = alice.request("INVITE", "sip:bob@dialtone.test", &headers, &body);
            length = length + size - invite.len();
            (invite.len() == size).then_some((invite, body))
        })
        .unwrap();
    alice.send(&invite);
    let delivered = bob.expect("an INVITE", |message| message.is("INVITE"));
    assert_eq!(delivered.body(), body.as_bytes());
    for line in ["Supported: replaces, outbound", "X-Odd :  \u{fc}\r\n\tfolded"] {
        let line = format!("\r\n{line}\r\n").into_bytes();
        let found = delivered.bytes.windows(line.len()).any(|window| window == line);
        assert!(found, "{}", String::from_utf8_lossy(&line));
    }
    let added = delivered.bytes.len().checked_sub(size).unwrap();
    println!("table: an INVITE of {size} bytes over UDP: {added} bytes added, {BUDGET} allowed");
    assert!(added <= BUDGET, "{added}");

    // The answer is as long, and comes back as it was sent.
    let headers = format!("{}Content-Type: application/sdp\r\n", bob.contact());
    let answer_body = video(bob.local, body.len());
    bob.answer(&delivered, "200 OK", &headers, &answer_body);
    let answer = alice.expect("a final answer", |message| message.status() >= 200);
    assert_eq!((answer.status(), answer.body()), (200, answer_body.as_bytes()));
    let dialog = Dialog::new(&answer);
    let ack = dialog.request(&mut alice, "ACK", &dialog.routes);
    alice.send(&ack);
    bob.expect("an ACK", |message| message.is("ACK"));
    hang_up(&mut alice, &mut bob, &dialog);
    assert_eq!(launcher.stop_all(), Vec::<String>::new());
}
