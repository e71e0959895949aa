//! A value made of files, made again when they change.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::{FileWatch, LoadError};

/// A value made of files. What was made last stays in use until something better could be made.
pub struct Reloaded<T> {
    load: fn(&[PathBuf]) -> Result<T, LoadError>,
    current: RwLock<Arc<T>>,
    watch: Mutex<FileWatch>,
}

impl<T> Reloaded<T> {
    /// Makes the value for the first time.
    ///
    /// # Errors
    /// Those of `load`.
    pub fn load(paths: Vec<PathBuf>, load: fn(&[PathBuf]) -> Result<T, LoadError>) -> Result<Self, LoadError> {
        let watch = FileWatch::new(paths);
        let current = RwLock::new(Arc::new(load(watch.paths())?));
        Ok(Self { load, current, watch: Mutex::new(watch) })
    }

    /// The value in use.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files now. The value in use stays when that fails.
    ///
    /// # Errors
    /// Those of the function that makes the value.
    pub fn reload(&self) -> Result<(), LoadError> {
        self.read_again(&mut self.watch())
    }

    /// Reads the files once a change of them rests. None when there was nothing to read. To be called about once a second;
    /// an invalid file is read, and complained of, once.
    pub fn reload_if_changed(&self) -> Option<Result<(), LoadError>> {
        let mut watch = self.watch();
        watch.has_changed_and_rests().then(|| self.read_again(&mut watch))
    }

    fn read_again(&self, watch: &mut FileWatch) -> Result<(), LoadError> {
        watch.mark_read();
        let value = Arc::new((self.load)(watch.paths())?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = value;
        Ok(())
    }

    fn watch(&self) -> MutexGuard<'_, FileWatch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Reloaded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The value may be a secret.
        f.debug_struct("Reloaded").field("paths", &self.watch().paths()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::read_file;

    fn number_in_file(paths: &[PathBuf]) -> Result<u32, LoadError> {
        let text = String::from_utf8(read_file(&paths[0])?).unwrap();
        text.parse().map_err(|error| LoadError::new(&paths[0], error))
    }

    #[test]
    fn a_change_is_read_once_it_rests_and_a_bad_one_once_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("number");
        fs::write(&path, "1").unwrap();
        let number = Reloaded::load(vec![path.clone()], number_in_file).unwrap();
        assert!(number.reload_if_changed().is_none(), "nothing has changed");
        let held = number.current();

        // Another length: the clock of the file system may not have ticked since.
        fs::write(&path, "22").unwrap();
        assert!(number.reload_if_changed().is_none(), "it may still be written");
        number.reload_if_changed().unwrap().unwrap();
        assert_eq!((*number.current(), *held), (22, 1));

        fs::write(&path, "bad").unwrap();
        assert!(number.reload_if_changed().is_none());
        assert!(number.reload_if_changed().unwrap().is_err());
        assert!(number.reload_if_changed().is_none(), "it is bad as before");
        assert!(number.reload().is_err(), "asked for, it is read again");
        assert_eq!(*number.current(), 22);

        fs::remove_file(&path).unwrap();
        assert!(number.reload_if_changed().is_none());
        assert!(number.reload_if_changed().unwrap().is_err());
        fs::write(&path, "4444").unwrap();
        assert!(number.reload_if_changed().is_none());
        number.reload_if_changed().unwrap().unwrap();
        assert_eq!(*number.current(), 4444);
    }

    #[test]
    fn a_link_that_points_elsewhere_is_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let (link, next) = (directory.path().join("link"), directory.path().join("next"));
        for (name, text) in [("a", "1"), ("b", "2")] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        std::os::unix::fs::symlink("a", &link).unwrap();
        let number = Reloaded::load(vec![link.clone()], number_in_file).unwrap();
        std::os::unix::fs::symlink("b", &next).unwrap();
        fs::rename(&next, &link).unwrap();
        assert!(number.reload_if_changed().is_none());
        number.reload_if_changed().unwrap().unwrap();
        assert_eq!(*number.current(), 2);
    }
}
