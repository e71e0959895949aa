//! One input over one connection: the async half of sending a file.
//!
//! The rows are read on a blocking thread and come over a short channel, so a slow disk or a silent pipe never keeps
//! the client from hearing that the server closes, and a slow server keeps the reader waiting instead of memory growing.

use std::{sync::Arc, thread, time::Duration};

use corelane_client::{Answer, Client, ClientError, Closing};
use tokio::sync::mpsc;

use super::{
    csv::Layout,
    feed::{BATCHES_MAX, Batch, Feed, RowError},
    input::Input,
    ndjson,
    pace::Pacer,
    progress::Progress,
};

/// An input and how to read it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) input: Input,
    pub(super) format: Format,
}

/// How the rows of a source are read.
#[derive(Debug)]
pub(super) enum Format {
    Csv(Layout),
    /// `id` is that of lines without one.
    Ndjson {
        id: Option<String>,
    },
}

/// What came of one or more transfers.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) events: u64,
    pub(super) points: u64,
    pub(super) empty_cells: u64,
    pub(super) committed: u64,
    pub(super) rejected: u64,
    /// What went wrong, each for itself to be read.
    pub(super) errors: Vec<String>,
}

impl Outcome {
    /// Takes in how the connection of `name` ended.
    pub(super) fn settle(&mut self, name: &str, result: Result<Answer, ClientError>) {
        let answer = match result {
            Ok(answer) => answer,
            Err(error) => {
                let answer = error.answer().unwrap_or_default();
                self.errors.push(match &error {
                    ClientError::Closed(closing) => format!("{name}: {error}; {}", resume_text(closing)),
                    _ => format!("{name}: {error}"),
                });
                answer
            }
        };
        self.committed += answer.committed;
        self.rejected += answer.rejected;
        if self.errors.is_empty() && answer.committed + answer.rejected != self.events {
            let decided = answer.committed + answer.rejected;
            self.errors.push(format!("{name}: the server answered for {decided} of {} events", self.events));
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.points += other.points;
        self.empty_cells += other.empty_cells;
        self.committed += other.committed;
        self.rejected += other.rejected;
        // Hundreds of files meet the same closed port.
        for error in other.errors {
            if !self.errors.contains(&error) {
                self.errors.push(error);
            }
        }
    }

    fn count(&mut self, batch: &Batch) {
        self.events += batch.events;
        self.points += batch.points;
        self.empty_cells += batch.empty_cells;
    }
}

/// Where the user goes on after a close: one row is one event.
fn resume_text(Closing { code, answer, .. }: &Closing) -> String {
    let decided = answer.committed + answer.rejected;
    match code.as_str() {
        "oversize" | "rejected_frames" => format!("row {decided} or the one after it is what the server refused"),
        _ => format!("send again from row {}", decided + 1),
    }
}

/// Sends `source` to `address`, commits, and closes.
pub(super) async fn send(source: Source, address: &str, pacer: Option<Arc<Pacer>>, progress: Progress) -> Outcome {
    let mut outcome = Outcome::default();
    let mut client = match Client::connect(address, CONNECT_TIMEOUT).await {
        Ok(client) => client,
        Err(error) => {
            outcome.errors.push(error.to_string());
            return outcome;
        }
    };
    let name = source.input.name.clone();
    let (outlet, mut inlet) = mpsc::channel(BATCHES_MAX);
    let reading = tokio::task::spawn_blocking(move || read(source, outlet, pacer, progress));
    if let Err(error) = forward(&mut client, &mut inlet, &mut outcome).await {
        // The reader may sit in a pipe that never gives another byte; nobody waits for it.
        outcome.settle(&name, Err(error));
        return outcome;
    }
    outcome.settle(&name, client.finish().await);
    match reading.await {
        Ok(Ok(())) => (),
        Ok(Err(RowError { line, text })) => {
            outcome.errors.push(format!("{name}:{line}: {text}; the {} events before it were sent", outcome.events));
        }
        Err(panic) => outcome.errors.push(format!("{name}: the reader failed: {panic}")),
    }
    outcome
}

/// All frames of a source.
///
/// # Errors
/// The line and what is wrong with it.
pub(super) fn read_all(source: Source, bytes_max: usize) -> Result<Vec<u8>, String> {
    let (outlet, inlet) = mpsc::channel(BATCHES_MAX);
    thread::scope(move |scope| {
        let reading = scope.spawn(|| read(source, outlet, None, Progress::new(true)));
        let mut inlet = inlet;
        let mut frames = Vec::new();
        while let Some(batch) = inlet.blocking_recv() {
            frames.extend_from_slice(&batch.frames);
            if frames.len() > bytes_max {
                return Err(format!(" more than {} MiB of frames: send a part of it", bytes_max >> 20));
            }
        }
        match reading.join().expect("the reader does not panic") {
            Ok(()) => Ok(frames),
            Err(RowError { line, text }) => Err(format!("{line}: {text}; nothing was sent")),
        }
    })
}

fn read(
    source: Source,
    outlet: mpsc::Sender<Batch>,
    pacer: Option<Arc<Pacer>>,
    progress: Progress,
) -> Result<(), RowError> {
    let bytes = source.input.into_reader().map_err(|error| RowError { line: 1, text: error.to_string() })?;
    let feed = Feed::new(bytes, outlet, pacer, progress);
    match source.format {
        Format::Csv(layout) => layout.read_rows(feed),
        Format::Ndjson { id } => ndjson::read_lines(id.as_deref(), feed),
    }
}

/// Writes batches until the reader has no more.
async fn forward(
    client: &mut Client,
    inlet: &mut mpsc::Receiver<Batch>,
    outcome: &mut Outcome,
) -> Result<(), ClientError> {
    loop {
        let batch = tokio::select! {
            batch = inlet.recv() => batch,
            error = client.closed() => return Err(error),
        };
        let Some(batch) = batch else { return Ok(()) };
        outcome.count(&batch);
        client.send(&batch.frames).await?;
        client.flush().await?;
    }
}

/// How long a server may take to accept and to answer the first commit request.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
