//! The report: one HTML page without outside parts, with the table and plots over time. Readable light and dark.

use std::fmt::Write;

use plotters::prelude::*;

use super::{
    outcome::Outcome,
    series::{CoreSecond, Percentiles, Second},
    text,
};

/// The whole page.
pub(super) fn page(outcome: &Outcome) -> String {
    let series = condensed(&outcome.series, POINTS_MAX);
    let mut page = HEAD.to_owned();
    let _ = writeln!(page, "<h1>corelane load</h1>\n<p>{}</p>\n<table>", escaped(&text::headline(outcome)));
    for (name, told) in text::rows(outcome) {
        let class = if told.starts_with(text::BROKEN) { " class=\"broken\"" } else { "" };
        let _ = writeln!(page, "<tr{class}><th>{}</th><td>{}</td></tr>", escaped(&name), escaped(&told));
    }
    page += "</table>\n";
    for problem in &outcome.problems {
        let _ = writeln!(page, "<p class=\"broken\">{}</p>", escaped(problem));
    }
    for plot in plots(&series) {
        page += &plot.figure();
    }
    page += "</body></html>\n";
    page
}

/// Lines over time.
struct Plot {
    title: &'static str,
    unit: &'static str,
    /// What would otherwise lie flat at the bottom because of one spike.
    is_logarithmic: bool,
    lines: Vec<(String, Vec<(f64, f64)>)>,
}

fn plots(series: &[Second]) -> Vec<Plot> {
    let line = |name: &str, of: &dyn Fn(&Second) -> Option<f64>| {
        let points = series.iter().filter_map(|second| Some((second.at_seconds, of(second)?)));
        (name.to_owned(), points.collect::<Vec<_>>())
    };
    let latency = |name: &str, of: fn(&Percentiles) -> f64| line(name, &|second| second.latency_ms.as_ref().map(of));
    let cores = series.iter().map(|second| second.cores.len()).max().unwrap_or(0);
    let by_core = |of: fn(&CoreSecond) -> f64| {
        (0..cores)
            .map(|core| line(&format!("shard {core}"), &|second| second.cores.get(core).map(of)))
            .collect::<Vec<_>>()
    };
    let plot = |title, unit, lines| Plot { title, unit, is_logarithmic: false, lines };
    vec![
        Plot {
            is_logarithmic: true,
            ..plot(
                "Latency, due to answer",
                "ms",
                vec![
                    latency("p50", |latency| latency.p50),
                    latency("p99", |latency| latency.p99),
                    latency("p99.9", |latency| latency.p999),
                    latency("max", |latency| latency.max),
                ],
            )
        },
        plot("Throughput", "Mbit/s", vec![line("sent", &|second| Some(second.mbit_per_second))]),
        plot("Frames", "frames/s", vec![line("sent", &|second| Some(second.sent_per_second))]),
        plot(
            "Resident memory of the server",
            "MB",
            vec![line("resident", &|second| second.resident_bytes.map(|bytes| bytes / 1e6))],
        ),
        plot("CPU of the data cores", "%", by_core(|core| core.cpu_percent)),
        plot("Heap allocations of the data cores", "allocations/s", by_core(|core| core.allocations_per_second)),
        plot("Sender late by, at most", "ms", vec![line("late", &|second| Some(second.late_max_ms))]),
    ]
}

impl Plot {
    /// Nothing without a point.
    fn figure(&self) -> String {
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let time_max = points().map(|point| point.0).fold(0.0, f64::max);
        let highest = points().map(|point| point.1).fold(0.0, f64::max);
        if time_max == 0.0 {
            return String::new();
        }
        let mut svg = String::new();
        let drawn = if self.is_logarithmic {
            let lowest = points().map(|point| point.1).fold(highest, f64::min).max(1e-3);
            self.draw(&mut svg, time_max, (lowest..highest.max(lowest * 10.0)).log_scale())
        } else {
            self.draw(&mut svg, time_max, 0.0..(highest * 1.1).max(1e-9))
        };
        drawn.expect("text is written to memory");
        let legend: String = self
            .lines
            .iter()
            .zip(COLORS.iter().cycle())
            .map(|((name, _), RGBColor(r, g, b))| {
                format!("<span><i style=\"background:rgb({r},{g},{b})\"></i>{}</span> ", escaped(name))
            })
            .collect();
        format!("<figure><figcaption><b>{}</b>, {} {legend}</figcaption>\n{svg}</figure>\n", self.title, self.unit)
    }

