//! How everything is shown, from top to bottom: whose numbers these are, all lanes together, one line for each, what was
//! refused, sensors, keys. What does not fit a small terminal is left out from the bottom.

use std::time::{Duration, SystemTime};

use corelane_api::{Sensor, Shard};
use jiff::{Timestamp, Zoned, tz::TimeZone};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Table};

use super::asker::Order;
use super::rates::Rates;
use super::state::{State, TRAIL_VALUES};
use super::text::{bound, bytes, duration, harmless, measured, percent, rate, short, sparkline, whole};

const ACCENT: Color = Color::Cyan;
const ALERT: Color = Color::Yellow;
/// Where there is no number yet.
const UNKNOWN: &str = "-";

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State) {
    let area = frame.area();
    let [head, body, keys] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)]).areas(area);
    frame.render_widget(head_line(state), head);
    frame.render_widget(key_line(state), keys);
    let Some(stats) = &state.stats else {
        frame.render_widget(Paragraph::new("\n  no numbers yet").dim(), body);
        return;
    };
    let lanes = stats.shards.len() as u16 + 2;
    let refused = REASONS.max(3) + 1;
    let [totals, lanes, middle, sensors] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(lanes.min(area.height / 2).max(3)),
        Constraint::Length(if area.height >= lanes + refused + 14 { refused } else { 0 }),
        Constraint::Fill(1),
    ])
    .areas(body);
    frame.render_widget(totals_lines(state), totals);
    draw_lanes(frame, lanes, state, &stats.shards);
    let [rejected, events] = Layout::horizontal([Constraint::Length(36), Constraint::Fill(1)]).spacing(2).areas(middle);
    draw_rejected(frame, rejected, state);
    draw_events(frame, events, state);
    draw_sensors(frame, sensors, state);
    if state.gone.is_some() {
        // Old numbers look old.
        frame.buffer_mut().set_style(body, Style::new().dim());
    }
}

/// Reasons for which a frame can be refused.
const REASONS: u16 = 7;

fn head_line(state: &State) -> Line<'static> {
    let mut line = vec![" corelane ".bold().fg(ACCENT), state.address.clone().into()];
    if let Some(stats) = &state.stats {
        let up = duration(Duration::try_from_secs_f64(stats.uptime_seconds).unwrap_or_default());
        line.push(format!("  {}  up {up}  ", harmless(&stats.build.version)).dim());
    } else {
        line.push("  ".into());
    }
    line.push(match &state.gone {
        Some((since, why)) => {
            let time = since.strftime("%H:%M:%S");
            let gone = Zoned::now().duration_since(since).unsigned_abs();
            format!("no answer since {time} ({}): {}", duration(gone), harmless(why)).fg(ALERT).bold()
        }
        None if state.is_paused => "paused".fg(ALERT),
        None if state.stats.is_none() => "asking".dim(),
        None => "live".fg(ACCENT),
    });
    Line::from(line)
}

fn key_line(state: &State) -> Line<'static> {
    if let Some(typed) = &state.typed {
        return Line::from(vec![
            " search: ".fg(ACCENT),
            harmless(typed).into(),
            "_".fg(ACCENT),
            "   Enter finds, Esc gives up".dim(),
        ]);
    }
    let other = match state.order {
        Order::Busiest => "newest",
        Order::Newest => "busiest",
    };
    let pause = if state.is_paused { "resume" } else { "pause" };
    let keys = [("q", "quit"), ("p", pause), ("s", other), ("/", "search"), ("↑↓", "cores")];
    Line::from_iter(keys.into_iter().flat_map(|(key, does)| [format!(" {key} ").bold(), format!("{does} ").dim()]))
}

/// A number that may not be known yet.
fn or_unknown(number: Option<f64>, text: impl Fn(f64) -> String) -> String {
    number.map_or_else(|| UNKNOWN.to_owned(), text)
}

fn totals_lines(state: &State) -> Text<'static> {
    let Some(stats) = &state.stats else { return Text::default() };
    let (numbers, rates) = (&stats.totals.numbers, state.rates.as_ref());
    let of = |number: fn(&Rates) -> f64| rates.map(|rates| number(&rates.totals));
    let rejected = of(|rates| rates.rejected);
    let memory = or_unknown(stats.totals.process_resident_memory_bytes, bytes);
    let fields = [
        ("frames/s", or_unknown(of(|rates| rates.frames), rate), Style::new().fg(ACCENT).bold()),
        ("Mbit/s", or_unknown(of(|rates| rates.megabits), short), Style::new().bold()),
        ("points/s", or_unknown(of(|rates| rates.points), short), Style::new().bold()),
        ("connections", whole(numbers.connections as f64), Style::new().bold()),
        ("series", whole(numbers.series as f64), Style::new().bold()),
        ("rejected/s", or_unknown(rejected, rate), alert_if(rejected > Some(0.0)).bold()),
        ("memory", memory, Style::new().bold()),
        ("CPU", or_unknown(rates.and_then(|rates| rates.process_cpu), percent), Style::new().bold()),
    ];
    let width = |label: &str| if label == "frames/s" { 11 } else { label.len().max(8) + 1 };
    let names = fields.iter().map(|(label, ..)| Span::from(format!(" {label:<0$}", width(label) - 1)).dim());
    let values =
        fields.iter().map(|(label, value, style)| Span::styled(format!(" {value:<0$}", width(label) - 1), *style));
    Text::from(vec![Line::default(), Line::from_iter(names), Line::from_iter(values)])
}

