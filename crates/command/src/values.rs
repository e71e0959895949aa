//! Text to values. An error continues the sentence `<where>: "<text>" …` and says what would do.

use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;
use jiff::SignedDuration;

/// Largest size. Larger ones are typing errors.
const SIZE_MAX: ByteSize = ByteSize::tib(16);

/// `64MiB`, `1GB`, or plain bytes.
///
/// # Errors
/// Not a size, or one of more than 16 TiB.
pub fn size(text: &str) -> Result<u64, String> {
    let size: ByteSize = text.parse().map_err(|_| "is not a size; write a number and a unit, as 64MiB".to_owned())?;
    if size > SIZE_MAX {
        return Err(format!("is out of range; write at most {SIZE_MAX}"));
    }
    Ok(size.as_u64())
}

/// Reads `10s`, `5m`, `250ms` within `range`; `0` needs no unit.
pub fn duration(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        if text.trim() == "0" && range.contains(&Duration::ZERO) {
            return Ok(Duration::ZERO);
        }
        let parsed = text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
        match parsed {
            Some(duration) if range.contains(&duration) => Ok(duration),
            Some(_) => Err(format!("is out of range; write {:?} to {:?}", range.start(), range.end())),
            None => Err("is not a duration; write a number and a unit, as 10s, 5m or 250ms".to_owned()),
        }
    }
}
