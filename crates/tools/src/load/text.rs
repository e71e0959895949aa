//! The result as a table for a person.

use std::fmt::Write;

use super::{
    limits::megabytes,
    outcome::{Outcome, ServerOutcome},
    series::Percentiles,
};

/// The whole table, with line ends.
pub(super) fn table(outcome: &Outcome) -> String {
    let rows = rows(outcome);
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = headline(outcome) + "\n";
    for (name, told) in rows {
        let _ = writeln!(text, "{name:width$}  {told}");
    }
    text
}

/// Name and text of each row.
pub(super) fn rows(outcome: &Outcome) -> Vec<(String, String)> {
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut row = |name: &str, text: String| rows.push((name.to_owned(), text));
    let frames = &outcome.frames;
    row(
        "sent",
        format!("{} frames, {:.0}/s, {:.2} Mbit/s", frames.sent, outcome.frames_per_second, outcome.mbit_per_second),
    );
    row("accepted", frames.accepted.to_string());
    row("rejected", rejected(frames.rejected, outcome.server.as_ref()));
    row("lost", frames.lost.to_string());
    if frames.unsent > 0 {
        row("due, never sent", frames.unsent.to_string());
    }
    row("due to answer", times(outcome.latency_ms));
    row("write to answer", times(outcome.latency_uncorrected_ms));
    row("sender late by", times(outcome.sender_late_ms));
    row("sender's CPU", format!("{:.1} %", outcome.sender_cpu_percent));
    if let Some(server) = &outcome.server {
        let resident = &server.resident;
        let slope = resident.slope_per_hour.map_or_else(
            || "none, too short".to_owned(),
            |slope| format!("{}/h over the last {:.0} s", megabytes(slope), resident.slope_over_seconds),
        );
        let [start, peak, end] = [resident.start, resident.peak, resident.end].map(megabytes);
        row("resident memory", format!("start {start}, peak {peak}, end {end}, slope {slope}"));
        row("server's CPU", format!("{:.1} %", server.cpu_percent));
        for core in &server.data_cores {
            let windows = &core.cpu_percent_windows;
            let lowest = windows.iter().copied().fold(f64::INFINITY, f64::min);
            let highest = windows.iter().copied().fold(0.0, f64::max);
            row(
                &format!("data core of shard {}", core.shard),
                format!(
                    "CPU {:.1} %, {lowest:.1} to {highest:.1} in {} windows of {:.0} s, at most {:.2} points off the mean",
                    core.cpu_percent,
                    windows.len(),
                    core.window_seconds,
                    core.cpu_spread
                ),
            );
            row("", format!("{:.0} allocations/s, {} frames", core.allocations_per_second, core.frames_accepted));
        }
    }
    for verdict in &outcome.limits {
        let word = if verdict.is_held { "held" } else { BROKEN };
        row(&verdict.limit, format!("{word}: {}", verdict.measured));
    }
    rows
}

/// What was asked for.
pub(super) fn headline(outcome: &Outcome) -> String {
    let load = &outcome.load;
    format!(
        "{:.1} s{} at {} over {} connections to {}: {}",
        outcome.seconds,
        if outcome.is_interrupted { ", interrupted," } else { "" },
        load.rate,
        load.connections,
        load.target,
        load.mix
    )
}

fn rejected(count: u64, server: Option<&ServerOutcome>) -> String {
    let reasons: Vec<_> = server
        .into_iter()
        .flat_map(|server| &server.frames_rejected)
        .map(|(reason, n)| format!("{n} {reason}"))
        .collect();
    if reasons.is_empty() { count.to_string() } else { format!("{count} ({})", reasons.join(", ")) }
}

fn times(percentiles: Option<Percentiles>) -> String {
    match percentiles {
        Some(Percentiles { p50, p99, p999, max, count, .. }) => {
            format!("p50 {p50:.3} ms, p99 {p99:.3} ms, p99.9 {p999:.3} ms, max {max:.3} ms ({count} measured)")
        }
        None => "nothing was measured".to_owned(),
    }
}

/// Begins the text of a limit that was not kept.
pub(super) const BROKEN: &str = "BROKEN";