fn alert_if(is_alert: bool) -> Style {
    if is_alert { Style::new().fg(ALERT) } else { Style::new() }
}

fn panel(title: Line<'static>) -> Block<'static> {
    Block::new().borders(Borders::TOP).border_style(Style::new().dim()).title(title)
}

fn right(text: String) -> Text<'static> {
    Text::from(text).right_aligned()
}

/// A column of the lanes: its head, its width, and how soon it is left out on a narrow terminal (0 is never).
const COLUMNS: [(&str, u16, u8); 14] = [
    ("core", 4, 0),
    ("state", 9, 6),
    ("frames/s", 10, 0),
    ("Mbit/s", 6, 0),
    ("conns", 6, 0),
    ("pool", 5, 2),
    ("backlog", 8, 5),
    ("p50", 5, 4),
    ("p99", 5, 1),
    ("p99.9", 5, 3),
    ("stall", 5, 7),
    ("loss/s", 6, 9),
    ("allocs/s", 8, 8),
    ("CPU", 5, 0),
];
/// The column that the picture follows.
const FRAMES: usize = 2;
const PICTURE_WIDTH_MIN: u16 = 10;
const PICTURE_WIDTH_MAX: u16 = 60;

/// The columns that fit, and the width that is left for the picture.
fn fitting(width: u16) -> (Vec<usize>, u16) {
    let mut shown: Vec<usize> = (0..COLUMNS.len()).collect();
    loop {
        let taken: u16 = shown.iter().map(|&column| COLUMNS[column].1 + 1).sum();
        let last = shown.iter().copied().max_by_key(|&column| COLUMNS[column].2);
        match last {
            Some(column) if taken + PICTURE_WIDTH_MIN > width && COLUMNS[column].2 > 0 => {
                shown.retain(|&other| other != column);
            }
            _ => return (shown, width.saturating_sub(taken).min(PICTURE_WIDTH_MAX)),
        }
    }
}

