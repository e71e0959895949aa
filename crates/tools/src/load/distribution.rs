//! Numbers that `--size` and `--points` draw.

use rand::{RngExt, rngs::SmallRng};
use rand_distr::{Distribution as _, Exp, Normal};

/// How a number of bytes or points is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Distribution {
    Fixed(f64),
    /// Each as likely, both ends included.
    Uniform(f64, f64),
    /// Each order of magnitude as likely.
    LogUniform(f64, f64),
    Normal(Normal<f64>),
    Exponential(Exp<f64>),
}

impl Distribution {
    /// `1000`, `0..400`, `log:60..60000`, `normal:1000,200`, `exp:1000`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wanted = || {
            "is no number or distribution; write 1000, 0..400, log:60..60000, normal:MEAN,DEVIATION or exp:MEAN"
                .to_owned()
        };
        let number = |text: &str| match text.trim().parse::<f64>() {
            Ok(number) if (0.0..=1e9).contains(&number) => Ok(number),
            _ => Err(wanted()),
        };
        let range = |text: &str| {
            let (low, high) = text.split_once("..").ok_or_else(wanted)?;
            let (low, high) = (number(low)?, number(high)?);
            if low <= high { Ok((low, high)) } else { Err("has a range that runs backwards".to_owned()) }
        };
        match text.split_once(':') {
            Some(("log", rest)) => match range(rest)? {
                (low, high) if low >= 1.0 => Ok(Self::LogUniform(low, high)),
                _ => Err("has a range of magnitudes that does not begin at 1 or above".to_owned()),
            },
            Some(("normal", rest)) => {
                let (mean, deviation) = rest.split_once(',').ok_or_else(wanted)?;
                Ok(Self::Normal(Normal::new(number(mean)?, number(deviation)?).map_err(|_| wanted())?))
            }
            Some(("exp", mean)) => {
                let mean = number(mean)?;
                let rate = if mean > 0.0 { mean.recip() } else { return Err(wanted()) };
                Ok(Self::Exponential(Exp::new(rate).map_err(|_| wanted())?))
            }
            Some(_) => Err(wanted()),
            None if text.contains("..") => range(text).map(|(low, high)| Self::Uniform(low, high)),
            None => number(text).map(Self::Fixed),
        }
    }

    /// A number, rounded, not below 0.
    pub(super) fn draw(&self, random: &mut SmallRng) -> usize {
        let number = match self {
            Self::Fixed(number) => *number,
            Self::Uniform(low, high) => return random.random_range(*low as usize..=*high as usize),
            Self::LogUniform(low, high) => random.random_range(low.ln()..=high.ln()).exp(),
            Self::Normal(normal) => normal.sample(random),
            Self::Exponential(exponential) => exponential.sample(random),
        };
        number.round() as usize
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn drawn(text: &str) -> Vec<f64> {
        let mut random = SmallRng::seed_from_u64(1);
        let distribution = Distribution::parse(text).unwrap();
        (0..10_000).map(|_| distribution.draw(&mut random) as f64).collect()
    }

    fn mean(numbers: &[f64]) -> f64 {
        numbers.iter().sum::<f64>() / numbers.len() as f64
    }

    #[test]
    fn drawn_numbers_have_the_shape_that_was_asked_for() {
        assert!(drawn("14").iter().all(|number| *number == 14.0));
        let uniform = drawn("0..400");
        assert!(uniform.contains(&0.0) && uniform.contains(&400.0) && (195.0..205.0).contains(&mean(&uniform)));
        let log = drawn("log:60..60000");
        assert!(log.iter().all(|number| (60.0..=60_000.0).contains(number)));
        let below = log.iter().filter(|number| **number < 1_900.0).count();
        assert!((4_800..5_200).contains(&below), "half of them below the middle magnitude: {below}");
        let normal = drawn("normal:1000,200");
        assert!((990.0..1_010.0).contains(&mean(&normal)));
        let spread = mean(&normal.iter().map(|number| (number - 1_000.0).powi(2)).collect::<Vec<_>>()).sqrt();
        assert!((190.0..210.0).contains(&spread), "{spread}");
        assert!((970.0..1_030.0).contains(&mean(&drawn("exp:1000"))));
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        for text in
            ["", "many", "-1", "400..0", "log:0..10", "log:5", "normal:5", "normal:5,-1", "exp:0", "zipf:1", "nan"]
        {
            assert!(Distribution::parse(text).is_err(), "{text}");
        }
    }
}
