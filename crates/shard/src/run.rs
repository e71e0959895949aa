//! The thread of a shard: a glommio executor pinned to its core, one task that drives the loop, one that keeps the tick
//! going while the loop sleeps.

use std::cell::RefCell;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use corelane_metrics::{SAMPLE_WORDS, SecurityEvent};
use corelane_rollup::SeriesPage;
use corelane_telemetry::{EventWriter, PageFiller, Recorder};
use glommio::timer::sleep;
use glommio::{CpuSet, ExecutorJoinHandle, LocalExecutorBuilder, Placement};

use crate::admission::AccessRules;
use crate::clock::Instant;
use crate::limits::{EXECUTOR_TURN, Limits, QUIET_AFTER, TICK};
use crate::parker::Parker;
use crate::receive_ring::ReceiveRing;
use crate::shard::Shard;
use crate::shards::Shards;
use crate::tls::TlsConfig;

/// What a shard is given at start: its bounds, and its ends of everything that leaves it.
pub struct ShardConfig<S = OwnedFd> {
    /// Which shard: `0..shards`, also its place in `shards`.
    pub index: usize,
    /// The core it is pinned to.
    pub core: usize,
    /// Its bounds.
    pub limits: Limits,
    /// The writing end of its TelemetryRing.
    pub recorder: Recorder<SAMPLE_WORDS>,
    /// Its end of the lane for pages of live series.
    pub series: PageFiller<SeriesPage>,
    /// Where its security events go; the oldest are overwritten.
    pub events: EventWriter<SecurityEvent>,
    /// It and all others: how it is woken and stopped, how many connections each has.
    pub shards: Shards<S>,
    /// Who may connect, until others are set.
    pub rules: AccessRules,
    /// TLS that connections have to speak, until another is set; `None` for plain TCP.
    pub tls: Option<TlsConfig>,
    /// What the allocator has done for the calling thread so far.
    pub allocations: fn() -> Allocations,
    /// Told of an accept that failed for want of descriptors or memory, ten times a second at most.
    pub on_accept_error: Box<dyn FnMut(io::Error) + Send>,
    /// Called once, on the shard's thread, when it accepts connections.
    pub on_accepting: Box<dyn FnOnce() + Send>,
    /// Called once, on the shard's thread, when the shard ends, in whatever way.
    pub on_end: Box<dyn FnOnce() + Send>,
}

/// Calls to the allocator by one thread: alloc, alloc_zeroed and realloc.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allocations {
    /// How many.
    pub count: u64,
    /// How many bytes they asked for together.
    pub bytes: u64,
}

/// A running shard.
pub struct ShardThread {
    executor: ExecutorJoinHandle<io::Result<()>>,
}

impl ShardThread {
    /// Waits for the shard to end: after it was asked to drain, or because it failed.
    ///
    /// # Errors
    /// What ended it otherwise.
    pub fn join(self) -> io::Result<()> {
        match self.executor.join() {
            Ok(ended) => ended,
            Err(error) => Err(io::Error::other(error.to_string())),
        }
    }
}

/// Locked memory that glommio registers for files, with each of its rings; a shard has no file that is opened with
/// O_DIRECT. Glommio takes no less.
pub(crate) const EXECUTOR_IO_MEMORY: usize = 64 * 1024;
/// Glommio's own rings carry a timer and an eventfd.
pub(crate) const EXECUTOR_RING_DEPTH: usize = 256;

/// Whether the executor finds these cores; it reads them from `/sys`, and panics where it cannot.
///
/// # Errors
/// What kept it from reading, or `NotFound` with the first core that is not there.
pub fn probe_cores(cores: &[usize]) -> io::Result<()> {
    let online = CpuSet::online().map_err(io::Error::from)?;
    match cores.iter().find(|&&core| !online.iter().any(|found| found.cpu == core)) {
        None => Ok(()),
        Some(core) => Err(io::Error::new(io::ErrorKind::NotFound, format!("core {core} is not there"))),
    }
}

/// Starts a shard on its core.
///
/// # Errors
/// When the core does not exist or the thread cannot be started. Later errors come from [`ShardThread::join`].
pub fn spawn(mut config: ShardConfig, listener: TcpListener) -> io::Result<ShardThread> {
    let name = format!("shard-{}", config.index);
    // Run when dropped: after the shard's end, at a panic, and when the executor cannot be made and the shard never begins.
    let on_end = scopeguard::guard(std::mem::replace(&mut config.on_end, Box::new(|| ())), |on_end| on_end());
    let (shards, index) = (config.shards.clone(), config.index);
    let hand_over = scopeguard::guard(shards, move |shards| shards.end_hand_over(index));
    let executor = LocalExecutorBuilder::new(Placement::Fixed(config.core))
        .name(&name)
        .io_memory(EXECUTOR_IO_MEMORY)
        .ring_depth(EXECUTOR_RING_DEPTH)
        .preempt_timer(EXECUTOR_TURN)
        .spawn(move || async move {
            let _ends = (on_end, hand_over);
            run(config, listener).await
        })
        .map_err(io::Error::from)?;
    Ok(ShardThread { executor })
}

async fn run(mut config: ShardConfig, listener: TcpListener) -> io::Result<()> {
    let on_accepting = std::mem::replace(&mut config.on_accepting, Box::new(|| ()));
    let wake = config.shards.link(config.index).wake_fd();
    let parker = Parker::new(wake)?;
    let ring = ReceiveRing::new(config.limits.lent_buffers(), config.limits.pool_buffers, wake)?;
    let shard = Rc::new(RefCell::new(Shard::new(config, ring, listener)?));
    on_accepting();
    let ticker = glommio::spawn_local(tick(Rc::downgrade(&shard))).detach();
    let driven = drive(&shard, &parker).await;
    drop(shard);
    ticker.await;
    parker.close().await;
    driven
}

/// The loop: turns while there is work, a turn for the executor now and then, sleep when it is quiet.
async fn drive(shard: &RefCell<Shard<ReceiveRing>>, parker: &Parker) -> io::Result<()> {
    let mut last_work = Instant::now();
    let mut executor_turn_at = last_work + EXECUTOR_TURN;
    // After sleep the first look does not wait: something is there.
    let mut wait = false;
    loop {
        let busy = shard.borrow_mut().turn(wait)?;
        let now = shard.borrow().now;
        wait = true;
        if shard.borrow().is_drained() {
            shard.borrow_mut().stopped();
            return Ok(());
        }
        if busy {
            last_work = now;
        }
        if now.since(last_work) >= QUIET_AFTER && shard.borrow_mut().falls_asleep()? {
            parker.park().await?;
            shard.borrow_mut().wakes_up();
            last_work = Instant::now();
            executor_turn_at = last_work + EXECUTOR_TURN;
            wait = false;
        } else if now >= executor_turn_at {
            glommio::executor().yield_task_queue_now().await;
            executor_turn_at = now + EXECUTOR_TURN;
        }
    }
}

/// Keeps timeouts and gauges going while the loop sleeps. Ends with the shard.
async fn tick(shard: std::rc::Weak<RefCell<Shard<ReceiveRing>>>) {
    let mut rest = TICK;
    loop {
        sleep(rest).await;
        let Some(shard) = shard.upgrade() else { return };
        let now = Instant::now();
        shard.borrow_mut().tick_asleep(now);
        rest = shard.borrow().tick_at.since(now);
    }
}

#[cfg(test)]
mod tests;