fn draw_lanes(frame: &mut Frame<'_>, area: Rect, state: &State, shards: &[Shard]) {
    let (shown, picture) = fitting(area.width);
    // A line of the table: the columns that fit, with something besides behind `FRAMES`.
    let line = |mut cells: Vec<Text<'static>>, besides: Text<'static>| {
        let fitting = shown.iter().map(|&column| (column, std::mem::take(&mut cells[column])));
        let mut line = Vec::new();
        for (column, cell) in fitting {
            line.push(cell);
            if column == FRAMES {
                line.push(besides.clone());
            }
        }
        Row::new(line)
    };
    let row = |(index, shard): (usize, &Shard)| {
        let (numbers, rates) = (&shard.numbers, state.rates.as_ref().map(|rates| &rates.shards[index]));
        let of = |number: fn(&Rates) -> f64, text: fn(f64) -> String| right(or_unknown(rates.map(number), text));
        let bounded = |bucket: Option<f64>| right(or_unknown(bucket, bound));
        let latency = |at: usize| bounded(rates.and_then(|rates| rates.latency[at]));
        let cells = vec![
            Text::from(shard.core.to_string()).bold(),
            Text::from(harmless(&shard.state)).dim(),
            of(|rates| rates.frames, rate).bold(),
            of(|rates| rates.megabits, short),
            right(whole(numbers.connections as f64)),
            right(percent(numbers.pool_utilization_ratio)).style(alert_if(numbers.pool_utilization_ratio > 0.9)),
            right(bytes(numbers.ingest_backlog_bytes as f64)),
            latency(0),
            latency(1),
            latency(2),
            bounded(rates.and_then(|rates| rates.stall)),
            of(|rates| rates.loss, rate).style(alert_if(rates.is_some_and(|rates| rates.loss > 0.0))),
            of(|rates| rates.allocations, rate),
            of(|rates| rates.cpu, percent).style(alert_if(rates.is_some_and(|rates| rates.cpu > 0.95))),
        ];
        let history = sparkline(state.lanes[index].iter().copied(), picture.into(), Some(0.0));
        line(cells, Text::from(history).fg(ACCENT))
    };
    let room = usize::from(area.height.saturating_sub(2));
    let hidden = shards.len().saturating_sub(room);
    let first = state.first_lane.min(hidden);
    let rows = shards.iter().enumerate().skip(first).take(room).map(row);
    let of = if hidden > 0 { format!(" {}-{} of {} ", first + 1, first + room, shards.len()) } else { " ".into() };
    let head = |(at, (name, ..)): (usize, &(&'static str, u16, u8))| {
        if at < FRAMES { Text::from(*name) } else { right((*name).to_owned()) }
    };
    let heads = line(COLUMNS.iter().enumerate().map(head).collect(), Text::default()).dim();
    let widths = shown.iter().flat_map(|&column| {
        let picture = (column == FRAMES).then_some(Constraint::Length(picture));
        [Constraint::Length(COLUMNS[column].1)].into_iter().chain(picture)
    });
    let table = Table::new(rows, widths).header(heads);
    frame.render_widget(table.block(panel(vec![" Lanes".bold(), of.dim()].into())), area);
}

fn draw_rejected(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let Some(stats) = &state.stats else { return };
    let numbers = &stats.totals.numbers;
    let rows = numbers.frames_rejected.iter().map(|(reason, count)| {
        let row =
            Row::new([Text::from(format!(" {}", harmless(&reason.replace('_', " ")))), right(whole(*count as f64))]);
        if *count == 0 { row.dim() } else { row.style(alert_if(true)) }
    });
    let table = Table::new(rows, [Constraint::Fill(1), Constraint::Length(14)]);
    let all = format!(" {} ", whole(numbers.rejected() as f64));
    frame.render_widget(table.block(panel(vec![" Rejected frames".bold(), all.dim()].into())), area);
}

fn draw_events(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let count: u64 = state.stats.iter().flat_map(|stats| stats.totals.numbers.security_events.values()).sum();
    let title = vec![" Security events".bold(), format!(" {} ", whole(count as f64)).dim()];
    let lines = state.events.iter().take(area.height.into()).map(|event| {
        let time = Timestamp::from_nanosecond(event.time_unix_nanos.into()).map_or_else(
            |_| UNKNOWN.to_owned(),
            |time| time.to_zoned(TimeZone::system()).strftime("%H:%M:%S").to_string(),
        );
        Line::from(vec![
            format!(" {time}  ").dim(),
            format!("{:<16}", harmless(&event.kind.replace('_', " "))).fg(ALERT),
            format!("{:<22}", harmless(&event.peer)).into(),
            harmless(&event.detail).dim(),
        ])
    });
    let text = if count == 0 { Text::from(" none since the start").dim() } else { Text::from_iter(lines) };
    frame.render_widget(Paragraph::new(text).block(panel(title.into())), area);
}

fn draw_sensors(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let order = match state.order {
        Order::Busiest => " busiest ",
        Order::Newest => " newest ",
    };
    let mut title = vec![" Sensors".bold(), order.dim()];
    if !state.search.is_empty() {
        title.push(format!("with “{}” ", harmless(&state.search)).fg(ACCENT));
    }
    if state.lacks_sensors {
        title.push("no answer, asking again ".fg(ALERT));
    }
    // Names need room more than these do.
    let (trail_width, count_width) = if area.width < 100 { (10, 0) } else { (TRAIL_VALUES as u16, 13) };
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let row = |sensor: &Sensor| {
        let trail = state.trail(sensor);
        let per_second = trail.and_then(|trail| trail.per_second);
        let values =
            trail.map(|trail| sparkline(trail.values.iter().copied(), trail_width.into(), None)).unwrap_or_default();
        // To the second, or it would flicker.
        let age = now.saturating_sub(Duration::from_nanos(sensor.last_timestamp));
        Row::new([
            Text::from(format!(" {}", harmless(&sensor.id))),
            Text::from(harmless(&sensor.sensor)).dim(),
            right(measured(sensor.last)).bold(),
            Text::from(values).fg(ACCENT),
            right(or_unknown(per_second, rate)),
            right(whole(sensor.count as f64)).dim(),
            right(if age.as_secs() == 0 { "now".to_owned() } else { duration(age) }).dim(),
        ])
    };
    let heads = [
        Text::from(" source"),
        "sensor".into(),
        right("last".into()),
        "".into(),
        right("values/s".into()),
        right("count".into()),
        right("age".into()),
    ];
    let widths = [
        Constraint::Fill(2),
        Constraint::Fill(3),
        Constraint::Length(12),
        Constraint::Length(trail_width),
        Constraint::Length(8),
        Constraint::Length(count_width),
        Constraint::Length(11),
    ];
    let table = Table::new(state.sensors.iter().take(area.height.into()).map(row), widths);
    frame.render_widget(table.header(Row::new(heads).dim()).block(panel(title.into())), area);
    if state.sensors.is_empty() && area.height > 2 {
        let none = if state.search.is_empty() { " no sensor has reported yet" } else { " none has that in its name" };
        frame.render_widget(Paragraph::new(none).dim(), Rect { y: area.y + 2, height: 1, ..area });
    }
}
