//! The queue of lines and the one thread that writes them.
//!
//! Putting a line in takes no lock and makes no call that can wait. The thread waits for stderr as long as it takes;
//! lines that find the queue full meanwhile are dropped.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::Style;
use super::line::{LINE_BYTES_MAX, Line};

/// Lines that wait to be written. An ordinary line has 150 bytes, so a stuck reader costs 150 KiB before lines are
/// dropped; the longest lines cost 4 MiB.
const LINES_MAX: usize = 1024;

/// What the queue may hold.
pub(crate) const BYTES_MAX: usize = LINES_MAX * (LINE_BYTES_MAX + size_of::<String>());

/// Lines accepted in one second. A server that is attacked with everything at once logs some ten lines a second, so this
/// is ten times the ordinary maximum; it bounds what a line without a limit of its own can write to a disk to 400 KiB/s.
const LINES_A_SECOND_MAX: u64 = 100;

/// Between two attempts to report dropped lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Puts lines into the queue. The thread behind it runs until the process ends.
pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Thread,
    started: Instant,
    /// The second at hand since `started`, and in the low half how many lines came in it.
    second: AtomicU64,
}

struct Shared {
    lines: ArrayQueue<String>,
    /// Lines ever put into the queue.
    queued: AtomicU64,
    /// Those of them that are written or dropped. Invariant: at a moment without calls, `settled <= queued`.
    settled: AtomicU64,
    /// Lines that were not written, whether they were in the queue or not.
    dropped: AtomicU64,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(output: impl io::Write + Send + 'static, style: Style) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            lines: ArrayQueue::new(LINES_MAX),
            queued: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let task = Task { shared: Arc::clone(&shared), output, style, is_torn: false, reported: 0, attempted_at: None };
        let thread = thread::Builder::new().name("log".into()).spawn(move || task.run())?;
        let thread = thread.thread().clone();
        Ok(Self { shared, thread, started: Instant::now(), second: AtomicU64::new(0) })
    }

    /// Queues the line that `make` returns, unless too many came in this second; then it is not even made.
    pub(super) fn put(&self, make: impl FnOnce() -> String) {
        if self.takes_turn() {
            self.put_always(make());
        } else {
            self.shared.dropped.fetch_add(1, Relaxed);
            self.thread.unpark();
        }
    }

    /// Queues a line whatever came before it in this second.
    pub(super) fn put_always(&self, line: String) {
        match self.shared.lines.push(line) {
            Ok(()) => self.shared.queued.fetch_add(1, Relaxed),
            Err(_) => self.shared.dropped.fetch_add(1, Relaxed),
        };
        self.thread.unpark();
    }

