//! Random schedules over a lossy network: what [`crate::model`] promises, tried on the SCTP code itself.
//!
//! Two registrars and two elements behind one NAT, virtual time. Datagrams are lost, doubled, delayed past each other
//! and damaged; the NAT gives other ports; processes are killed (silent or with ICMP), come back on their address, or
//! freeze. Then the network heals, and what is left must work, end in order and leave nothing behind.
//!
//! A seed decides everything: stacks draw tags, sequence numbers and cookie keys from [`Entropy::Seeded`], and
//! dcsctp, which uses this thread's `fastrand` generator, is seeded with it, too. `LOSSY_SEEDS=0..5000` runs more
//! seeds, `LOSSY_TRACE=1` prints what happened. Most of the time goes into dcsctp's own log lines, a hexadecimal dump of
//! every packet that it makes whether somebody listens or not.

mod ledger;
mod net;

use std::time::Duration;

use super::{AssocId, NetCommand, Protocol, Stack};
use net::{HOSTS, Net};

const STORM: Duration = Duration::from_secs(12);

#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    hash: u64,
    messages: u64,
    ups: u64,
    moves: u64,
    restarts: u64,
    suspects: u64,
    timed_out: u64,
}

fn run(seed: u64) -> Outcome {
    let reproduce = Reproduce(seed);
    fastrand::seed(seed);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut net = Net::new(&mut random);
    storm(&mut net, &mut random);
    heal(&mut net, &mut random);
    end(&mut net, &mut random);
    drop(reproduce);
    net.outcome()
}

fn storm(net: &mut Net, random: &mut fastrand::Rng) {
    let end = net.now + STORM;
    while net.now < end {
        net.run(Duration::from_micros(random.u64(..200_000)));
        for _ in 0..random.u32(1..4) {
            act(net, random);
        }
    }
}

fn act(net: &mut Net, random: &mut fastrand::Rng) {
    let host = random.usize(..HOSTS);
    match random.u32(..1_000) {
        0..150 => dial(net, host, random),
        150..850 => {
            if let Some(line) = net.pick(host, random) {
                for _ in 0..random.u32(1..5) {
                    let size = match random.u32(..40) {
                        0 => random.usize(1..60_001),
                        1..8 => random.usize(1..5_000),
                        _ => random.usize(1..200),
                    };
                    net.send(line, size);
                }
                net.flush(host);
            }
        }
        850..890 => {
            if let Some(line) = net.pick(host, random) {
                net.finish(line, random.bool());
            }
        }
        890..905 if net.faults => net.kill(host, random),
        905..920 if net.faults => net.freeze(host, Duration::from_millis(random.u64(1..5_000))),
        920..970 if net.faults => net.rebind(host, random),
        _ => (),
    }
}

fn dial(net: &mut Net, host: usize, random: &mut fastrand::Rng) {
    let to = random.usize(..HOSTS);
    // Elements have no ENRP and do not dial each other.
    if to == host || (host > 1 && to > 1) {
        return;
    }
    let enrp = host < 2 && to < 2 && random.bool();
    net.dial(host, to, if enrp { Protocol::Enrp } else { Protocol::Asap });
}

/// From here on nothing is lost: dials succeed, and what was sent arrives.
fn heal(net: &mut Net, random: &mut fastrand::Rng) {
    net.heal(random);
    net.run(net::DEAD_AFTER + net::STALE);
    net.check_pairs();
    let mut fresh = Vec::new();
    for _ in 0..6 {
        let host = random.usize(..HOSTS);
        let known = net.ledger.lines.len();
        dial(net, host, random);
        fresh.extend(known..net.ledger.lines.len());
    }
    net.run(Duration::from_secs(3));
    for line in fresh {
        net.ledger.check_up(line);
    }
    for line in net.ledger.all_up() {
        for size in [1, if line.is_multiple_of(4) { 60_000 } else { 1_500 }, 7] {
            net.send(line, size);
        }
        net.flush(net.ledger.lines[line].host);
    }
    net.run(Duration::from_secs(5));
    net.check_pairs();
    net.check_all_arrived();
}

fn end(net: &mut Net, random: &mut fastrand::Rng) {
    for line in net.ledger.all_up() {
        let partner = net.ledger.lines[line].partner;
        // Each association is ended by one of its sides, or by both at once, with something still under way.
        let both = line.is_multiple_of(3);
        if both || partner.is_none_or(|partner| line < partner) {
            net.send(line, random.usize(1..if line.is_multiple_of(4) { 60_000 } else { 4_000 }));
            net.finish(line, true);
        }
    }
    net.run(Duration::from_secs(8));
    net.check_nothing_left();
}

/// Names the seed when a check fails.
struct Reproduce(u64);

impl Drop for Reproduce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!(
                "reproduce with LOSSY_TRACE=1 LOSSY_SEEDS={seed}..{} cargo test -p dialtone-transport lossy",
                seed + 1
            );
        }
    }
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(wanted) = std::env::var("LOSSY_SEEDS") else { return 0..100 };
    let range =
        wanted.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    range.expect("LOSSY_SEEDS is a range like 0..5000")
}

#[test]
fn promises_hold_on_a_lossy_network() {
    let mut sum = Outcome::default();
    let seeds = seeds();
    for seed in seeds.clone() {
        let outcome = run(seed);
        if seed % 10 == 0 {
            assert_eq!(run(seed).hash, outcome.hash, "seed {seed} gives two traces");
        }
        sum.messages += outcome.messages;
        sum.ups += outcome.ups;
        sum.moves += outcome.moves;
        sum.restarts += outcome.restarts;
        sum.suspects += outcome.suspects;
        sum.timed_out += outcome.timed_out;
    }
    println!("{seeds:?}: {sum:?}");
    // The faults do happen.
    let count = seeds.count() as u64;
    if count >= 50 {
        assert!(sum.messages > 100 * count && sum.ups > 10 * count, "{sum:?}");
        assert!(sum.moves > count && sum.timed_out > count / 2, "{sum:?}");
        assert!(sum.restarts > 0 && sum.suspects > 0, "{sum:?}");
    }
}
