//! Which calls noticed something, and what had happened before: for whoever has to find out why.

use std::time::{Duration, Instant};

use dialtone_bench::board::Call;

/// So many calls are named.
const NAMED: usize = 20;

/// Names the calls since `from` that failed, rang twice, were sent again or were answered later than `late`, each with
/// the last of the `moments` before its answer.
pub(super) fn explain(
    calls: &[Call],
    from: Instant,
    late: Duration,
    moments: &[(Instant, String)],
    mut progress: impl FnMut(&str),
) {
    let noticed = |call: &&Call| {
        call.started >= from
            && (call.failure.is_some()
                || !call.done
                || call.rings > 1
                || call.retransmissions > 0
                || call.answer_delay().is_some_and(|delay| delay > late))
    };
    for call in calls.iter().filter(noticed).take(NAMED) {
        let before = moments
            .iter()
            .rfind(|(at, _)| *at <= call.started + call.final_answer.unwrap_or_default());
        let (at, what) = before.map_or((from, "the beginning"), |(at, what)| (*at, what));
        let relative = if call.started >= at {
            format!("{} ms after", (call.started - at).as_millis())
        } else {
            format!("{} ms before", (at - call.started).as_millis())
        };
        progress(&format!(
            "  {relative} {what}: call {}: first answer {}, answered {}, of that ringing {} and not run {}, rang {} times, sent again {}, BYE {}, {}",
            call.id,
            ms(call.first_answer),
            ms(call.final_answer),
            ms(Some(call.ring)),
            ms(Some(call.stood_still)),
            call.rings,
            call.retransmissions,
            ms(call.bye),
            call.failure.as_deref().unwrap_or("ended"),
        ));
    }
}

fn ms(time: Option<Duration>) -> String {
    time.map_or("never".to_owned(), |time| format!("{} ms", time.as_millis()))
}
