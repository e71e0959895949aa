//! Changes of files, reported once they rest.

use std::path::PathBuf;

use crate::file::Stamp;

/// Files that are looked at about once a second.
///
/// A change is reported only if the look before saw the same: half a file may be a valid one, and files that belong
/// together are written one after the other.
#[derive(Debug)]
pub struct FileWatch {
    paths: Vec<PathBuf>,
    /// Of the files as they were before they were read last, successfully or not.
    read: Stamps,
    /// Of the files as they were at the last look.
    seen: Stamps,
}

type Stamps = Vec<Option<Stamp>>;

impl FileWatch {
    /// To be made before the files are read for the first time, so that the next look finds a change meanwhile.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let now = stamps(&paths);
        Self { paths, read: now.clone(), seen: now }
    }

    /// The files.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// To be called before the files are read again.
    pub fn mark_read(&mut self) {
        self.seen = stamps(&self.paths);
        self.read.clone_from(&self.seen);
    }

    /// Looks at the files: whether they differ from those read last and are the same as at the look before.
    pub fn has_changed_and_rests(&mut self) -> bool {
        let now = stamps(&self.paths);
        let rests = self.seen == now;
        self.seen = now;
        rests && self.read != self.seen
    }
}

fn stamps(paths: &[PathBuf]) -> Stamps {
    paths.iter().map(|path| Stamp::of(path)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_change_is_reported_once_it_rests_and_until_it_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| directory.path().join(name));
        fs::write(&paths[0], "1").unwrap();
        let mut watch = FileWatch::new(paths.to_vec());
        assert!(!watch.has_changed_and_rests(), "nothing has changed");
        // Another length: the clock of the file system may not have ticked since.
        fs::write(&paths[0], "22").unwrap();
        assert!(!watch.has_changed_and_rests(), "it may still be written");
        fs::write(&paths[1], "1").unwrap();
        assert!(!watch.has_changed_and_rests(), "the other one, too");
        assert!(watch.has_changed_and_rests() && watch.has_changed_and_rests(), "until it is read");
        watch.mark_read();
        assert!(!watch.has_changed_and_rests());
        fs::remove_file(&paths[1]).unwrap();
        assert!(!watch.has_changed_and_rests());
        assert!(watch.has_changed_and_rests(), "a file that is gone is a change");
    }
}