    pub(super) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Relaxed)
    }

    /// Waits until what is queued now is written or dropped. Looks each millisecond: it is called at the end only.
    pub(super) fn flush(&self, timeout: Duration) {
        let (queued, start) = (self.shared.queued.load(Relaxed), Instant::now());
        while self.shared.settled.load(Relaxed) < queued && start.elapsed() < timeout {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn takes_turn(&self) -> bool {
        const COUNT_BITS: u32 = 32;
        let second = self.started.elapsed().as_secs();
        let count = |turn: u64| match turn >> COUNT_BITS == second {
            true => Some(turn + 1).filter(|_| turn & ((1 << COUNT_BITS) - 1) < LINES_A_SECOND_MAX),
            false => Some(second << COUNT_BITS | 1),
        };
        self.second.fetch_update(Relaxed, Relaxed, count).is_ok()
    }
}

/// What the thread owns.
struct Task<W> {
    shared: Arc<Shared>,
    output: W,
    style: Style,
    /// Whether the last line was written in part, so that the next one has to begin a new line.
    is_torn: bool,
    /// Dropped lines that a line reports.
    reported: u64,
    /// When dropped lines were last reported, or could not be.
    attempted_at: Option<Instant>,
}

impl<W: io::Write> Task<W> {
    fn run(mut self) {
        loop {
            while let Some(line) = self.shared.lines.pop() {
                if self.write(&line).is_err() {
                    self.shared.dropped.fetch_add(1, Relaxed);
                }
                self.shared.settled.fetch_add(1, Relaxed);
                self.report_dropped();
            }
            self.report_dropped();
            if self.reported == self.shared.dropped.load(Relaxed) {
                thread::park();
            } else {
                thread::park_timeout(REPORT_INTERVAL);
            }
        }
    }

    /// Writes a line that reports what was dropped since the last such line, at most once in an interval.
    fn report_dropped(&mut self) {
        let dropped = self.shared.dropped.load(Relaxed);
        let too_early = self.attempted_at.is_some_and(|at| at.elapsed() < REPORT_INTERVAL);
        if dropped > self.reported && !too_early {
            self.attempted_at = Some(Instant::now());
            if self.write(&Line::of_dropped(dropped - self.reported, self.style)).is_ok() {
                self.reported = dropped;
            }
        }
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.is_torn {
            self.output.write_all(b"\n")?;
            self.is_torn = false;
        }
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            match self.output.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    rest = &rest[bytes..];
                    self.is_torn = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Descriptor 2 itself. The standard library's handle has a lock, which others would wait for while a write is stuck.
pub(super) struct Stderr;

impl io::Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        loop {
            match rustix::io::write(&stderr, bytes) {
                // Another process may have made the pipe non-blocking.
                Err(Errno::AGAIN) => {
                    poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None)?;
                }
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::config::LogFormat;

    const STYLE: Style = Style { format: LogFormat::Text, colour: false };

    /// An output that does what a test says: each write takes so many bytes or fails, and then everything is taken.
    #[derive(Clone, Default)]
    struct Script {
        steps: Arc<Mutex<VecDeque<Result<usize, Errno>>>>,
        written: Arc<Mutex<String>>,
    }

    impl io::Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let step = self.steps.lock().unwrap().pop_front().unwrap_or(Ok(bytes.len()));
            let count = step?.min(bytes.len());
            self.written.lock().unwrap().push_str(std::str::from_utf8(&bytes[..count]).unwrap());
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output that is stuck until the test lets it go.
    struct Stuck {
        release: Receiver<()>,
        written: Arc<Mutex<String>>,
    }

    impl io::Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // An error means that the sender is gone and nothing is stuck any more.
            let _ = self.release.recv();
            self.written.lock().unwrap().push_str(std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn stuck() -> (Writer, Sender<()>, Arc<Mutex<String>>) {
        let (release, stuck) = channel();
        let written = Arc::default();
        let output = Stuck { release: stuck, written: Arc::clone(&written) };
        (Writer::start(output, STYLE).unwrap(), release, written)
    }

    fn wait_until(what: &str, holds: impl Fn() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < Duration::from_secs(10), "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_stuck_output_delays_nobody_and_what_it_dropped_is_reported() {
        let (writer, release, written) = stuck();
        let start = Instant::now();
        let lines = LINES_MAX as u64 + 500;
        (0..lines).for_each(|number| writer.put_always(format!("line {number}\n")));
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        // One line may be in the hands of the thread.
        let dropped = writer.dropped();
        assert!((499..=500).contains(&dropped), "{dropped}");
        let start = Instant::now();
        writer.flush(Duration::from_millis(50));
        assert!((50..1_000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
        drop(release);
        writer.flush(Duration::from_secs(10));
        let report = format!("{dropped} log lines were dropped");
        wait_until("the report", || written.lock().unwrap().contains(&report));
        let kept = written.lock().unwrap().matches("line ").count();
        assert_eq!(kept as u64, lines - dropped);
    }

    #[test]
    fn lines_beyond_the_limit_of_a_second_are_dropped_unmade() {
        let output = Script::default();
        let writer = Writer::start(output, STYLE).unwrap();
        let mut made = 0;
        for _ in 0..3 * LINES_A_SECOND_MAX {
            writer.put(|| {
                made += 1;
                "x\n".to_owned()
            });
        }
        // The second may have changed once meanwhile.
        assert!(made == LINES_A_SECOND_MAX || made == 2 * LINES_A_SECOND_MAX, "{made}");
        assert_eq!(writer.dropped(), 3 * LINES_A_SECOND_MAX - made);
    }

    #[test]
    fn errors_and_short_writes_cost_a_line_at_most_and_leave_no_mixed_lines() {
        let output = Script::default();
        // The second error is that of the report.
        let steps = [Ok(2), Err(Errno::INTR), Ok(100), Err(Errno::NOSPC), Err(Errno::NOSPC), Ok(3), Err(Errno::PIPE)];
        output.steps.lock().unwrap().extend(steps);
        let writer = Writer::start(output.clone(), STYLE).unwrap();
        for line in ["first\n", "second\n", "third\n", "fourth\n"] {
            writer.put_always(line.to_owned());
        }
        wait_until("the report", || output.written.lock().unwrap().contains("dropped"));
        assert_eq!(writer.dropped(), 2);
        let written = output.written.lock().unwrap().clone();
        assert!(written.starts_with("first\nthi\nfourth\n"), "{written:?}");
        assert!(written.contains("2 log lines were dropped"), "{written:?}");
    }
}
