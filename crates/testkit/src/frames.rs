//! Frames as they stand on the wire: events of several sizes, and at least one for each way to be refused.

use corelane_wire::{DEPTH_MAX, HEADER_BYTES, MAX_FRAME_SIZE, NAME_BYTES_MAX, POINTS_MAX, RejectReason, encode_event};

/// Asks how far the frames before it are decided.
pub const COMMIT_REQUEST: [u8; HEADER_BYTES] = [0; HEADER_BYTES];

/// Points in [`event`].
pub const EVENT_POINTS: u64 = 14;

/// The sensors of [`event`].
pub const SENSORS: [&str; EVENT_POINTS as usize] = [
    "temperature_intake_celsius",
    "temperature_outlet_celsius",
    "pressure_line_one_kilopascal",
    "pressure_line_two_kilopascal",
    "flow_rate_litres_a_minute",
    "vibration_axis_x_millimetres",
    "vibration_axis_y_millimetres",
    "vibration_axis_z_millimetres",
    "motor_current_amperes",
    "motor_voltage_volts",
    "motor_speed_turns_a_minute",
    "bearing_front_celsius",
    "bearing_rear_celsius",
    "humidity_cabinet_percent",
];

/// The event that devices are thought to send: about 1 KB, 14 points. Values vary with `timestamp`.
pub fn event(id: &str, timestamp: u64) -> Vec<u8> {
    let points = SENSORS.iter().enumerate().map(|(index, sensor)| {
        let value = (timestamp % 1_000) as f64 + index as f64 / 8.0;
        (*sensor, value, Some("unit=a;line=7"))
    });
    encoded(id, timestamp, None, points)
}

/// An event of one point, some 60 bytes.
pub fn small_event(id: &str, sensor: &str, timestamp: u64, value: f64) -> Vec<u8> {
    encoded(id, timestamp, None, [(sensor, value, None)].into_iter())
}

/// An event of one point, `level`, whose payload is padded to so many bytes.
///
/// # Panics
/// When `payload_bytes` is beyond [`MAX_FRAME_SIZE`], or too few for an event with metadata of 256 bytes.
pub fn event_of(id: &str, timestamp: u64, payload_bytes: usize) -> Vec<u8> {
    let with = |metadata: &str| encoded(id, timestamp, Some(metadata), [("level", 0.5, None)].into_iter());
    // From 256 bytes on, metadata has a head of three.
    let least = with(&"m".repeat(256)).len() - HEADER_BYTES;
    assert!(payload_bytes >= least, "at least {least} bytes");
    let frame = with(&"m".repeat(256 + payload_bytes - least));
    assert_eq!(frame.len(), HEADER_BYTES + payload_bytes);
    frame
}

/// A payload with its header.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    [&header(payload.len() as u32), payload].concat()
}

/// A header that declares so many bytes.
pub fn header(declared_bytes: u32) -> [u8; HEADER_BYTES] {
    declared_bytes.to_be_bytes()
}

/// A frame that is refused.
#[derive(Debug, Clone)]
pub struct InvalidFrame {
    /// What is wrong with it.
    pub name: &'static str,
    /// What it is counted as.
    pub reason: RejectReason,
    /// Header and payload.
    pub bytes: Vec<u8>,
}

