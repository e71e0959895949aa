//! CSV: which column is what, found from the first rows, and one event a row.
//!
//! The time column, the id column if one was named, and every column of numbers, whose header names the sensor. Cells
//! are read as UTF-8 only where they are used. Line numbers are exact, also behind blank lines and quoted line ends.

use std::io::Read;

use csv::{ByteRecord, Reader, ReaderBuilder};

use super::{
    feed::{Feed, RowError, check_name},
    time::{TimeFormat, TimeReader, is_datetime},
};

/// What the user said about the columns.
#[derive(Clone, Debug, Default)]
pub(super) struct CsvOptions {
    pub(super) id_column: Option<String>,
    pub(super) time_column: Option<String>,
    pub(super) ignored_columns: Vec<String>,
    pub(super) delimiter: Option<u8>,
    pub(super) time_format: TimeFormat,
}

/// How the rows of one input are read.
#[derive(Debug)]
pub(super) struct Layout {
    delimiter: u8,
    columns: Vec<Column>,
    time: usize,
    time_reader: TimeReader,
    id: Id,
}

#[derive(Debug)]
struct Column {
    name: String,
    role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Time,
    Id,
    Sensor,
    /// No cell of it held anything so far.
    Undecided,
    /// Text, which no point can carry.
    Text,
    /// The user does not want it.
    Unwanted,
}

/// What the events' id is.
#[derive(Debug)]
enum Id {
    Fixed(String),
    Column(usize),
}

/// What a cell of a sensor's column holds.
#[derive(Debug, PartialEq)]
enum Cell {
    /// Nothing, NaN or infinite: no event carries it.
    Empty,
    Number(f64),
    Text,
}

impl Layout {
    /// Finds the layout from the complete lines at the head of an input; `id` is that of inputs without an id column.
    ///
    /// # Errors
    /// The line it was seen on, and what the user can do about it.
    pub(super) fn find(options: &CsvOptions, id: &str, lines: &[u8], is_whole: bool) -> Result<Self, RowError> {
        let delimiter = options.delimiter.unwrap_or_else(|| find_delimiter(lines));
        let mut samples = Samples::read(lines, delimiter, is_whole)?;
        let names = std::mem::take(&mut samples.header);
        let id_index = options.id_column.as_deref().map(|name| position(&names, "--id-column", name)).transpose()?;
        let (time, time_reader) = find_time(options, &names, &samples)?;
        if is_datetime(&names[time]) || names[time].parse::<f64>().is_ok() {
            let text = "the first line holds data where a header is wanted: put a line of column names before it";
            return Err(in_header(text));
        }
        if id_index == Some(time) {
            return Err(in_header(format!("column {:?} cannot be both time and id", names[time])));
        }
        for name in &options.ignored_columns {
            position(&names, "--ignore-column", name)?;
        }
        let role = |index: usize, name: &String| match index {
            _ if index == time => Role::Time,
            _ if Some(index) == id_index => Role::Id,
            _ if options.ignored_columns.contains(name) => Role::Unwanted,
            _ => samples.role(index),
        };
        let columns: Vec<_> =
            names.into_iter().enumerate().map(|(index, name)| Column { role: role(index, &name), name }).collect();
        let id = match id_index {
            Some(index) => Id::Column(index),
            None => Id::Fixed(id.to_owned()),
        };
        let layout = Self { delimiter, columns, time, time_reader, id };
        layout.check_sensors(!samples.rows.is_empty())?;
        Ok(layout)
    }

    fn check_sensors(&self, has_rows: bool) -> Result<(), RowError> {
        let mut names = Vec::new();
        for column in self.columns.iter().filter(|column| column.role == Role::Sensor) {
            check_sensor(&column.name).map_err(in_header)?;
            if names.contains(&&column.name) {
                return Err(in_header(format!("two columns are named {:?}: rename one of them", column.name)));
            }
            names.push(&column.name);
        }
        let may_have_sensors = self.columns.iter().any(|column| matches!(column.role, Role::Sensor | Role::Undecided));
        if has_rows && !may_have_sensors {
            return Err(in_header(
                "no column holds numbers: check --delimiter; a number has a decimal point, not a comma",
            ));
        }
        Ok(())
    }

