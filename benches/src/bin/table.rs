//! One table of a run of all benchmarks: what is required, what is aimed at, what was measured. Printed, and put into a
//! Markdown file between two marks.
//!
//! `bench-table RESULTS MARKDOWN REVISION LOAD`: the directory that the benchmarks wrote to, the file, the source
//! revision, and how busy the machine was with other things before the run.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use corelane_benches::results::Results;
use serde_json::Value;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [results, markdown, revision, load] = &arguments[..] else {
        eprintln!("usage: bench-table RESULTS MARKDOWN REVISION LOAD");
        return ExitCode::from(2);
    };
    let run = Run::load(Path::new(results));
    let rows = rows(&run);
    print!("{}", plain_table(&rows));
    let text = format!(
        "{}\n{}\n{}\n{}\n{}",
        machine(revision, load),
        markdown_table(&rows),
        servers_table(&run),
        decode_table(&run),
        other_tables(&run)
    );
    match fs::read_to_string(markdown).and_then(|page| fs::write(markdown, replaced(&page, &text))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{markdown}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that was measured.
struct Run {
    criterion: PathBuf,
    ring: Results,
    stream: Results,
}

/// One benchmark of criterion's.
#[derive(Clone, Copy)]
struct Timing {
    /// Median time of an iteration.
    nanoseconds: f64,
    elements: f64,
    bytes: f64,
}

impl Run {
    fn load(directory: &Path) -> Self {
        let results = |name| Results::load(directory, name).unwrap_or_default();
        Self {
            criterion: directory.join("criterion"),
            ring: results("telemetry_ring"),
            stream: results("stream_throughput"),
        }
    }

    fn timing(&self, group: &str, function: &str) -> Option<Timing> {
        let directory = self.criterion.join(group).join(function).join("new");
        let json = |name| {
            let text = fs::read_to_string(directory.join(name)).ok()?;
            serde_json::from_str::<Value>(&text).ok()
        };
        let nanoseconds = json("estimates.json")?["median"]["point_estimate"].as_f64()?;
        let throughput = &json("benchmark.json")?["throughput"];
        let both = &throughput["ElementsAndBytes"];
        let elements = both["elements"].as_f64().or_else(|| throughput["Elements"].as_f64()).unwrap_or(1.0);
        let bytes = both["bytes"].as_f64().unwrap_or(0.0);
        Some(Timing { nanoseconds, elements, bytes })
    }

    /// How much faster one is than another, per element.
    fn faster(&self, (group, function): (&str, &str), than: (&str, &str)) -> Option<f64> {
        let (fast, slow) = (self.timing(group, function)?, self.timing(than.0, than.1)?);
        Some((slow.nanoseconds / slow.elements) / (fast.nanoseconds / fast.elements))
    }
}

/// A line of the table.
struct Row {
    what: &'static str,
    required: Bound,
    aim: Bound,
    unit: &'static str,
    measured: Option<f64>,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// Shown beside the others.
    None,
}

impl Bound {
    fn holds(self, number: f64) -> bool {
        match self {
            Self::AtLeast(bound) => number >= bound,
            Self::AtMost(bound) => number <= bound,
            Self::None => true,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::AtLeast(bound) => format!(">= {bound}{unit}"),
            Self::AtMost(bound) => format!("<= {bound}{unit}"),
            Self::None => String::new(),
        }
    }
}

impl Row {
    fn is(self, measured: Option<f64>) -> Self {
        Self { measured, ..self }
    }

    fn measured(&self) -> String {
        let Some(number) = self.measured else { return "not measured".to_owned() };
        let digits = match number.abs() {
            100.0.. => 0,
            10.0.. => 1,
            1.0.. => 2,
            _ => 3,
        };
        format!("{number:.digits$}{}", self.unit)
    }

    fn verdict(&self) -> &'static str {
        match (self.measured, self.required) {
            (None, _) | (_, Bound::None) => "",
            (Some(number), required) if !required.holds(number) => "missed",
            (Some(number), _) if self.aim.holds(number) => "aim",
            _ => "met",
        }
    }
}

