//! `docs/metrics.md` is true: what stands between its marks is made from the table of families.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::env;
use std::fmt::Write;
use std::fs;

use corelane_metrics::{BUCKET_COUNT, FAMILIES, Family, Kind, Source, bucket_bound_seconds};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
const BEGIN: &str = "<!-- begin: made from crates/metrics/src/table.rs -->\n";
const END: &str = "<!-- end -->\n";
const REWRITE: &str = "CORELANE_WRITE_DOCS=1 cargo test -p corelane-metrics --test metrics_doc";

/// The names of the labels that every sample of a family has.
fn labels(family: &Family) -> Vec<&'static str> {
    match family.name {
        // Its values are text that only the binary knows, so they are not in the table.
        "corelane_build_info" => vec!["version", "revision"],
        _ => {
            let shard = (family.source != Source::Process).then_some("shard");
            shard.into_iter().chain(family.label.map(|label| label.name)).collect()
        }
    }
}

/// Samples of a family for one shard, or of the process.
fn samples(family: &Family) -> usize {
    match family.kind {
        // The buckets, sum and count.
        Kind::Histogram => BUCKET_COUNT + 2,
        _ => family.label.map_or(1, |label| label.values.len()),
    }
}

fn codes<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn made() -> String {
    let mut page = "\n| name | type | unit | labels | meaning |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for family in FAMILIES {
        let kind = format!("{:?}", family.kind).to_lowercase();
        let (unit, labels) = (family.unit.unwrap_or_default(), codes(labels(family)));
        writeln!(page, "| `{}` | {kind} | {unit} | {labels} | {} |", family.name, family.help).unwrap();
    }
    page += "\n| name | label | values |\n| --- | --- | --- |\n";
    for family in FAMILIES {
        let Some(label) = family.label else { continue };
        writeln!(page, "| `{}` | `{}` | {} |", family.name, label.name, codes(label.values.iter().copied())).unwrap();
    }
    let sum = |of_process: bool| -> usize {
        let chosen = FAMILIES.iter().filter(|family| (family.source == Source::Process) == of_process);
        chosen.map(samples).sum()
    };
    let (first, last) = (bucket_bound_seconds(0) * 1e6, bucket_bound_seconds(BUCKET_COUNT - 2));
    writeln!(page, "\nThat is {} time series for each shard and {} for the process.", sum(false), sum(true)).unwrap();
    writeln!(page, "The buckets of a histogram double from {first} us to {last:.1} s.\n").unwrap();
    page
}

#[test]
fn the_page_says_what_the_table_says() {
    let page = fs::read_to_string(PATH).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (between, after) = rest.split_once(END).unwrap();
    if env::var_os("CORELANE_WRITE_DOCS").is_some() {
        fs::write(PATH, [before, BEGIN, &made(), END, after].concat()).unwrap();
        return;
    }
    assert!(between == made(), "docs/metrics.md is not what the table says; this writes it anew:\n{REWRITE}");
}