    /// Columns that hold text, which is not sent.
    pub(super) fn text_columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().filter(|column| column.role == Role::Text).map(|column| column.name.as_str())
    }

    /// Reads all rows into `feed`.
    ///
    /// # Errors
    /// The first row that cannot be read; the rows before it are in the feed.
    pub(super) fn read_rows(mut self, feed: Feed) -> Result<(), RowError> {
        let mut reader = csv_reader(self.delimiter, feed);
        let result = self.read_all(&mut reader);
        reader.into_inner().finish();
        result
    }

    fn read_all(&mut self, reader: &mut Reader<Feed>) -> Result<(), RowError> {
        let mut row = ByteRecord::new();
        let mut points = Vec::with_capacity(self.columns.len());
        let mut is_header = true;
        loop {
            match reader.read_byte_record(&mut row) {
                Ok(true) if is_header => is_header = false,
                Ok(true) => {
                    let line = line_of(&row, reader);
                    self.read_row(&row, &mut points, reader.get_mut()).map_err(|text| RowError { line, text })?;
                }
                Ok(false) => return Ok(()),
                Err(error) => return Err(RowError { line: reader.position().line(), text: error.to_string() }),
            }
        }
    }

    /// `points` is scratch: the index of the column and the value of each point.
    fn read_row(&mut self, row: &ByteRecord, points: &mut Vec<(usize, f64)>, feed: &mut Feed) -> Result<(), String> {
        if row.len() == 1 && row[0].trim_ascii().is_empty() && self.columns.len() > 1 {
            return Ok(()); // A line of blanks, as editors leave them at the end.
        }
        if row.len() != self.columns.len() {
            return Err(format!("the row has {} cells, the header {}", row.len(), self.columns.len()));
        }
        let time_text = self.cell(row, self.time)?;
        if time_text.is_empty() {
            return Err(format!("the time in column {:?} is empty", self.columns[self.time].name));
        }
        let column_error = |text| format!("column {:?}: {text}", self.columns[self.time].name);
        let timestamp = self.time_reader.read(time_text).map_err(column_error)?;
        points.clear();
        let mut empty_cells = 0;
        for index in 0..self.columns.len() {
            let role = self.columns[index].role;
            if !matches!(role, Role::Sensor | Role::Undecided) {
                continue;
            }
            let text = self.cell(row, index)?;
            match read_cell(text) {
                Cell::Empty => empty_cells += 1,
                Cell::Number(value) => {
                    if role == Role::Undecided {
                        check_sensor(&self.columns[index].name)?;
                        self.columns[index].role = Role::Sensor;
                    }
                    points.push((index, value));
                }
                Cell::Text if role == Role::Undecided => {
                    self.columns[index].role = Role::Text;
                    feed.warn(&format!("column {:?} holds no numbers and is not sent", self.columns[index].name));
                }
                Cell::Text => {
                    return Err(format!(
                        "column {:?}: {text:?} is not a number; leave the cell empty, or the column out with \
                         --ignore-column",
                        self.columns[index].name
                    ));
                }
            }
        }
        feed.skip_cells(empty_cells);
        let id = match &self.id {
            Id::Fixed(id) => id,
            Id::Column(index) => {
                let id = self.cell(row, *index)?;
                check_name(&format!("the id in column {:?}", self.columns[*index].name), id)?;
                id
            }
        };
        let points = points.iter().map(|&(index, value)| (self.columns[index].name.as_str(), value, None));
        feed.event(id, timestamp, None, points)
    }

    /// The text of a cell without blanks around it. `row` has as many cells as there are columns.
    fn cell<'r>(&self, row: &'r ByteRecord, index: usize) -> Result<&'r str, String> {
        str::from_utf8(&row[index]).map(str::trim).map_err(|_| {
            let name = &self.columns[index].name;
            format!("column {name:?} is not UTF-8 text: convert the file, as with `iconv -f latin1 -t utf-8`")
        })
    }
}

/// The header and the first rows, every cell trimmed.
struct Samples {
    header: Vec<String>,
    rows: Vec<Sample>,
}

struct Sample {
    line: u64,
    cells: Vec<String>,
}

impl Samples {
    fn read(lines: &[u8], delimiter: u8, is_whole: bool) -> Result<Self, RowError> {
        // As a feed gives them, so that lines are counted alike.
        let lines: Vec<u8> = lines.iter().copied().filter(|&byte| byte != b'\r').chain([b'\n']).collect();
        let mut reader = csv_reader(delimiter, &lines[..]);
        let mut row = ByteRecord::new();
        let mut next_row = |row: &mut ByteRecord| {
            let has_row = reader.read_byte_record(row).unwrap_or(false);
            has_row.then(|| line_of(row, &reader))
        };
        if next_row(&mut row).is_none() {
            let text = if is_whole { "no header: the input is empty" } else { "the header line is too long" };
            return Err(in_header(text));
        }
        let header = row
            .iter()
            .map(|name| str::from_utf8(name).map(|name| name.trim().to_owned()))
            .collect::<Result<_, _>>()
            .map_err(|_| in_header("the header is not UTF-8 text: convert the file, as with `iconv -f latin1`"))?;
        let mut rows = Vec::new();
        while let Some(line) = next_row(&mut row) {
            let cells = row.iter().map(|cell| String::from_utf8_lossy(cell).trim().to_owned()).collect();
            rows.push(Sample { line, cells });
        }
        if !is_whole && rows.len() > 1 {
            rows.pop(); // The cut may lie in a quoted line end.
        }
        Ok(Self { header, rows })
    }

    /// The cells of a column that hold anything.
    fn column(&self, index: usize) -> impl Iterator<Item = (u64, &str)> {
        let cells = self.rows.iter().filter_map(move |row| Some((row.line, row.cells.get(index)?.as_str())));
        cells.filter(|(_, cell)| !cell.is_empty())
    }