    fn draw<Y>(&self, svg: &mut String, time_max: f64, values: Y) -> Result<(), Box<dyn std::error::Error>>
    where
        Y: plotters::coord::ranged1d::AsRangedCoord<Value = f64>,
        Y::CoordDescType: plotters::coord::ranged1d::ValueFormatter<f64>,
    {
        let area = SVGBackend::with_string(svg, PLOT_PIXELS).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin_right(20)
            .margin_top(10)
            .x_label_area_size(30)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..time_max, values)?;
        chart
            .configure_mesh()
            .x_desc("seconds")
            .bold_line_style(BLACK.mix(0.15))
            .light_line_style(TRANSPARENT)
            .x_labels(10)
            .y_labels(6)
            .draw()?;
        for ((_, points), color) in self.lines.iter().zip(COLORS.iter().cycle()) {
            chart.draw_series(LineSeries::new(points.iter().copied(), color))?;
        }
        area.present()?;
        Ok(())
    }
}

/// At most so many rows, each the highest of those it stands for.
fn condensed(series: &[Second], rows_max: usize) -> Vec<Second> {
    let step = series.len().div_ceil(rows_max).max(1);
    series.chunks(step).filter_map(|chunk| chunk.iter().cloned().reduce(|all, second| all.highest(&second))).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Told apart on white and on black.
const COLORS: [RGBColor; 4] =
    [RGBColor(37, 130, 235), RGBColor(230, 140, 20), RGBColor(20, 165, 120), RGBColor(225, 70, 80)];

const PLOT_PIXELS: (u32, u32) = (960, 260);

/// A few for each pixel.
const POINTS_MAX: usize = 2000;

/// The plots draw axes and text in black, which becomes the colour of the page's text.
const HEAD: &str = r##"<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>corelane load</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0; font-variant-numeric: tabular-nums; }
th { font-weight: 600; white-space: nowrap; }
.broken { color: #d33; }
figure { margin: 1.5rem 0; }
figcaption span { margin-left: 1rem; white-space: nowrap; }
figcaption i { display: inline-block; width: .8em; height: .8em; margin-right: .3em; }
svg { width: 100%; height: auto; }
svg text { fill: currentColor; }
svg [stroke="#000000"] { stroke: currentColor; }
</style></head><body>
"##;

#[cfg(test)]
mod tests {
    use super::*;

    fn second(number: u32) -> Second {
        let ms = f64::from(number);
        Second {
            at_seconds: ms,
            sent_per_second: 1e4,
            mbit_per_second: 80.0,
            latency_ms: Some(Percentiles { p50: ms, p90: ms, p99: ms, p999: ms, max: ms, count: 1 }),
            late_max_ms: ms,
            resident_bytes: Some(1e7),
            cores: vec![CoreSecond { cpu_percent: ms, allocations_per_second: ms }],
        }
    }

    #[test]
    fn every_plot_has_its_lines() {
        let series: Vec<_> = (1..100).map(second).collect();
        for plot in plots(&series) {
            let figure = plot.figure();
            let lines = figure.matches("<polyline").count();
            assert!(lines >= plot.lines.len() && figure.contains(plot.title), "{}: {lines}", plot.title);
            assert!(!figure.contains("http://") || figure.contains("http://www.w3.org/2000/svg"), "no outside part");
        }
    }

    #[test]
    fn a_run_without_a_second_has_no_plot() {
        assert!(plots(&[]).iter().all(|plot| plot.figure().is_empty()));
    }

    #[test]
    fn long_runs_are_condensed_to_their_peaks() {
        let series: Vec<_> = (1..=100).map(second).collect();
        let condensed = condensed(&series, 10);
        let peaks: Vec<_> =
            condensed.iter().map(|second| (second.at_seconds, second.latency_ms.unwrap().max)).collect();
        assert_eq!(peaks.len(), 10);
        assert_eq!((peaks[0], peaks[9]), ((10.0, 10.0), (100.0, 100.0)));
        assert_eq!(condensed[3].cores[0].cpu_percent, 40.0);
    }

    #[test]
    fn names_of_files_are_no_markup() {
        assert_eq!(escaped("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