fn rows(run: &Run) -> Vec<Row> {
    let decode = |stream, function, than| run.faster((stream, function), (stream, than));
    let stream = |name: &str| run.stream.get(name);
    let ways = ["corelane", "predicted", "general"].into_iter();
    let not_ascii = ways.filter_map(|way| run.faster(("decode_not_ascii", way), ("decode_1KB", way)));
    let record = run.timing("ring_record", "corelane").map(|timing| timing.nanoseconds);
    let sections = ["one", "eight"].into_iter();
    let allocations = sections.filter_map(|section| stream(&format!("{section}/corelane/allocations_a_frame")));
    vec![
        at_least("decode, same shape, 1 KB, over `ciborium` owned", 40.0, 100.0).is(decode(
            "decode_1KB",
            "corelane",
            "ciborium",
        )),
        at_least("the same, rollup of 14 points included", 40.0, 100.0).is(decode(
            "decode_1KB",
            "corelane_rollup",
            "ciborium",
        )),
        at_least("decode, same shape, 1 KB, over `cbor4ii` borrowed", 12.0, 25.0).is(decode(
            "decode_1KB",
            "corelane",
            "cbor4ii",
        )),
        at_least("decode, shuffled keys, over `cbor4ii` borrowed", 0.5, 0.5).is(decode(
            "decode_shuffled",
            "corelane",
            "cbor4ii",
        )),
        at_least("decode, mixed shapes, over `cbor4ii` borrowed", 0.5, 0.5).is(decode(
            "decode_mixed",
            "corelane",
            "cbor4ii",
        )),
        at_least("decode, text that is not ASCII, over ASCII, the slowest of the three ways", 0.3, 0.3)
            .is(not_ascii.reduce(f64::min)),
        at_least("frames/s, one connection, over tokio `read_exact` + `ciborium`", 25.0, 35.0)
            .is(stream("one_bytes_over_tokio_owned")),
        at_least("frames/s, eight connections, over tokio `read_exact` + `ciborium`", 25.0, 35.0)
            .is(stream("eight_bytes_over_tokio_owned")),
        at_least("bytes/s, one connection, over a bare receive loop", 0.6, 0.95)
            .is(stream("one_bytes_over_receive_only")),
        at_least("bytes/s, eight connections, over a bare receive loop", 0.6, 0.95)
            .is(stream("eight_bytes_over_receive_only")),
        at_least("bytes/s, each frame another device, 3 to 25 points, over the same shape", 0.5, 0.8)
            .is(stream("gateway_bytes_over_same_shape")),
        at_least("2 000 connections, one frame a write, over tokio with the same decoder", 1.0, 1.1)
            .is(stream("fan_in_1_bytes_over_tokio_decode")),
        at_least("2 000 connections, four frames a write, over tokio with the same decoder", 1.0, 1.1)
            .is(stream("fan_in_4_bytes_over_tokio_decode")),
        at_most("2 000 idle connections over none: CPU", 0.1, 0.1, " % of a core")
            .is(stream("idle_cpu_percent_over_no_connection")),
        at_most("80 Mbit/s, 64 connections: CPU of the process, over tokio with the same decoder", 0.8, 0.6, "x")
            .is(stream("paced_cpu_over_tokio_decode")),
        at_most("80 Mbit/s: p99 from write to counted, way of the answer included", 8.0, 1.0, " ms")
            .is(stream("paced_corelane_p99_ms")),
        at_most("80 Mbit/s: heap allocations of the data core", 1000.0, 400.0, "/s")
            .is(stream("paced/corelane/allocations_a_second")),
        at_most("flat out, one and eight connections: heap allocations of the data core a frame", 0.001, 0.001, "")
            .is(allocations.reduce(f64::max)),
        at_most("80 Mbit/s: peak resident memory", 140.0, 32.0, " MB").is(stream("paced/corelane/resident_mb_max")),
        at_most("flat out, 5 000 connections: peak resident memory", 140.0, 96.0, " MB")
            .is(stream("memory/corelane/resident_mb_max")),
        beside("beside it: tokio `read_until`, 80 Mbit/s: memory that is never given back", " MB/s")
            .is(stream("paced_tokio_delimited_mb_a_second")),
        beside("beside it: tokio `read_until`, flat out: time until it was stopped at 1 GB", " s")
            .is(stream("delimited_seconds")),
        at_most("ring: `record`, uncontended", 5.0, 5.0, " ns").is(record),
        at_least("throughput with telemetry over without", 0.99, 1.0).is(run.ring.get("telemetry_on_over_off")),
        at_most("CPU of a frame, two shards over one", 1.05, 1.0, "x").is(stream("shards_cpu_two_over_one")),
    ]
}

