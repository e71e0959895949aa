use corelane_rollup::Rollup;
use corelane_telemetry::{PageFiller, page_lane};

use super::*;

fn series(id: &str, sensor: &str, count: u64, last_timestamp: u64) -> Series {
    let aggregate = Aggregate { count, last: 1.5, last_timestamp, min: 1.0, max: 2.0, sum: 1.5 * count as f64 };
    Series { id: id.into(), sensor: sensor.into(), aggregate }
}

fn parse(query: &[(&str, &str)]) -> Result<SensorsQuery, String> {
    SensorsQuery::parse(&query.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect::<Vec<_>>())
}

fn told(query: &[(&str, &str)], series: &[Series]) -> (Vec<String>, bool) {
    let answer = parse(query).unwrap().select(series);
    (answer.sensors.iter().map(|sensor| format!("{}/{}", sensor.id, sensor.sensor)).collect(), answer.truncated)
}

#[test]
fn series_are_filtered_sorted_and_cut_off() {
    let all = [
        series("b", "rpm", 5, 30),
        series("a", "temp_in", 5, 10),
        series("a", "rpm", 7, 20),
        series("c", "temp", 1, 40),
    ];
    let told = |query: &[(&str, &str)]| told(query, &all);
    assert_eq!(told(&[]), (vec!["a/rpm".into(), "a/temp_in".into(), "b/rpm".into(), "c/temp".into()], false));
    assert_eq!(told(&[("sort", "last_timestamp"), ("limit", "2")]), (vec!["c/temp".into(), "b/rpm".into()], true));
    assert_eq!(told(&[("sort", "id"), ("limit", "4")]).0, ["a/rpm", "a/temp_in", "b/rpm", "c/temp"]);
    assert_eq!(told(&[("prefix", "temp")]).0, ["a/temp_in", "c/temp"]);
    assert_eq!(told(&[("id", "a"), ("prefix", "r")]), (vec!["a/rpm".into()], false));
    assert_eq!(told(&[("search", "B")]).0, ["b/rpm"], "of the id");
    assert_eq!(told(&[("search", "Emp")]).0, ["a/temp_in", "c/temp"], "of the sensor");
    assert_eq!(told(&[("search", "rpmx")]).0, [""; 0]);
    assert_eq!(told(&[("id", "")]), (vec![], false), "an empty id is the id of no series");
}

#[test]
fn a_bad_query_is_told_what_is_allowed() {
    for (query, said) in [
        (&[("limit", "0")][..], "limit=\"0\" is not allowed: it has to be a whole number from 1 to 10000"),
        (&[("limit", "10001")], "limit=\"10001\" is not allowed: it has to be a whole number from 1 to 10000"),
        (&[("limit", "-1")], "limit=\"-1\" is not allowed: it has to be a whole number from 1 to 10000"),
        (&[("limit", "")], "limit=\"\" is not allowed: it has to be a whole number from 1 to 10000"),
        (&[("sort", "mean")], "sort=\"mean\" is not allowed: it has to be count, last_timestamp or id"),
        (&[("ids", "a")], "there is no parameter \"ids\"; the parameters are id, prefix, search, sort and limit"),
        (&[("id", "a"), ("id", "b")], "the parameter \"id\" is given twice"),
    ] {
        assert_eq!(parse(query).unwrap_err(), said);
    }
    assert_eq!(parse(&[("limit", "10000")]).unwrap().limit, 10_000);
}

struct FakeShard {
    rollup: Rollup,
    filler: PageFiller<SeriesPage>,
}

fn fake_shard(series_max: usize) -> (SeriesPort, FakeShard) {
    let (pages, filler) = page_lane();
    (SeriesPort { pages, wake: Box::new(|| ()) }, FakeShard { rollup: Rollup::new(series_max), filler })
}

/// Looks at every shard in turn until the round has all, with one page filled a look.
fn round_over(ports: &mut [SeriesPort], shards: &mut [FakeShard], number: u64) -> Merged {
    let mut merged = Merged::new();
    let mut rounds: Vec<_> = ports.iter().map(|_| ShardRound::new(number)).collect();
    for _ in 0..10_000 {
        let done: Vec<_> =
            ports.iter_mut().zip(&mut rounds).map(|(port, round)| round.advance(port, &mut merged)).collect();
        if done.iter().all(|done| *done) {
            return merged;
        }
        for shard in shards.iter_mut() {
            shard.filler.fill_next(|page| shard.rollup.fill(page));
        }
    }
    panic!("the round never ended");
}

