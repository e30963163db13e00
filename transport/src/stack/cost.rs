//! What a question and its answer cost the one who is asked, without system calls.

use nix::time::{ClockId, clock_gettime};

use super::tests::{Net, addr};
use super::*;

fn cpu() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap())
}

/// Prints a row for each load. Messages that are sent together share packets, and acknowledgements travel with them.
#[test]
fn messages_share_packets() {
    const QUESTION: usize = 52;
    const COUNT: usize = 16_000;
    for (outstanding, answer, most) in
        [(1, 300, 1.0), (8, 300, 0.5), (64, 300, 0.5), (64, 60, 0.2), (64, 1_000, 1.1)]
    {
        let mut net = Net::new(2);
        let (one, two) = net.pair();
        let (mut spent, mut read, mut sent) = (Duration::ZERO, 0, 0);
        for _ in 0..COUNT / outstanding {
            let now = net.now;
            for _ in 0..outstanding {
                let payload = vec![7; QUESTION];
                net.stack(1).handle_command(now, NetCommand::Send { assoc: one, payload });
            }
            net.stack(1).flush(now);
            let mut answered = 0;
            while answered < outstanding {
                let there = std::mem::take(&mut net.stack(1).transmits);
                let stack = net.stack(2);
                let begun = cpu();
                for (_, bytes) in &there {
                    stack.handle_datagram(now, addr(1), bytes);
                }
                for event in std::mem::take(&mut stack.events) {
                    assert!(matches!(event, NetEvent::Message { .. }), "{event:?}");
                    let payload = vec![8; answer];
                    stack.handle_command(now, NetCommand::Send { assoc: two, payload });
                }
                stack.flush(now);
                spent += cpu() - begun;
                let back = std::mem::take(&mut stack.transmits);
                (read, sent) = (read + there.len(), sent + back.len());
                for (_, bytes) in &back {
                    net.stack(1).handle_datagram(now, addr(2), bytes);
                }
                answered += net.stack(1).events.drain(..).count();
            }
            net.run(Duration::from_micros(200));
        }
        let per = |n: usize| n as f64 / COUNT as f64;
        let each = spent.as_secs_f64() * 1e6 / COUNT as f64;
        println!(
            "table: | {outstanding} | {QUESTION} | {answer} | {each:.1} | {:.2} | {:.2} |",
            per(read),
            per(sent)
        );
        assert!(per(sent) <= most + 0.01, "{outstanding} outstanding: {:.2} packets", per(sent));
    }
}
