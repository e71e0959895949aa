use super::*;
use crate::send::feed::tests::{events_of, with_feed};

fn find(options: &CsvOptions, text: &[u8]) -> Result<Layout, RowError> {
    Layout::find(options, "a", text, true)
}

/// The events of a CSV text, the empty cells skipped, and the row that ended it.
fn read_with(options: &CsvOptions, text: &[u8]) -> (Vec<String>, u64, Option<RowError>) {
    let layout = find(options, text).unwrap();
    let (result, batch) = with_feed(text, |feed| layout.read_rows(feed));
    (events_of(&batch.frames), batch.empty_cells, result.err())
}

fn read(text: &str) -> Vec<String> {
    let (events, _, error) = read_with(&CsvOptions::default(), text.as_bytes());
    assert_eq!(error, None, "{text:?}");
    events
}

/// The first row that cannot be read, as `line: text`; reading the events before it must work.
fn row_error(text: &[u8]) -> String {
    let (_, _, error) = read_with(&CsvOptions::default(), text);
    let RowError { line, text } = error.unwrap();
    format!("{line}: {text}")
}

fn header_error(options: &CsvOptions, text: &str) -> String {
    let RowError { line, text } = find(options, text.as_bytes()).unwrap_err();
    format!("{line}: {text}")
}

#[test]
fn a_row_is_an_event_and_a_column_of_numbers_a_sensor() {
    assert_eq!(
        read("timestamp,temperature,load\n1970-01-01 00:00:01,21.5,3\n1970-01-01 00:00:02,-1e3,+4\n"),
        ["a@1000000000 temperature=21.5 load=3", "a@2000000000 temperature=-1000 load=4"]
    );
}

#[test]
fn the_same_rows_in_every_dress_are_the_same_events() {
    let expected = read("time,x,y\n1,2,3\n4,5,6\n");
    for text in [
        "time,x,y\r\n1,2,3\r\n4,5,6\r\n",
        "\u{feff}time,x,y\n1,2,3\n4,5,6",
        "\u{feff}\"time\",\"x\",\"y\"\r\n\"1\",\"2\",\"3\"\r\n4,5,6",
        "time;x;y\n1;2;3\n4;5;6\n",
        "time\tx\ty\n1\t2\t3\n4\t5\t6\n",
        "time|x|y\n1|2|3\n4|5|6\n",
        " time , x , y \n 1 , 2 , 3 \n\n\n 4 , 5 , 6 \n   \n",
        "y,time,x,note\n3,1,2,\"a, b\"\n6,4,5,\"two\nlines\"\n",
    ] {
        let events = read(text);
        let sorted = |event: &String| {
            let mut parts: Vec<_> = event.split(' ').map(str::to_owned).collect();
            parts.sort();
            parts
        };
        assert!(events.iter().map(sorted).eq(expected.iter().map(sorted)), "{text:?}: {events:?}");
    }
}

#[test]
fn the_time_column_is_found_by_name_or_by_its_cells() {
    for header in ["timestamp,x", "Time,x", "TS,x", "@timestamp,x"] {
        assert_eq!(read(&format!("{header}\n1,2\n")), ["a@1000000000 x=2"], "{header}");
    }
    assert_eq!(read("x,taken at\n2,1970-01-01 00:00:01\n"), ["a@1000000000 x=2"]);
    // A date alone in `time` is no date, but `when` is.
    assert_eq!(read("time,when,x\nnoon,1970-01-01T00:00:01Z,2\n"), ["a@1000000000 x=2"]);
    let options = CsvOptions { time_column: Some("x".into()), ..CsvOptions::default() };
    assert_eq!(read_with(&options, b"time,x\n1,2\n").0, ["a@2000000000 time=1"]);
}

#[test]
fn an_id_column_names_the_source_of_each_row() {
    let options = CsvOptions { id_column: Some("device".into()), ..CsvOptions::default() };
    let (events, _, error) = read_with(&options, b"time,device,x\n1,pump 7,2\n1,17,3\n1,,4\n");
    assert_eq!(events, ["pump 7@1000000000 x=2", "17@1000000000 x=3"]);
    assert_eq!(error.unwrap(), RowError { line: 4, text: "the id in column \"device\" is empty".into() });
}

