//! The numbers of a run by name, handed from the benchmarks to the table in a directory of JSON files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Numbers of one benchmark.
#[derive(Clone, Debug, Default)]
pub struct Results(BTreeMap<String, f64>);

impl Results {
    /// Notes a number.
    pub fn set(&mut self, name: &str, number: f64) {
        self.0.insert(name.to_owned(), number);
    }

    /// A number that was noted.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// All of them by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, number)| (name.as_str(), *number))
    }

    /// Writes them where the table looks, if that was asked for.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn save(&self, benchmark: &str) {
        if let Some(directory) = env::var_os(DIRECTORY_VARIABLE).map(PathBuf::from) {
            let text = serde_json::to_string_pretty(&self.0).expect("numbers are JSON");
            fs::create_dir_all(&directory)
                .and_then(|()| fs::write(directory.join(format!("{benchmark}.json")), text))
                .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        }
    }

    /// Those that a benchmark left in a directory.
    ///
    /// # Errors
    /// When there are none.
    pub fn load(directory: &Path, benchmark: &str) -> io::Result<Self> {
        let text = fs::read_to_string(directory.join(format!("{benchmark}.json")))?;
        serde_json::from_str(&text).map(Self).map_err(io::Error::other)
    }
}

/// The middle one, or the mean of the two in the middle.
///
/// # Panics
/// When there is none.
pub fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() % 2 {
        1 => numbers[middle],
        _ => (numbers[middle - 1] + numbers[middle]) / 2.0,
    }
}

/// Whether this is a trial run, `cargo bench -- --test`: everything once, briefly, and the numbers mean nothing.
pub fn is_test() -> bool {
    env::args().any(|argument| argument == "--test")
}

/// Names the directory for results.
pub const DIRECTORY_VARIABLE: &str = "CORELANE_BENCH_RESULTS";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
