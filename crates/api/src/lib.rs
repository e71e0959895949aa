//! The JSON of the control port: one set of types for the server that writes it and for the programs that read it.
//!
//! Types without behaviour. Knows no HTTP, and nothing of how the numbers are counted. A reader skips keys that it does
//! not know and takes a number that is not there for 0, so both sides may be of different versions; the server writes
//! every key.
//!
//! One module for each path: `stats` for [`/api/v1/stats`](Stats), `sensors` for [`/api/v1/sensors`](Sensors), `events`
//! for [`/api/v1/events`](Events).

#![forbid(unsafe_code)]

mod events;
mod sensors;
mod stats;

pub use events::{Events, SecurityEvent};
pub use sensors::{Sensor, Sensors};
pub use stats::{Build, Histogram, Numbers, PoolBuffers, Setting, Shard, Stats, Totals};
