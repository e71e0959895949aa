//! When frames are due: a function of time alone, which never looks at the server.
//!
//! Time is cut into ticks. What a rate makes due within a tick is due at its end, together: so that one wake-up of the
//! sender serves several frames, and their lateness is counted from a moment that was known beforehand.

use std::{fmt, time::Duration};

use crate::config;

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
    pub(super) rate: Rate,
    /// Time in which the rate grows from nothing to what was asked for.
    pub(super) ramp: Duration,
    pub(super) bursts: Option<Bursts>,
    pub(super) duration: Duration,
}

impl Schedule {
    /// How many ticks there are.
    pub(super) fn ticks(&self) -> u64 {
        self.duration.as_nanos().div_ceil(TICK.as_nanos()) as u64
    }

    /// What `tick` makes due, and all before it: frames or bytes, whichever the rate counts.
    pub(super) fn due(&self, tick: u64) -> u64 {
        let seconds = (tick as f64 * TICK.as_secs_f64()).min(self.duration.as_secs_f64());
        let (rate, ramp) = (self.rate.units_a_second(), self.ramp.as_secs_f64());
        let grown = if seconds < ramp { seconds * seconds / (2.0 * ramp) } else { seconds - ramp / 2.0 };
        let extra = self.bursts.map_or(0.0, |bursts| (bursts.factor - 1.0) * bursts.seconds_until(seconds - ramp));
        // What is a whole number is not to be missed by a rounding error.
        (rate * (grown + extra) + 1e-6) as u64
    }

    /// What one frame of `bytes`, header included, takes of that.
    pub(super) fn cost(&self, bytes: usize) -> u64 {
        match self.rate {
            Rate::Frames(_) => 1,
            Rate::Bits(_) => bytes as u64,
        }
    }
}

impl Rate {
    fn units_a_second(self) -> f64 {
        match self {
            Self::Frames(frames) => frames,
            Self::Bits(bits) => bits / 8.0,
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
        let time = config::duration(TICK..=DURATION_MAX);
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

/// Short enough to be far below the latencies that matter, long enough that a thousand wake-ups a second do for any rate.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// The longest run.
pub(super) const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(rate: &str, ramp: u64, bursts: Option<&str>, seconds: u64) -> Schedule {
        Schedule {
            rate: Rate::parse(rate).unwrap(),
            ramp: Duration::from_secs(ramp),
            bursts: bursts.map(|text| Bursts::parse(text).unwrap()),
            duration: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn a_steady_rate_is_due_evenly_and_exactly() {
        let frames = schedule("10000", 0, None, 60);
        assert_eq!(frames.ticks(), 60_000);
        assert!((0..=60_000).all(|tick| frames.due(tick) == 10 * tick));
        let bits = schedule("80Mbit/s", 0, None, 60);
        assert!((0..=60_000).all(|tick| bits.due(tick) == 10_000 * tick), "80 Mbit/s are 10 000 bytes a millisecond");
        assert_eq!((frames.cost(1_000), bits.cost(1_000)), (1, 1_000));
    }

    #[test]
    fn a_low_rate_is_not_rounded_away() {
        let slow = schedule("0.5", 0, None, 10);
        assert_eq!((slow.due(1_999), slow.due(2_000), slow.due(10_000)), (0, 1, 5));
        assert_eq!(schedule("3", 0, None, 1).due(1_000), 3);
    }

    #[test]
    fn a_ramp_grows_evenly_and_gives_half() {
        let ramped = schedule("1000", 10, None, 20);
        assert_eq!((ramped.due(5_000), ramped.due(10_000), ramped.due(20_000)), (1_250, 5_000, 15_000));
        let rates: Vec<_> =
            (0..10).map(|second| ramped.due((second + 1) * 1_000) - ramped.due(second * 1_000)).collect();
        assert_eq!(rates, [50, 150, 250, 350, 450, 550, 650, 750, 850, 950]);
    }

    #[test]
    fn a_burst_is_in_the_middle_of_its_period() {
        let bursts = schedule("100", 0, Some("10x1s/30s"), 60);
        let of_second = |second: u64| bursts.due((second + 1) * 1_000) - bursts.due(second * 1_000);
        let busy: Vec<_> = (0..60).filter(|second| of_second(*second) > 100).collect();
        assert_eq!(busy, [14, 15, 44, 45], "half a second on either side of the middle");
        assert_eq!((of_second(14), of_second(15), of_second(44)), (550, 550, 550));
        assert_eq!(bursts.due(60_000), 60 * 100 + 2 * 900);
    }

    #[test]
    fn bursts_begin_after_the_ramp() {
        let both = schedule("100", 10, Some("10x1s/2s"), 12);
        assert_eq!(both.due(10_000), 500);
        assert_eq!(both.due(12_000), 500 + 200 + 900);
    }

    #[test]
    fn nothing_is_due_after_the_end() {
        let mut short = schedule("10000", 0, None, 1);
        short.duration = Duration::from_micros(1_500);
        assert_eq!((short.ticks(), short.due(1), short.due(2)), (2, 10, 15));
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
