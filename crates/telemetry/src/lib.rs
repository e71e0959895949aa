//! What crosses the border of a shard without making it wait: TelemetryRing for its samples, a lane for its pages, one for its
//! security events.
//!
//! The ring has one writer that never waits and one reader; the oldest sample is overwritten. The lane carries pages that
//! the control plane requests and the shard fills. Never blocks, never retries a write, never lets the writer of a ring
//! look at what its reader does, never allocates after [`telemetry_ring`] and [`page_lane`], and knows neither what the
//! words of a sample mean nor what a page holds.
//!
//! Modules, in reading order:
//! - `ring`: [`Recorder`], [`Reader`], the slots between them, and why that is sound.
//! - `sync`: the atomics, from `std` or, under `--cfg loom`, from the model checker.
//! - `events`: [`EventWriter`], [`EventReader`], a lane of boxes for what is too rare and too wide for words.
//! - `lane`: [`PageRequester`], [`PageFiller`], and the two queues between them.
//!
//! Deliberately absent: a capacity check for the writer, a wake-up for the reader, `Clone` of any end.
#![forbid(unsafe_code)]

mod events;
mod lane;
mod ring;
mod sync;

pub use events::{EventReader, EventWriter, event_lane};
pub use lane::{LANE_PAGES, PageFiller, PageRequester, page_lane};
pub use ring::{Reader, Recorder, ring_bytes, telemetry_ring};