#[test]
fn a_round_finds_every_series_of_tables_of_any_size() {
    for count in [0, 1, 511, 512, 513, 5 * 512, 7 * 512 + 3] {
        let (port, mut shard) = fake_shard(8 * 512);
        for series in 0..count {
            shard.rollup.record(0, &format!("id{series}"), 7, [("rpm", series as f64)].into_iter());
        }
        let (mut ports, mut shards) = ([port], [shard]);
        for number in 1..3 {
            let merged = round_over(&mut ports, &mut shards, number);
            assert_eq!(merged.len(), count, "round {number}");
            assert!(merged.values().all(|aggregate| aggregate.count == 1), "no series is told twice");
        }
        assert!(ports[0].pages.take().is_none(), "no page is left behind");
    }
}

#[test]
fn series_of_two_shards_are_added_up() {
    let (ports, mut shards): (Vec<_>, Vec<_>) = [fake_shard(16), fake_shard(16)].into_iter().unzip();
    let mut ports = ports;
    shards[0].rollup.record(0, "pump", 10, [("rpm", 4.0), ("temp", 1.0)].into_iter());
    shards[0].rollup.record(0, "pump", 30, [("rpm", 2.0)].into_iter());
    shards[1].rollup.record(0, "pump", 20, [("rpm", 9.0)].into_iter());
    let merged = round_over(&mut ports, &mut shards, 1);
    let rpm = merged[&("pump".into(), "rpm".into())];
    assert_eq!(rpm, Aggregate { count: 3, last: 2.0, last_timestamp: 30, min: 2.0, max: 9.0, sum: 15.0 });
    assert_eq!(merged.len(), 2);
}

#[test]
fn pages_of_a_round_that_gave_up_are_not_taken_for_the_next() {
    let (port, mut shard) = fake_shard(16);
    shard.rollup.record(0, "pump", 10, [("rpm", 4.0)].into_iter());
    let (mut ports, mut shards) = ([port], [shard]);
    let mut given_up = ShardRound::new(1);
    assert!(!given_up.advance(&mut ports[0], &mut Merged::new()));
    drop(given_up);
    // Its pages fill the lane; the next round has to wait for them, and take only its own.
    let merged = round_over(&mut ports, &mut shards, 2);
    assert_eq!(merged[&("pump".into(), "rpm".into())].count, 1);
}

fn asked(query: &[(&str, &str)]) -> (Asked, oneshot::Receiver<Result<Rendered, NoSeries>>) {
    let (answer, answered) = oneshot::channel();
    (Asked { query: parse(query).unwrap(), answer }, answered)
}

#[test]
fn requests_of_a_round_that_ask_for_the_same_share_one_answer_and_nothing_is_kept() {
    let round = Ok((0..5_000).map(|number| series(&number.to_string(), "rpm", number, 1)).collect());
    let budget = Budget::new(1);
    let (large, small) = ([("limit", "5000")], [("limit", "1")]);
    let (waiting, mut answers): (Vec<_>, Vec<_>) =
        [asked(&large), asked(&small), asked(&large), asked(&large)].into_iter().unzip();
    answer_all(waiting, &round, &budget);
    let used = budget.used();
    let mut answers = answers.drain(..).map(|mut answer| answer.try_recv().unwrap().unwrap());
    let (first, other) = (answers.next().unwrap(), answers.next().unwrap());
    let alone = {
        let budget = Budget::new(1);
        let _answers = [&large, &small].map(|query| render(&parse(query).unwrap(), &round, &budget).unwrap());
        budget.used()
    };
    assert_eq!(used, alone, "three readers cost as much as one");
    drop((first, other, answers));
    assert_eq!(budget.used(), 0);
}

#[test]
fn nobody_pays_for_a_request_that_was_given_up() {
    let (given_up, answer) = asked(&[]);
    drop(answer);
    let round = Ok(vec![series("a", "rpm", 1, 1)]);
    answer_all(vec![given_up], &round, &Budget::new(1));
    let (waiting, mut answer) = asked(&[]);
    answer_all(vec![waiting], &Err(3), &Budget::new(1));
    assert_eq!(answer.try_recv().unwrap().unwrap_err(), NoSeries::Silent(3));
}

#[test]
fn an_answer_beyond_the_budget_is_refused_and_gives_back_what_it_had() {
    // Every byte of these names takes six in JSON.
    let name = "\u{1}".repeat(TEXT_BYTES_MAX);
    let round = Ok((0..LIMIT_MAX as u64).map(|number| series(&name, &name, number, 1)).collect());
    let (budget, query) = (Budget::new(1), parse(&[("limit", "10000")]).unwrap());
    let largest = render(&query, &round, &budget).unwrap();
    let used = budget.used();
    assert_eq!(render(&query, &round, &budget).unwrap_err(), NoSeries::NoMemory);
    assert_eq!(budget.used(), used);
    assert!(render(&parse(&[]).unwrap(), &round, &budget).is_ok(), "a small one still fits");
    drop(largest);
    assert!(render(&query, &round, &budget).is_ok());
}