fn at_least(what: &'static str, required: f64, aim: f64) -> Row {
    Row { what, required: Bound::AtLeast(required), aim: Bound::AtLeast(aim), unit: "x", measured: None }
}

fn at_most(what: &'static str, required: f64, aim: f64, unit: &'static str) -> Row {
    Row { what, required: Bound::AtMost(required), aim: Bound::AtMost(aim), unit, measured: None }
}

fn beside(what: &'static str, unit: &'static str) -> Row {
    Row { what, required: Bound::None, aim: Bound::None, unit, measured: None }
}

fn plain_table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.what.chars().count()).max().unwrap_or(0);
    let mut out = format!("\n{:width$}  {:>10}  {:>10}  {:>18}\n", "", "required", "aim", "measured");
    for row in rows {
        let (required, aim) = (row.required.text(""), row.aim.text(""));
        let (measured, verdict) = (row.measured(), row.verdict());
        let _ = writeln!(out, "{:width$}  {required:>10}  {aim:>10}  {measured:>18}  {verdict}", row.what);
    }
    out
}

fn markdown_table(rows: &[Row]) -> String {
    let mut out = "| what | required | aim | measured | |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for row in rows {
        let (required, aim) = (row.required.text(row.unit), row.aim.text(row.unit));
        let _ = writeln!(out, "| {} | {required} | {aim} | {} | {} |", row.what, row.measured(), row.verdict());
    }
    out
}

/// What each server gave under each load.
fn servers_table(run: &Run) -> String {
    const COLUMNS: [(&str, usize); 5] = [
        ("frames_a_second", 0),
        ("gigabits_a_second", 2),
        ("cpu_ns_a_frame", 0),
        ("allocations_a_second", 0),
        ("resident_mb_max", 1),
    ];
    let mut out =
        "Servers, medians of the rounds; CPU is that of the whole process, allocations those of the data core:\n\n\
        | load | server | frames/s | Gbit/s | CPU, ns a frame | allocations/s | peak MB |\n\
        | --- | --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
    for section in ["one", "eight", "gateway", "fan_in_1", "fan_in_4", "paced", "memory"] {
        for server in ["corelane", "same_shape", "tokio_decode", "tokio_owned", "receive_only"] {
            let number = |what: &str| run.stream.get(&format!("{section}/{server}/{what}"));
            if number(COLUMNS[0].0).is_none() {
                continue;
            }
            let shown = if server == "same_shape" { "corelane, same shape" } else { server };
            let _ = write!(out, "| {section} | {shown} |");
            for (what, digits) in COLUMNS {
                let _ = write!(out, " {:.digits$} |", number(what).unwrap_or(f64::NAN));
            }
            out.push('\n');
        }
    }
    out
}

/// Nanoseconds an event, and GB/s, of every decoder on every stream.
fn decode_table(run: &Run) -> String {
    const WAYS: [&str; 7] = ["corelane", "corelane_rollup", "predicted", "general", "minicbor", "cbor4ii", "ciborium"];
    let mut out = "Decode alone, ns an event (GB/s); `corelane` is whichever way it takes:\n\n| stream |".to_owned();
    let _ = writeln!(out, " {} |\n| --- |{}", WAYS.join(" | "), " --- |".repeat(WAYS.len()));
    for stream in ["100B", "1KB", "16KB", "64KB", "devices", "mixed", "shuffled", "not_ascii"] {
        let _ = write!(out, "| {stream} |");
        for way in WAYS {
            let _ = match run.timing(&format!("decode_{stream}"), way) {
                Some(Timing { nanoseconds, elements, bytes }) => {
                    write!(out, " {:.0} ({:.1}) |", nanoseconds / elements, bytes / nanoseconds)
                }
                None => write!(out, " |"),
            };
        }
        out.push('\n');
    }
    out
}

