use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::{Color, Modifier};
use serde_json::{Value, json};

use super::asker::Order;
use super::*;

fn numbers(factor: u64) -> Value {
    let mut buckets = vec![0; 25];
    (buckets[4], buckets[14]) = (985 * factor, 15 * factor);
    json!({
        "frames_accepted": 1_000 * factor, "frames_rejected": { "malformed": 2 * factor, "not_an_event": 0 },
        "points": 14_000 * factor, "received_bytes": 1_000_000 * factor, "connections": 21, "series": 150,
        "security_events": { "oversize": 1 }, "pool_utilization_ratio": 0.082, "ingest_backlog_bytes": 2_048,
        "ingest_latency_seconds": { "count": 0, "sum": 0.0, "p50": null, "p99": null, "buckets": buckets },
        "loop_stall_seconds": { "buckets": vec![0; 25] },
        "telemetry_samples": 500 * factor, "telemetry_samples_dropped": 0,
        "allocations": 184 * factor, "shard_cpu_seconds": 0.25 * factor as f64,
    })
}

/// An answer of a server with so many shards, each of which has counted `factor` times.
fn stats(shards: usize, uptime_seconds: f64, factor: u64) -> News {
    let with = |mut numbers: Value, more: Value| {
        numbers.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        numbers
    };
    let shard = |shard| with(numbers(factor), json!({ "shard": shard, "core": 2 * shard, "state": "accepting" }));
    let process = json!({ "process_resident_memory_bytes": 19_000_000, "process_cpu_seconds": 0.5 * factor as f64 });
    let told = json!({
        "uptime_seconds": uptime_seconds,
        "build": { "version": "1.2.3", "revision": "abc" },
        "histogram_bounds_seconds": (0..24).map(|bucket| 1e-6 * f64::from(1 << bucket)).collect::<Vec<_>>(),
        "totals": with(numbers(factor * shards as u64), process),
        "shards": (0..shards).map(shard).collect::<Vec<_>>(),
    });
    News::Stats(Box::new(serde_json::from_value(told).unwrap()))
}

fn sensors(at: Instant, told: &[(&str, &str, u64, f64)]) -> News {
    let sensor = |&(id, sensor, count, last): &(&str, &str, u64, f64)| json!({ "id": id, "sensor": sensor, "count": count, "last": last, "last_timestamp": 1, "min": 0, "max": 0, "mean": 0 });
    let told = json!({ "sensors": told.iter().map(sensor).collect::<Vec<_>>(), "truncated": false });
    News::Sensors(at, serde_json::from_value(told).unwrap())
}

fn terminal_of(state: &State, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen::draw(frame, state)).unwrap();
    terminal
}

/// The lines of a screen.
fn drawn(state: &State, width: u16, height: u16) -> Vec<String> {
    let terminal = terminal_of(state, width, height);
    let cells = terminal.backend().buffer().content().chunks(width.into());
    cells.map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()).collect()
}

fn line<'l>(lines: &'l [String], part: &str) -> &'l str {
    lines.iter().find(|line| line.contains(part)).unwrap_or_else(|| panic!("no {part:?} in\n{}", lines.join("\n")))
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// After two answers, two seconds apart.
fn two_shards() -> State {
    let mut state = State::new("127.0.0.1:9600".to_owned());
    state.take(stats(2, 10.0, 1));
    state.take(stats(2, 12.0, 3));
    state
}

#[test]
fn every_number_is_that_of_the_last_interval() {
    let mut state = two_shards();
    let at = Instant::now();
    state.take(sensors(at, &[("pump-1", "rpm", 100, 40.25)]));
    state.take(sensors(at + Duration::from_secs(4), &[("pump-1", "rpm", 300, 41.5)]));
    let event = json!({ "events": [{ "time": null, "time_unix_nanos": 1_760_000_000_123_456_789_u64, "kind": "oversize",
        "peer": "192.0.2.1:5000", "detail": "a frame header declared 70000 payload bytes" }] });
    state.take(News::Events(serde_json::from_value(event).unwrap()));
    let lines = drawn(&state, 150, 40);
    assert!(lines[0].contains("corelane 127.0.0.1:9600  1.2.3  up 12 s  live"), "{}", lines[0]);
    let totals = words(&lines[3]);
    assert_eq!(totals, ["2,000", "16", "28k", "21", "150", "4.0", "18.1MiB", "50%"]);
    let lane = words(line(&lines, "accepting"));
    assert_eq!(lane[..3], ["0", "accepting", "1,000"]);
    let numbers = ["8", "21", "8.2%", "2KiB", "16us", "16ms", "16ms", "-", "0", "184", "25%"];
    assert_eq!(lane[lane.len() - numbers.len()..], numbers);
    assert_eq!(words(line(&lines, "malformed"))[..2], ["malformed", "12"], "of both shards, since the start");
    let event = line(&lines, "oversize");
    assert!(
        event.contains("192.0.2.1:5000") && event.contains("a frame header declared 70000 payload bytes"),
        "{event}"
    );
    let sensor = words(line(&lines, "pump-1"));
    assert_eq!(sensor[..3], ["pump-1", "rpm", "41.50"]);
    assert_eq!(sensor[3..6], ["▁█", "50", "300"]);
}

