//! The control plane's state: the reading ends of the shards' rings, and what came out of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use corelane_metrics::{SAMPLE_WORDS, Sample, SecurityEvent, ShardState, Totals, cell};
use corelane_rollup::SeriesPage;
use corelane_telemetry::{EventReader, PageRequester, Reader};
use corelane_tls::DataPortTls;

use crate::events::EventLog;
use crate::sensors::SeriesPort;
use crate::wrong_tokens::WrongTokens;
use crate::{HttpLimits, Protection};

/// The control plane's ends of what it shares with one shard.
pub struct ShardPort {
    /// Where the shard runs.
    pub core: usize,
    /// Samples that the shard flushes.
    pub samples: Reader<SAMPLE_WORDS>,
    /// Asks for pages of the shard's series.
    pub series: PageRequester<SeriesPage>,
    /// Security events. A full lane loses the oldest; the shard's counter still tells of it.
    pub events: EventReader<SecurityEvent>,
    /// Wakes the shard after a page was asked for.
    pub wake: Box<dyn Fn() + Send>,
}

/// What the allocator says of the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryUse {
    /// Heap bytes in use.
    pub allocated_bytes: u64,
    /// Resident bytes that the allocator holds.
    pub resident_bytes: u64,
}

/// What the control plane is told at start.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// Version of the program.
    pub version: &'static str,
    /// Source revision that it was built from.
    pub revision: &'static str,
    /// Asks the allocator.
    pub memory: fn() -> MemoryUse,
    /// Asks the log how many lines it has dropped.
    pub log_lines_dropped: fn() -> u64,
    /// Bounds of the HTTP side.
    pub http: HttpLimits,
    /// Who may ask.
    pub protection: Protection,
    /// TLS of the data port, if there is any, for when its certificate expires.
    pub data_tls: Option<Arc<DataPortTls>>,
}

/// Reads every shard's ring and keeps the sums.
pub struct ControlPlane {
    pub(crate) config: ControlConfig,
    pub(crate) started: Instant,
    pub(crate) totals: Totals,
    pub(crate) events: EventLog,
    shards: Vec<ShardEnds>,
    pub(crate) wrong_tokens: Arc<WrongTokens>,
    /// Taken by the thread that asks for series when the control plane begins to serve.
    pub(crate) series: Vec<SeriesPort>,
    /// Breaks the next collection.
    #[cfg(test)]
    pub(crate) panic_in_collection: Arc<std::sync::atomic::AtomicBool>,
}

struct ShardEnds {
    core: usize,
    samples: Reader<SAMPLE_WORDS>,
    events: EventReader<SecurityEvent>,
    /// When a collection last found a sample.
    heard: Instant,
}

impl ControlPlane {
    /// A control plane over these shards; a shard's number is its place in the list.
    pub fn new(config: ControlConfig, ports: Vec<ShardPort>) -> Self {
        let started = Instant::now();
        let totals = Totals::new(ports.len());
        let (shards, series) = ports
            .into_iter()
            .map(|port| {
                let ends = ShardEnds { core: port.core, samples: port.samples, events: port.events, heard: started };
                (ends, SeriesPort { pages: port.series, wake: port.wake })
            })
            .unzip();
        Self {
            config,
            started,
            totals,
            events: EventLog::default(),
            shards,
            series,
            wrong_tokens: Arc::new(WrongTokens::new()),
            #[cfg(test)]
            panic_in_collection: Arc::default(),
        }
    }

    /// Takes over every sample and security event that the shards have handed out.
    pub fn collect_once(&mut self) {
        #[cfg(test)]
        assert!(!self.panic_in_collection.load(std::sync::atomic::Ordering::Relaxed), "a test breaks the collection");
        for (shard, ends) in self.shards.iter_mut().enumerate() {
            let count = ends.samples.read(|words| {
                // Words that are no sample would be a fault of ours; they are counted as delivered and change nothing.
                let sample = Sample::from_words(words);
                debug_assert!(sample.is_some(), "a shard records whole samples");
                if let Some(sample) = sample {
                    self.totals.apply(shard, sample);
                }
            });
            if count > 0 {
                ends.heard = Instant::now();
            }
            ends.events.drain().for_each(|event| self.events.push(event));
        }
        while let Some(event) = self.wrong_tokens.next_event() {
            self.events.push(event);
        }
    }

    /// The newest numbers of every shard.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Where a shard runs.
    pub(crate) fn core(&self, shard: usize) -> usize {
        self.shards[shard].core
    }

    /// Samples that a shard wrote, and those of them that were overwritten unread, as known after the last collection.
    pub(crate) fn samples(&self, shard: usize) -> (u64, u64) {
        let samples = &self.shards[shard].samples;
        (samples.delivered() + samples.lost(), samples.lost())
    }

    /// Why the process is not healthy, if it is not.
    pub(crate) fn unhealthy(&self) -> Option<String> {
        self.shards.iter().enumerate().find_map(|(shard, ends)| {
            let silent = ends.heard.elapsed();
            // A stopped shard has nothing more to say while the others drain.
            let expected = self.totals.state(shard) != ShardState::Stopped;
            (expected && silent > SILENCE_MAX)
                .then(|| format!("shard {shard} has not reported for {:.1} s", silent.as_secs_f64()))
        })
    }

    /// Why new peers should go elsewhere, if they should.
    pub(crate) fn not_ready(&self, draining: bool) -> Option<String> {
        if draining {
            return Some("draining".to_owned());
        }
        self.not_accepting().or_else(|| self.is_pool_short().then(|| "pool short".to_owned()))
    }

    /// The first shard that does not accept, if there is one.
    pub(crate) fn not_accepting(&self) -> Option<String> {
        (0..self.totals.shard_count()).find_map(|shard| {
            let state = self.totals.state(shard);
            (state != ShardState::Accepting).then(|| format!("shard {shard} is {}", state.label()))
        })
    }

    /// Whether any shard reports that its receive pool is short.
    fn is_pool_short(&self) -> bool {
        (0..self.totals.shard_count()).any(|shard| self.totals.gauge(shard, cell::POOL_SHORT) != 0.0)
    }
}

/// How long a shard may be silent and still count as alive. It flushes its state many times in that time, busy or idle.
const SILENCE_MAX: Duration = Duration::from_secs(5);
