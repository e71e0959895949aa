//! What the kernel tells in files: `/proc` and `/sys`, below a root that tests choose.

use std::fs;
use std::path::PathBuf;

use crate::config::core_list;

/// The files of one host.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
}

impl Files {
    pub(super) fn of_this_host() -> Self {
        Self { root: "/".into() }
    }

    /// A file without the blanks around it; `None` when it is not there, or not readable.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    /// A file that holds one number.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// A file that holds a list of cores. None of them for an empty file, or one that the kernel fills with `(null)`.
    pub(super) fn cores(&self, path: &str) -> Option<Vec<usize>> {
        Some(core_list(&self.text(path)?).unwrap_or_default())
    }

    /// The names in a directory that are numbers, in order.
    pub(super) fn numbered(&self, path: &str) -> Option<Vec<u32>> {
        let entries = fs::read_dir(self.path(path)).ok()?;
        let mut numbers: Vec<u32> =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        numbers.sort_unstable();
        Some(numbers)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

/// Made-up files in a directory that goes with its owner.
#[cfg(test)]
pub(super) fn made_up(files: &[(&str, &str)]) -> (tempfile::TempDir, Files) {
    let directory = tempfile::tempdir().unwrap();
    let made = Files { root: directory.path().into() };
    for (path, text) in files {
        let path = made.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    (directory, made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_below_the_root_and_may_be_missing() {
        let (_directory, files) = made_up(&[
            ("/proc/n", " 42\n"),
            ("/proc/irq/9/x", ""),
            ("/proc/irq/10/x", ""),
            ("/proc/irq/default_smp_affinity", ""),
            ("/sys/cores", "0-1,4\n"),
            ("/sys/none", "\n"),
            ("/sys/null", "(null)\n"),
        ]);
        assert_eq!((files.number("/proc/n"), files.text("/proc/n").as_deref()), (Some(42), Some("42")));
        assert_eq!(files.text("/proc/missing"), None);
        assert_eq!(files.numbered("/proc/irq"), Some(vec![9, 10]));
        assert_eq!(files.cores("/sys/cores"), Some(vec![0, 1, 4]));
        assert_eq!((files.cores("/sys/none"), files.cores("/sys/null")), (Some(vec![]), Some(vec![])));
        assert_eq!(files.cores("/sys/missing"), None);
    }
}