#[test]
fn empty_cells_are_skipped_and_counted() {
    let text = b"time,x,y,z\n1,2,,\n2,NaN,inf,-Infinity\n3,,,\n";
    let (events, empty_cells, error) = read_with(&CsvOptions::default(), text);
    assert_eq!(events, ["a@1000000000 x=2", "a@2000000000", "a@3000000000"]);
    assert_eq!((empty_cells, error), (8, None));
}

#[test]
fn columns_of_text_are_not_sent_and_named() {
    let layout = find(&CsvOptions::default(), b"time,state,x,place\n1,on,2,here\n").unwrap();
    assert_eq!(layout.text_columns().collect::<Vec<_>>(), ["state", "place"]);
    assert_eq!(read("time,state,x\n1,on,2\n2,off,3\n"), ["a@1000000000 x=2", "a@2000000000 x=3"]);
}

#[test]
fn a_column_that_is_empty_at_first_is_decided_by_its_first_cell() {
    let rows = |cell: &str| format!("time,x,late\n{}{cell}", "1,2,\n".repeat(3));
    let lines = "time,x,late\n1,2,\n";
    for (cell, expected) in [("2,3,4\n", "a@2000000000 x=3 late=4"), ("2,3,on\n", "a@2000000000 x=3")] {
        let layout = Layout::find(&CsvOptions::default(), "a", lines.as_bytes(), false).unwrap();
        let (result, batch) = with_feed(rows(cell).as_bytes(), |feed| layout.read_rows(feed));
        assert_eq!(result, Ok(()));
        assert_eq!(events_of(&batch.frames)[3], expected);
    }
}

#[test]
fn text_in_a_column_of_numbers_names_line_column_and_text() {
    let error = row_error(b"time,x\n1,2\n\n2,3\n3,n/a\n");
    assert!(error.starts_with("5: column \"x\": \"n/a\" is not a number"), "{error}");
    assert!(row_error(b"time,x\n1,2\n2,1e999\n").starts_with("3: column \"x\": \"1e999\""));
    assert!(row_error(b"time,x\n1,2\n2,0x1f\n").starts_with("3: column \"x\": \"0x1f\""));
}

#[test]
fn the_rows_before_a_bad_one_are_sent() {
    let (events, _, error) = read_with(&CsvOptions::default(), b"time,x\n1,2\n2,3\nnever,4\n5,6\n");
    assert_eq!(events.len(), 2);
    assert_eq!(error.unwrap().line, 4);
}

#[test]
fn lines_are_counted_whatever_ends_them() {
    for text in ["time,x\n1,2\n2,bad\n", "time,x\r\n1,2\r\n2,bad\r\n", "time,x\r\n1,2\r\n2,bad"] {
        assert!(row_error(text.as_bytes()).starts_with("3: "), "{text:?}");
    }
    assert!(row_error(b"time,x,note\r\n\r\n1,2,\"a\r\nb\"\r\n\r\n2,bad,c\r\n").starts_with("6: "));
    assert!(row_error(b"time,x,note\n1,2,b\n2,bad,\"c\nd\"\n3,4,e\n").starts_with("3: "));
}

#[test]
fn odd_bytes_are_errors_with_a_line() {
    assert!(row_error(b"time,x\n1,2\n2\n").starts_with("3: the row has 1 cells, the header 2"));
    assert!(row_error(b"time,x\n1,2\n2,3,4\n").starts_with("3: the row has 3 cells, the header 2"));
    assert!(row_error(b"time,x\n1,2\n2,\xff\n").starts_with("3: column \"x\" is not UTF-8"));
    assert!(row_error(b"time,x\n1,2\n,3\n").starts_with("3: the time in column \"time\" is empty"));
    assert!(row_error(b"time,x\n1,2\n-1,3\n").contains("before 1970"));
    assert!(row_error(b"time,x\n1,2\n2,\"3\n4,5\n").starts_with("3: column \"x\""));
    assert!(row_error(b"time,x\n1,2\n\0,3\n").starts_with("3: column \"time\""));
}

