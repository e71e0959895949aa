//! `/api/v1/sensors`: live series.

use serde::{Deserialize, Deserializer, Serialize};

/// The answer of `/api/v1/sensors`. The server writes borrowed text.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Sensors<Text = String> {
    /// In the order that was asked for.
    pub sensors: Vec<Sensor<Text>>,
    /// Whether more of them matched.
    pub truncated: bool,
}

/// One live series, added up over the shards.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Sensor<Text = String> {
    /// The source.
    pub id: Text,
    /// The sensor of that source.
    pub sensor: Text,
    /// Points since the series became live.
    pub count: u64,
    /// The value with the greatest event timestamp.
    pub last: f64,
    /// Nanoseconds since the Unix epoch.
    pub last_timestamp: u64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// JSON `null` where the values add up to more than a double holds.
    #[serde(deserialize_with = "null_is_nan")]
    pub mean: f64,
}

fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_that_is_not_finite_is_null() {
        let sensor =
            |mean| Sensor { id: "a", sensor: "t", count: 2, last: 1.0, last_timestamp: 3, min: 0.5, max: 1.0, mean };
        let text = serde_json::to_string(&Sensors { sensors: vec![sensor(f64::INFINITY)], truncated: false }).unwrap();
        assert_eq!(
            text,
            r#"{"sensors":[{"id":"a","sensor":"t","count":2,"last":1.0,"last_timestamp":3,"min":0.5,"max":1.0,"mean":null}],"truncated":false}"#
        );
        let read: Sensors = serde_json::from_str(&text).unwrap();
        assert!(read.sensors[0].mean.is_nan() && !read.truncated);
    }
}