/// Ring, pool and rollup.
fn other_tables(run: &Run) -> String {
    let mut out = String::new();
    table(
        run,
        &mut out,
        "Ring, ns a sample",
        &["corelane", "array_queue", "mutex", "none"],
        &[
            ("record", "ring_record".to_owned()),
            ("read", "ring_read".to_owned()),
            ("record while another core reads", "ring_contended".to_owned()),
        ],
    );
    table(
        run,
        &mut out,
        "Pool, ns",
        &["corelane", "mutex", "mutex_contended", "allocator"],
        &[
            ("take and give back one", "pool_one".to_owned()),
            ("64 of them", "pool_turn".to_owned()),
            ("one, 1 KiB of it written", "pool_touched".to_owned()),
            ("a slot of 1 000 bytes", "pool_small".to_owned()),
        ],
    );
    let mut groups = Vec::new();
    for (what, name) in [("known", "rollup_known"), ("new", "rollup_new"), ("evicting", "rollup_evict")] {
        groups.extend([1_022, 4_088, 16_380, 65_534].map(|series| (what, format!("{name}_{series}"))));
    }
    table(run, &mut out, "Rollup, ns a point", &["corelane", "corelane_shape", "std", "hashbrown"], &groups);
    out
}

fn table(run: &Run, out: &mut String, title: &str, columns: &[&str], groups: &[(&str, String)]) {
    let _ = writeln!(out, "{title}:\n\n| | {} |\n| --- |{}", columns.join(" | "), " --- |".repeat(columns.len()));
    for (what, group) in groups {
        let series = group.rsplit('_').next().filter(|_| group.starts_with("rollup"));
        let what = series.map_or((*what).to_owned(), |series| format!("{what}, {series} series"));
        let _ = write!(out, "| {what} |");
        for column in columns {
            let _ = match run.timing(group, column) {
                Some(timing) => write!(out, " {:.1} |", timing.nanoseconds / timing.elements),
                None => write!(out, " |"),
            };
        }
        out.push('\n');
    }
    out.push('\n');
}

/// Where and when.
fn machine(revision: &str, load: &str) -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let cores = corelane_testkit::host::allowed_cores().len();
    let (model, kernel) = (model.unwrap_or("unknown processor"), read("/proc/sys/kernel/osrelease"));
    let date = jiff::Zoned::now().date();
    format!(
        "{date}, revision {revision}: `scripts/bench.sh` on {cores} cores of {model}, Linux {}. Load average before \
         the run: {load}.\n",
        kernel.trim()
    )
}

/// The page with `text` between its marks, or behind all that it has.
fn replaced(page: &str, text: &str) -> String {
    const BEGIN: &str = "<!-- table: begin, written by scripts/bench.sh -->";
    const END: &str = "<!-- table: end -->";
    let (before, rest) = page.split_once(BEGIN).unwrap_or((page, ""));
    let after = rest.split_once(END).map_or("\n", |(_, after)| after);
    format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let page = replaced("before\n", "one");
        assert_eq!(replaced(&page, "one"), page);
        assert_eq!(replaced(&format!("{page}after\n"), "two"), format!("{}after\n", replaced("before\n", "two")));
    }

    #[test]
    fn a_row_tells_whether_it_holds() {
        let row =
            |measured| Row { what: "", required: Bound::AtLeast(2.0), aim: Bound::AtLeast(3.0), unit: "x", measured };
        assert_eq!(
            [None, Some(1.0), Some(2.5), Some(3.0)].map(|number| row(number).verdict()),
            ["", "missed", "met", "aim"]
        );
        assert_eq!((row(None).measured(), row(Some(2.5)).measured()), ("not measured".to_owned(), "2.50x".to_owned()));
    }
}
