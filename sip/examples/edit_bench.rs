//! Times parse, check, edit and serialise of a typical INVITE: `cargo run --release -p dialtone-sip --example edit_bench`.

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use dialtone_sip::transaction::{ClientKey, Layer, Output, ServerKey, Timers};
use dialtone_sip::transport::{ConnId, Flow};
use dialtone_sip::{Edit, HeaderName, Message, ResponseBuilder};

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}

fn time(name: &str, mut work: impl FnMut()) {
    const ROUNDS: u32 = 2_000;
    let mut best = f64::MAX;
    for _ in 0..300 {
        let start = now();
        for _ in 0..ROUNDS {
            work();
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
    }
    println!("{name:<32} {best:>8.0} ns");
}

fn main() {
    let bytes = Bytes::from(common::invite());
    println!("INVITE of {} bytes", bytes.len());
    let source = "203.0.113.9:31000".parse().expect("address");
    let message = Message::parse(bytes.clone()).expect("valid");
    time("parse", || {
        black_box(Message::parse(black_box(bytes.clone())).expect("valid"));
    });
    time("check", || black_box(&message).check().expect("valid"));
    time("edit and serialise", || {
        black_box(edit(black_box(&message), source));
    });
    time("parse, edit, serialise", || {
        let message = Message::parse(black_box(bytes.clone())).expect("valid");
        black_box(edit(&message, source));
    });
    let unfolded = common::invite().replace("one\r\n two,\r\n\tthree", "one two, three");
    time("rsip: parse, serialise", || {
        let message = rsip::Request::try_from(black_box(unfolded.as_bytes())).expect("valid");
        black_box(message.to_string());
    });
    time("response", || {
        black_box(
            ResponseBuilder::new(black_box(&message), 180).to_tag("abc").build().expect("built"),
        );
    });
    time("transaction keys", || {
        black_box((
            ServerKey::of(black_box(&message)).expect("key"),
            ClientKey::of(&message).expect("key"),
        ));
    });
    transactions(Flow::Tcp(ConnId(1)));
    transactions(Flow::Udp { socket: 0, peer: source });
}

/// A request that comes, is passed up and answered, with the transaction gone or kept for timer J.
fn transactions(flow: Flow) {
    let register = common::invite().replace("INVITE", "REGISTER");
    let mut layer = Layer::new(Timers::default());
    let start = now();
    let mut serial = 0_u32;
    let name = if matches!(flow, Flow::Tcp(_)) {
        "server transaction, TCP"
    } else {
        "server transaction, UDP"
    };
    time(name, || {
        serial += 1;
        // Timers run as at 10,000 requests a second.
        let at = start + std::time::Duration::from_micros(100) * serial;
        layer.handle_timeout(at);
        let text = register.replace("7d3f6c2b", &serial.to_string());
        let message = Message::parse(text.into_bytes().into()).expect("valid");
        layer.handle_message(at, message, flow).expect("matched");
        while let Some(output) = layer.poll() {
            if let Output::Request { id, request, .. } = output {
                let ok = ResponseBuilder::new(&request, 200).to_tag("abc").build().expect("built");
                layer.respond(at, id, 200, ok);
            }
        }
    });
    println!("  {} server transactions kept", layer.stats().servers);
}

fn edit(message: &Message, source: std::net::SocketAddr) -> Bytes {
    let mut edit = Edit::new(message);
    edit.set_request_uri("sip:bob@198.51.100.7:5080;ob")
        .stamp_via(source)
        .push_via("SIP/2.0/TCP 127.0.0.1:5070;branch=z9hG4bK0011223344556677.1.abcdefabcdef")
        .remove_values(HeaderName::Route, 1)
        .add_before(
            HeaderName::RecordRoute,
            "Record-Route",
            "<sip:AAECAwQFBgcICQoLDA0ODw@127.0.0.1:5060;lr>",
        )
        .set_max_forwards(69);
    edit.finish()
}
