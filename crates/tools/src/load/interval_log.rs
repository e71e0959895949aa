//! The HdrHistogram log: an interval a second, for the tools that read such logs.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    time::SystemTime,
};

use hdrhistogram::serialization::{
    V2DeflateSerializer,
    interval_log::{IntervalLogWriterBuilder, Tag},
};

use super::measured::Interval;

/// A log, if one is wanted.
pub(super) struct IntervalLog {
    file: Option<BufWriter<File>>,
    serializer: V2DeflateSerializer,
}

impl IntervalLog {
    /// Writes the head.
    pub(super) fn begin(file: Option<File>, start: SystemTime) -> io::Result<Self> {
        let mut log = Self { file: file.map(BufWriter::new), serializer: V2DeflateSerializer::new() };
        if let Some(file) = &mut log.file {
            IntervalLogWriterBuilder::new()
                .add_comment("corelane load: times in nanoseconds; without tag: due to answer")
                .with_start_time(start)
                .with_base_time(start)
                .begin_log_with(file, &mut log.serializer)?;
        }
        Ok(log)
    }

    /// Appends an interval.
    pub(super) fn write(&mut self, interval: &Interval) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        // The head is written; a builder without one goes on behind it.
        let mut writer = IntervalLogWriterBuilder::new().begin_log_with(file, &mut self.serializer)?;
        let times = &interval.times;
        for (histogram, tag) in
            [(&times.from_due, None), (&times.from_write, Some("uncorrected")), (&times.late, Some("late"))]
        {
            writer
                .write_histogram(histogram, interval.start, interval.length, tag.and_then(Tag::new))
                .map_err(io::Error::other)?;
        }
        file.flush()
    }
}