/// Frames for every reason but `oversize`, which needs no more than a [`header`].
pub fn invalid_frames() -> Vec<InvalidFrame> {
    let id = pair("id", &text(b"a"));
    let timestamp = pair("timestamp", &[1]);
    let telemetry = pair("telemetry", &[0x80]);
    let event = |pairs: &[&[u8]]| [&[0xa0 | pairs.len() as u8], &pairs.concat()[..]].concat();
    let with = |extra: &[u8]| event(&[&id, &timestamp, &telemetry, extra]);
    let with_point = |point: &[u8]| event(&[&id, &timestamp, &pair("telemetry", &[&[0x81], point].concat())]);
    let point = |sensor: &[u8], value: &[u8]| [&[0xa2], &pair("sensor", sensor)[..], &pair("value", value)].concat();
    let whole = event(&[&id, &timestamp, &telemetry]);
    let long_name = "n".repeat(NAME_BYTES_MAX + 1);
    let nested = |levels: usize| [vec![0x81; levels], vec![0x00]].concat();
    let many = [&pair("telemetry", &[0x99, 0x08, 0x01])[..], &vec![0xa0; POINTS_MAX + 1]].concat();
    use RejectReason::{InvalidUtf8, Malformed, NotAnEvent, TooDeep, TooManyPoints, TrailingBytes};
    let invalid = |reason, name, payload: &[u8]| InvalidFrame { name, reason, bytes: frame(payload) };
    vec![
        invalid(Malformed, "a break alone", &[0xff]),
        invalid(Malformed, "cut inside", &whole[..whole.len() - 1]),
        invalid(Malformed, "reserved additional information", &with(&pair("x", &[0x1c]))),
        invalid(Malformed, "a count that lies", &pair_count_lies(&id)),
        invalid(TooDeep, "an unknown value too deep", &with(&pair("x", &nested(DEPTH_MAX)))),
        invalid(TrailingBytes, "a byte after the event", &[&whole[..], &[0]].concat()),
        invalid(TrailingBytes, "two events", &[&whole[..], &whole].concat()),
        invalid(InvalidUtf8, "an id", &event(&[&pair("id", &text(&[0xff])), &timestamp, &telemetry])),
        invalid(InvalidUtf8, "an unknown value", &with(&pair("x", &text(&[0xc3, 0x28])))),
        invalid(TooManyPoints, "one point too many", &event(&[&id, &timestamp, &many])),
        invalid(NotAnEvent, "an integer", &[0x01]),
        invalid(NotAnEvent, "an empty map", &[0xa0]),
        invalid(NotAnEvent, "no telemetry", &event(&[&id, &timestamp])),
        invalid(NotAnEvent, "an empty id", &event(&[&pair("id", &[0x60]), &timestamp, &telemetry])),
        invalid(NotAnEvent, "a long id", &event(&[&pair("id", &text(long_name.as_bytes())), &timestamp, &telemetry])),
        invalid(NotAnEvent, "a key twice", &with(&pair("timestamp", &[2]))),
        invalid(NotAnEvent, "a negative timestamp", &event(&[&id, &pair("timestamp", &[0x20]), &telemetry])),
        invalid(NotAnEvent, "a tagged event", &[&[0xc1], &whole[..]].concat()),
        invalid(NotAnEvent, "not a number", &with_point(&point(&text(b"s"), &[0xf9, 0x7e, 0x00]))),
        invalid(NotAnEvent, "infinity", &with_point(&point(&text(b"s"), &[0xf9, 0x7c, 0x00]))),
        invalid(NotAnEvent, "a text for a value", &with_point(&point(&text(b"s"), &text(b"1")))),
    ]
}

fn encoded<'p>(
    id: &str,
    timestamp: u64,
    metadata: Option<&str>,
    points: impl ExactSizeIterator<Item = (&'p str, f64, Option<&'p str>)>,
) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_event(&mut frame, id, timestamp, metadata, points).expect("events of tests fit a frame");
    debug_assert!(frame.len() <= HEADER_BYTES + MAX_FRAME_SIZE);
    frame
}

/// An array that declares 2^32 - 1 items and holds one.
fn pair_count_lies(id: &[u8]) -> Vec<u8> {
    [&[0xa2], id, &pair("telemetry", &[0x9a, 0xff, 0xff, 0xff, 0xff, 0x00])].concat()
}

fn pair(key: &str, value: &[u8]) -> Vec<u8> {
    [&text(key.as_bytes()), value].concat()
}

/// A text of at most 65 535 bytes, UTF-8 or not.
fn text(bytes: &[u8]) -> Vec<u8> {
    let head = match bytes.len() {
        len @ 0..24 => vec![0x60 | len as u8],
        len => vec![0x79, (len >> 8) as u8, len as u8],
    };
    [&head, bytes].concat()
}

#[cfg(test)]
mod tests {
    use corelane_wire::Decoder;

    use super::*;

    fn verdict(frame: &[u8]) -> Result<u64, RejectReason> {
        let payload = &frame[HEADER_BYTES..];
        assert_eq!(frame[..HEADER_BYTES], header(payload.len() as u32));
        Decoder::new().decode(payload).map(|event| event.points().len() as u64)
    }

    #[test]
    fn each_invalid_frame_is_refused_for_the_reason_it_names() {
        for InvalidFrame { name, reason, bytes } in invalid_frames() {
            assert_eq!(verdict(&bytes), Err(reason), "{name}");
        }
    }

    #[test]
    fn every_reason_but_oversize_has_a_frame() {
        for reason in RejectReason::ALL.into_iter().filter(|reason| *reason != RejectReason::Oversize) {
            assert!(invalid_frames().iter().any(|frame| frame.reason == reason), "{reason}");
        }
    }

    #[test]
    fn events_are_valid_and_of_the_size_they_promise() {
        let device = event("device-0001", 1_700_000_000_000_000_000);
        assert_eq!(verdict(&device), Ok(EVENT_POINTS));
        assert!((950..=1_050).contains(&device.len()), "{} bytes", device.len());
        assert_eq!(verdict(&small_event("a", "b", 1, 2.0)), Ok(1));
        for payload_bytes in [400, 60 * 1024, MAX_FRAME_SIZE] {
            assert_eq!(verdict(&event_of("large", 1, payload_bytes)), Ok(1));
        }
    }
}