#[test]
fn the_first_answer_has_no_rates_and_a_restart_none_below_zero() {
    let mut state = State::new("host:9600".to_owned());
    assert!(line(&drawn(&state, 80, 24), "host:9600").ends_with("asking"));
    state.take(stats(2, 10.0, 7));
    assert_eq!(words(&drawn(&state, 120, 30)[3])[..3], ["-", "-", "-"]);
    state.take(stats(2, 11.0, 8));
    assert_eq!(words(&drawn(&state, 120, 30)[3])[0], "2,000");
    // Another process, by its uptime or, after a takeover, by its counters.
    state.take(stats(2, 3.0, 9));
    assert_eq!(words(&drawn(&state, 120, 30)[3])[0], "-");
    state.take(stats(2, 4.0, 1));
    assert_eq!(words(&drawn(&state, 120, 30)[3])[0], "-");
    state.take(stats(1, 5.0, 2));
    assert_eq!(words(&drawn(&state, 120, 30)[3])[0], "-", "with other shards");
    state.take(stats(1, 6.0, 3));
    assert_eq!(words(&drawn(&state, 120, 30)[3])[0], "1,000");
}

#[test]
fn a_server_that_is_gone_is_told_and_its_numbers_fade() {
    let mut state = two_shards();
    state.take(News::Gone("connection \u{1b}[31mrefused".to_owned()));
    let terminal = terminal_of(&state, 120, 30);
    let cells = terminal.backend().buffer();
    let lines = drawn(&state, 120, 30);
    assert!(lines[0].contains("no answer since ") && lines[0].contains("connection ?[31mrefused"), "{}", lines[0]);
    assert_eq!(words(&lines[3])[0], "2,000", "what was last known stays to be read");
    assert!(cells[(1, 3)].modifier.contains(Modifier::DIM));
    state.take(stats(2, 13.0, 4));
    assert!(drawn(&state, 120, 30)[0].ends_with("live"));
}

#[test]
fn small_terminals_lose_what_matters_less() {
    let mut state = State::new("host:9600".to_owned());
    for uptime in 1_u32..4 {
        state.take(stats(64, f64::from(uptime), uptime.into()));
    }
    for (width, height) in [(200, 60), (80, 24), (40, 10), (20, 5), (1, 1)] {
        let lines = drawn(&state, width, height);
        assert_eq!(lines.len(), usize::from(height));
        if width >= 80 {
            assert!(lines.last().unwrap().contains("quit"));
            let heads = words(line(&lines, "Mbit/s  conns"));
            assert_eq!(heads.contains(&"allocs/s"), width > 80, "{heads:?}");
            assert_eq!(
                (heads[0], heads[1 + usize::from(width > 80)], heads[heads.len() - 1]),
                ("core", "frames/s", "CPU")
            );
        }
    }
    let first_core = |state: &State| words(line(&drawn(state, 120, 30), "accepting"))[0].to_owned();
    assert!(drawn(&state, 120, 30).iter().any(|line| line.contains("Lanes 1-13 of 64")));
    assert_eq!(first_core(&state), "0");
    for _ in 0..3 {
        pressed(&mut state, KeyCode::Down.into());
    }
    assert_eq!(first_core(&state), "6");
    (0..100).for_each(|_| drop(pressed(&mut state, KeyCode::Down.into())));
    assert_eq!(first_core(&state), "102", "the last page");
}

#[test]
fn keys_do_what_the_last_line_says() {
    let mut state = two_shards();
    let mut press = |key: KeyCode| pressed(&mut state, key.into());
    assert_eq!(press(KeyCode::Char('p')), Press::Wish(Wish::Pause(true)));
    assert_eq!(press(KeyCode::Char('p')), Press::Wish(Wish::Pause(false)));
    assert_eq!(press(KeyCode::Char('s')), Press::Wish(Wish::Sensors(Order::Newest, String::new())));
    assert_eq!(press(KeyCode::Char('/')), Press::Nothing);
    // While a search is typed, letters are letters.
    for letter in "qps ".chars() {
        assert_eq!(press(KeyCode::Char(letter)), Press::Nothing);
    }
    press(KeyCode::Backspace);
    press(KeyCode::Backspace);
    assert_eq!(press(KeyCode::Enter), Press::Wish(Wish::Sensors(Order::Newest, "qp".to_owned())));
    assert_eq!(press(KeyCode::Esc), Press::Wish(Wish::Sensors(Order::Newest, String::new())));
    assert_eq!(press(KeyCode::Esc), Press::Nothing);
    assert_eq!(press(KeyCode::Char('q')), Press::Quit);
    assert_eq!(pressed(&mut state, KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Press::Quit);
}

#[test]
fn a_search_shows_while_it_is_typed_and_after() {
    let mut state = two_shards();
    for key in [KeyCode::Char('/'), KeyCode::Char('r'), KeyCode::Char('p')] {
        pressed(&mut state, key.into());
    }
    assert!(drawn(&state, 120, 30)[29].starts_with(" search: rp_"));
    pressed(&mut state, KeyCode::Enter.into());
    state.take(sensors(Instant::now(), &[]));
    let lines = drawn(&state, 120, 30);
    assert!(line(&lines, "Sensors").contains("busiest with “rp”"));
    line(&lines, "none has that in its name");
    state.take(News::NoSensors);
    let lines = drawn(&state, 120, 30);
    assert!(line(&lines, "Sensors").contains("no answer, asking again") && lines[0].ends_with("live"));
}

#[test]
fn what_needs_a_look_has_a_colour() {
    let state = two_shards();
    let terminal = terminal_of(&state, 150, 40);
    let buffer = terminal.backend().buffer();
    let lines = drawn(&state, 150, 40);
    let row = lines.iter().position(|line| line.contains("malformed")).unwrap() as u16;
    assert_eq!(buffer[(1, row)].fg, Color::Yellow);
    assert_eq!(buffer[(1, row + 1)].fg, Color::Reset, "nothing was refused for that");
}