#[test]
fn a_bad_header_is_refused_with_a_remedy() {
    let default = CsvOptions::default();
    let named = |name: &str| CsvOptions { time_column: Some(name.into()), ..CsvOptions::default() };
    assert!(header_error(&default, "").contains("empty"));
    assert!(header_error(&default, "a,b\n1,2\n").contains("--time-column"));
    assert!(header_error(&named("when"), "time,x\n1,2\n").contains("no column is named \"when\""));
    assert!(header_error(&default, "2013-12-02 21:15:00,73.9\n2013-12-02 21:20:00,74.9\n").contains("header"));
    assert!(header_error(&default, "time,x,x\n1,2,3\n").contains("two columns are named \"x\""));
    assert!(header_error(&default, "time,\n1,2\n").contains("empty: rename it"));
    assert!(header_error(&default, &format!("time,{}\n1,2\n", "x".repeat(257))).contains("256"));
    assert!(header_error(&default, "time;x\n1;21,5\n").contains("no column holds numbers"));
    assert!(header_error(&named("x"), "time,x\n1,\n2,soon\n").starts_with("3: column \"x\": \"soon\""));
    let twice = CsvOptions { id_column: Some("time".into()), ..CsvOptions::default() };
    assert!(header_error(&twice, "time,x\n1,2\n").contains("both time and id"));
    assert!(find(&default, b"time,\xff\n1,2\n").unwrap_err().text.contains("UTF-8"));
}

#[test]
fn a_column_that_is_not_wanted_may_hold_anything() {
    let options = CsvOptions { ignored_columns: vec!["mixed".into(), String::new()], ..CsvOptions::default() };
    let (events, _, error) = read_with(&options, b"time,,mixed,x\n1,0,7,2\n2,1,a7,3\n");
    assert_eq!((events.len(), error), (2, None));
    assert_eq!(find(&options, b"time,,mixed,x\n1,0,7,2\n").unwrap().text_columns().count(), 0);
}

#[test]
fn a_stated_delimiter_is_taken() {
    let options = CsvOptions { delimiter: Some(b':'), ..CsvOptions::default() };
    assert_eq!(read_with(&options, b"time:x\n1:2\n").0, ["a@1000000000 x=2"]);
}

#[test]
fn a_header_without_rows_is_no_event_and_no_error() {
    assert_eq!(read("time,x\n"), [""; 0]);
    assert_eq!(read("time,x"), [""; 0]);
}

#[test]
fn every_row_of_a_real_file_is_an_event() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/nab/machine_temperature_system_failure.csv");
    let Ok(text) = std::fs::read(path) else {
        eprintln!("skipped: {path} is not there");
        return;
    };
    let (events, empty_cells, error) = read_with(&CsvOptions::default(), &text);
    assert_eq!((events.len(), empty_cells, error), (22_695, 0, None));
    assert_eq!(events[0], "a@1386018900000000000 value=73.96732207");
}

#[test]
fn every_short_input_is_read_or_refused() {
    const ALPHABET: &[u8] = b",\n\"1x\r\xff ";
    for index in 0..ALPHABET.len().pow(4) {
        let digit = |place: u32| ALPHABET[index / ALPHABET.len().pow(place) % ALPHABET.len()];
        let tail: Vec<u8> = (0..4).map(digit).collect();
        for head in [&b""[..], b"time,x\n", b"time,x\n1,2\n"] {
            let text = [head, &tail].concat();
            if let Ok(layout) = find(&CsvOptions::default(), &text) {
                let lines = text.iter().filter(|&&byte| byte == b'\n').count() as u64 + 1;
                let (result, _) = with_feed(&text, |feed| layout.read_rows(feed));
                assert!(result.is_ok() || result.is_err_and(|error| (1..=lines).contains(&error.line)), "{text:?}");
            }
        }
    }
}
