//! What a stream sounds like, estimated from loss and delay by the E-model.

use std::time::Duration;

/// The ear's tolerance of packet loss with G.711 and concealment (ITU-T G.113 appendix I); other codecs are worse, and
/// this is an estimate.
const LOSS_ROBUSTNESS: f64 = 25.1;
/// Packetising and a small playout buffer at the far end.
const CODEC_DELAY: f64 = 30.0;

/// The mean opinion score, from 1.0 to 4.4, of speech with this share of packets lost, this interarrival jitter and
/// this round trip from mouth to mouth.
///
/// The rating is R = 93.2 - Id - Ie,eff (ITU-T G.107 with its default values); delay counts as Cole and Rosenbluth
/// ("Voice over IP performance monitoring", 2001) have simplified it. A playout buffer that absorbs jitter costs twice
/// as much delay.
pub fn mos(lost: f64, jitter: Duration, round_trip: Duration) -> f64 {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1_000.0;
    let delay = milliseconds(round_trip) / 2.0 + 2.0 * milliseconds(jitter) + CODEC_DELAY;
    let by_delay = 0.024 * delay + 0.11 * (delay - 177.3).max(0.0);
    let percent = lost.clamp(0.0, 1.0) * 100.0;
    let by_loss = 95.0 * percent / (percent + LOSS_ROBUSTNESS);
    let rating = (93.2 - by_delay - by_loss).clamp(0.0, 100.0);
    // ITU-T G.107 annex B.
    (1.0 + 0.035 * rating + 7e-6 * rating * (rating - 60.0) * (100.0 - rating)).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn good_lines_are_good_and_bad_ones_bad() {
        let perfect = mos(0.0, ms(0), ms(0));
        assert!((4.3..4.5).contains(&perfect), "{perfect}");
        // 2 % loss costs about 0.2, 10 % makes many users dissatisfied (G.107: below 3.1), half is useless.
        let two = mos(0.02, ms(0), ms(40));
        assert!((4.0..4.3).contains(&two), "{two}");
        let ten = mos(0.10, ms(5), ms(40));
        assert!((2.9..3.6).contains(&ten), "{ten}");
        assert!(mos(0.5, ms(20), ms(100)) < 1.8);
        assert!(mos(0.0, ms(0), ms(600)) < 3.6);
        assert_eq!(mos(7.0, ms(1_000), Duration::MAX), 1.0);
    }

    #[test]
    fn more_of_anything_is_worse() {
        for n in 0..100_u32 {
            let less = f64::from(n) / 100.0;
            let more = f64::from(n + 1) / 100.0;
            assert!(mos(more, ms(10), ms(50)) <= mos(less, ms(10), ms(50)));
            let n = u64::from(n);
            assert!(mos(0.01, ms(n + 1), ms(50)) <= mos(0.01, ms(n), ms(50)));
            assert!(mos(0.01, ms(10), ms(10 * n + 10)) <= mos(0.01, ms(10), ms(10 * n)));
        }
    }
}