    fn role(&self, index: usize) -> Role {
        let mut role = Role::Undecided;
        for (_, cell) in self.column(index) {
            match read_cell(cell) {
                Cell::Number(_) => return Role::Sensor,
                Cell::Text => role = Role::Text,
                Cell::Empty => (),
            }
        }
        role
    }
}

fn csv_reader<R: Read>(delimiter: u8, bytes: R) -> Reader<R> {
    ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .buffer_capacity(BUFFER_BYTES)
        .from_reader(bytes)
}

/// The line on which the row just read begins. The reader tells where it stopped, which is behind the line end (a feed
/// has no other), and where it started, which may be some blank lines before the row. A quote that is left open has
/// swallowed the last line end; then the start is right.
fn line_of<R: Read>(row: &ByteRecord, reader: &Reader<R>) -> u64 {
    let line_ends_inside = row.as_slice().iter().filter(|&&byte| byte == b'\n').count() as u64;
    let line_by_end = (reader.position().line() - 1).saturating_sub(line_ends_inside);
    row.position().map_or(line_by_end, |start| start.line().max(line_by_end))
}

/// The delimiter by which the first rows have the most cells, all as many.
fn find_delimiter(lines: &[u8]) -> u8 {
    let cells = |delimiter: u8| {
        let records = csv_reader(delimiter, lines).into_byte_records().take(DELIMITER_ROWS);
        let mut widths = records.filter_map(Result::ok).map(|record| record.len());
        let first = widths.next().unwrap_or(0);
        let is_even = widths.all(|width| width == first);
        (is_even && first > 1, first)
    };
    // `max_by_key` takes the last of equals, and a comma is to win those.
    DELIMITERS.into_iter().rev().max_by_key(|&delimiter| cells(delimiter)).unwrap_or(b',')
}

/// The time column and how to read it: the one that was named, else the first that is called like one and can be read,
/// else the first whose cells are dates.
fn find_time(options: &CsvOptions, names: &[String], samples: &Samples) -> Result<(usize, TimeReader), RowError> {
    let reader_of = |index: usize| -> Result<(usize, TimeReader), RowError> {
        let (line, text) = samples.column(index).next().unwrap_or((2, ""));
        let in_column = |error| RowError { line, text: format!("column {:?}: {error}", names[index]) };
        let cells = samples.column(index).map(|(_, cell)| cell);
        let reader = TimeReader::new(options.time_format, cells).map_err(in_column)?;
        if !text.is_empty() {
            reader.read(text).map_err(in_column)?;
        }
        Ok((index, reader))
    };
    if let Some(name) = &options.time_column {
        return reader_of(position(names, "--time-column", name)?);
    }
    let mut first_error = None;
    for known in TIME_NAMES {
        let Some(index) = names.iter().position(|name| name.eq_ignore_ascii_case(known)) else { continue };
        match reader_of(index) {
            Ok(found) => return Ok(found),
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    let is_date_column = |&index: &usize| samples.column(index).next().is_some_and(|(_, cell)| is_datetime(cell));
    if let Some(index) = (0..names.len()).find(is_date_column) {
        return reader_of(index);
    }
    Err(first_error.unwrap_or_else(|| {
        let remedy = "name it with --time-column, and see that the first line is a header";
        in_header(format!("no time column among {names:?}: {remedy}"))
    }))
}

fn position(names: &[String], flag: &str, wanted: &str) -> Result<usize, RowError> {
    names
        .iter()
        .position(|name| name == wanted)
        .ok_or_else(|| in_header(format!("{flag}: no column is named {wanted:?}; there are {names:?}")))
}

fn check_sensor(name: &str) -> Result<(), String> {
    let what = if name.is_empty() { "the name of a column".to_owned() } else { format!("the column name {name:?}") };
    check_name(&what, name).map_err(|text| format!("{text}: rename it, or leave it out with --ignore-column"))
}

fn in_header(text: impl Into<String>) -> RowError {
    RowError { line: 1, text: text.into() }
}

fn read_cell(text: &str) -> Cell {
    if text.is_empty() {
        return Cell::Empty;
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Cell::Number(value),
        // `1e999` is a number that no double holds, which is not the same as none.
        Ok(_) if !text.bytes().any(|byte| byte.is_ascii_digit()) => Cell::Empty,
        _ => Cell::Text,
    }
}

/// Names by which a time column is known, best first, in any case.
const TIME_NAMES: [&str; 8] = ["timestamp", "time", "datetime", "date_time", "date", "ts", "@timestamp", "_time"];

/// Delimiters that are looked for; the first wins where two fit alike.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// Rows that a delimiter has to cut into as many cells.
const DELIMITER_ROWS: usize = 20;

/// Bytes read at once. What they hold is handed over before the next are read, so a pipe's rows are not held back.
const BUFFER_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests;
