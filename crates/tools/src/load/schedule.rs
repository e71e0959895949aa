//! When frames are due: a function of time alone, which never looks at the server.
//!
//! Time is cut into ticks. What a rate makes due within a tick is due at its end, together: so that one wake-up of the
//! sender serves several frames, and their latency counts from a moment that was known beforehand.

use std::{fmt, time::Duration};

use corelane_command::duration;

/// Frames or bits in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rate {
    /// Frames a second.
    Frames(f64),
    /// Bits a second, frame headers included.
    Bits(f64),
}

/// Every so often, for a while, a multiple of the rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bursts {
    factor: f64,
    length: Duration,
    period: Duration,
}

/// What is due when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) frames_a_second: f64,
    /// Time in which the rate grows from nothing to what was asked for.
    pub(super) ramp: Duration,
    pub(super) bursts: Option<Bursts>,
    pub(super) duration: Duration,
}

impl Schedule {
    /// The last tick.
    pub(super) fn ticks(&self) -> u64 {
        self.duration.as_nanos().div_ceil(u128::from(self.tick_ns())) as u64
    }

    /// When `tick` is, from the start.
    pub(super) fn time_of(&self, tick: u64) -> Duration {
        Duration::from_nanos(tick * self.tick_ns())
    }

    /// How many frames `tick` makes due, and all before it.
    pub(super) fn due(&self, tick: u64) -> u64 {
        let seconds = self.time_of(tick).min(self.duration).as_secs_f64();
        let (rate, ramp) = (self.frames_a_second, self.ramp.as_secs_f64());
        let grown = if seconds < ramp { seconds * seconds / (2.0 * ramp) } else { seconds - ramp / 2.0 };
        let extra = self.bursts.map_or(0.0, |bursts| (bursts.factor - 1.0) * bursts.seconds_until(seconds - ramp));
        // What is a whole number is not to be missed by a rounding error.
        (rate * (grown + extra) + 1e-6) as u64
    }

    /// The first tick after `tick` at which there is something to do: a frame beyond the first `frames` is due, a second
    /// is over, or all is.
    pub(super) fn next(&self, tick: u64, frames: u64) -> u64 {
        let is_busy = |tick: &u64| self.ends_second(*tick) || self.due(*tick) > frames;
        (tick + 1..self.ticks()).find(is_busy).unwrap_or(self.ticks())
    }

    /// Whether a second is over at `tick`.
    pub(super) fn ends_second(&self, tick: u64) -> bool {
        tick.is_multiple_of(SECOND_NS / self.tick_ns())
    }

    fn tick_ns(&self) -> u64 {
        if self.frames_a_second * LONG_TICK_NS as f64 >= SECOND_NS as f64 { LONG_TICK_NS } else { SHORT_TICK_NS }
    }
}

impl Rate {
    /// Frames a second, when a frame has so many bytes on average.
    pub(super) fn frames_a_second(self, frame_bytes: f64) -> f64 {
        match self {
            Self::Frames(frames) => frames,
            Self::Bits(bits) => bits / 8.0 / frame_bytes,
        }
    }

    /// `10000`, `10000/s`, `80Mbit/s`, `1.5Gbit`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wanted = || "is not a rate; write frames a second, as 10000, or bits, as 80Mbit/s".to_owned();
        let number = text.strip_suffix("/s").unwrap_or(text).trim_end();
        let units = [("Gbit", 1e9), ("Mbit", 1e6), ("kbit", 1e3), ("bit", 1.0)];
        let bits = units.iter().find_map(|(unit, factor)| Some((number.strip_suffix(unit)?, *factor)));
        let (number, factor) = bits.unwrap_or((number, 1.0));
        let value = number.trim_end().parse::<f64>().map_err(|_| wanted())? * factor;
        let rate = if bits.is_some() { Self::Bits(value) } else { Self::Frames(value) };
        if (1e-3..=1e11).contains(&value) { Ok(rate) } else { Err("is out of range; write 0.001 to 1e11".to_owned()) }
    }
}

impl Bursts {
    /// Seconds inside a burst among the first `seconds`. A burst is in the middle of its period, so that every window of
    /// a period's length has one.
    fn seconds_until(&self, seconds: f64) -> f64 {
        let (length, period) = (self.length.as_secs_f64(), self.period.as_secs_f64());
        let seconds = seconds.max(0.0);
        let whole = (seconds / period).floor();
        whole * length + (seconds - whole * period - (period - length) / 2.0).clamp(0.0, length)
    }

    /// `10x1s/30s`: ten times the rate, for one second, every 30.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wanted = || "is no burst; write FACTORxLENGTH/PERIOD, as 10x1s/30s".to_owned();
        let (factor, times) = text.split_once('x').ok_or_else(wanted)?;
        let (length, period) = times.split_once('/').ok_or_else(wanted)?;
        let time = duration(Duration::from_millis(1)..=DURATION_MAX);
        let factor = factor.parse().ok().filter(|factor| (1.0..=1e4).contains(factor)).ok_or_else(wanted)?;
        let (length, period) = (time(length)?, time(period)?);
        if length > period {
            return Err("has a burst that is longer than its period".to_owned());
        }
        Ok(Self { factor, length, period })
    }
}

impl fmt::Display for Bursts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{:?}/{:?}", self.factor, self.length, self.period)
    }
}

/// Where several frames share one: far below the latencies that matter, and 2 000 wake-ups a second do for any rate.
const LONG_TICK_NS: u64 = 500_000;

/// Where each frame has a wake-up of its own anyway.
const SHORT_TICK_NS: u64 = 50_000;

const SECOND_NS: u64 = 1_000_000_000;
const _: () = assert!(SECOND_NS.is_multiple_of(LONG_TICK_NS) && SECOND_NS.is_multiple_of(SHORT_TICK_NS), "seconds end");

/// The longest run.
pub(super) const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(frames_a_second: f64, ramp: u64, bursts: Option<&str>, seconds: u64) -> Schedule {
        Schedule {
            frames_a_second,
            ramp: Duration::from_secs(ramp),
            bursts: bursts.map(|text| Bursts::parse(text).unwrap()),
            duration: Duration::from_secs(seconds),
        }
    }

    /// Frames due in the first `seconds`.
    fn due(schedule: &Schedule, seconds: f64) -> u64 {
        schedule.due((seconds * 1e9 / schedule.tick_ns() as f64).round() as u64)
    }

    fn of_second(schedule: &Schedule, second: u64) -> u64 {
        due(schedule, second as f64 + 1.0) - due(schedule, second as f64)
    }

    #[test]
    fn a_steady_rate_is_due_evenly_and_exactly() {
        let steady = schedule(10_000.0, 0, None, 60);
        assert_eq!(steady.ticks(), 120_000);
        assert!((0..=120_000).all(|tick| steady.due(tick) == 5 * tick));
        assert_eq!(steady.time_of(120_000), Duration::from_secs(60));
    }

    #[test]
    fn a_low_rate_is_not_rounded_away() {
        let slow = schedule(0.5, 0, None, 10);
        assert_eq!((due(&slow, 1.9999), due(&slow, 2.0), due(&slow, 10.0)), (0, 1, 5));
        assert_eq!(due(&schedule(3.0, 0, None, 1), 1.0), 3);
    }

    #[test]
    fn a_ramp_grows_evenly_and_gives_half() {
        let ramped = schedule(1_000.0, 10, None, 20);
        assert_eq!((due(&ramped, 5.0), due(&ramped, 10.0), due(&ramped, 20.0)), (1_250, 5_000, 15_000));
        let rates: Vec<_> = (0..10).map(|second| of_second(&ramped, second)).collect();
        assert_eq!(rates, [50, 150, 250, 350, 450, 550, 650, 750, 850, 950]);
    }

    #[test]
    fn a_burst_is_in_the_middle_of_its_period() {
        let bursts = schedule(100.0, 0, Some("10x1s/30s"), 60);
        let busy: Vec<_> = (0..60).filter(|second| of_second(&bursts, *second) > 100).collect();
        assert_eq!(busy, [14, 15, 44, 45], "half a second on either side of the middle");
        assert!(busy.iter().all(|second| of_second(&bursts, *second) == 550));
        assert_eq!(due(&bursts, 60.0), 60 * 100 + 2 * 900);
    }

    #[test]
    fn bursts_begin_after_the_ramp() {
        let both = schedule(100.0, 10, Some("10x1s/2s"), 12);
        assert_eq!((due(&both, 10.0), due(&both, 12.0)), (500, 500 + 200 + 900));
    }

    #[test]
    fn nothing_is_due_after_the_end() {
        let mut short = schedule(10_000.0, 0, None, 1);
        short.duration = Duration::from_micros(1_100);
        assert_eq!((short.ticks(), short.due(2), short.due(3), short.due(4)), (3, 10, 11, 11));
    }

    #[test]
    fn ticks_with_nothing_to_do_are_passed_over() {
        let slow = schedule(3.0, 0, None, 2);
        let (mut tick, mut frames, mut visited) = (0, 0, Vec::new());
        while tick < slow.ticks() {
            tick = slow.next(tick, frames);
            frames = slow.due(tick);
            visited.push((slow.time_of(tick).as_millis(), frames));
        }
        assert_eq!(visited, [(333, 1), (666, 2), (1_000, 3), (1_333, 4), (1_666, 5), (2_000, 6)]);
        let none = schedule(0.1, 0, None, 2);
        assert_eq!((none.next(0, 0), none.next(20_000, 0)), (20_000, 40_000), "seconds end all the same");
    }

    #[test]
    fn a_rate_in_bits_is_one_of_frames() {
        assert_eq!(Rate::Bits(8e7).frames_a_second(1_000.0), 10_000.0);
        assert_eq!(Rate::Frames(5.0).frames_a_second(1_000.0), 5.0);
    }

    #[test]
    fn rates_are_read() {
        for (text, rate) in [
            ("10000", Rate::Frames(1e4)),
            ("10000/s", Rate::Frames(1e4)),
            ("0.5", Rate::Frames(0.5)),
            ("80Mbit/s", Rate::Bits(8e7)),
            ("80 Mbit/s", Rate::Bits(8e7)),
            ("1.5Gbit", Rate::Bits(1.5e9)),
            ("64kbit/s", Rate::Bits(64e3)),
        ] {
            assert_eq!(Rate::parse(text), Ok(rate), "{text}");
        }
        for text in ["", "fast", "-1", "0", "nan", "inf", "80MB/s", "Mbit/s", "1e12"] {
            assert!(Rate::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bursts_are_read() {
        let (length, period) = (Duration::from_secs(1), Duration::from_secs(30));
        assert_eq!(Bursts::parse("10x1s/30s"), Ok(Bursts { factor: 10.0, length, period }));
        for text in ["", "10", "10x1s", "x1s/30s", "10x30s/1s", "0.5x1s/30s", "10x0s/30s", "10x1/30", "nanx1s/30s"] {
            assert!(Bursts::parse(text).is_err(), "{text}");
        }
    }
}
