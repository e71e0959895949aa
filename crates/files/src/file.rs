//! Small files: read whole, and recognised when they are others than before.

use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Longest file that is read. A chain of certificates takes a few KiB.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why something could not be made of files. The text names the file and what would mend it.
#[derive(Debug)]
pub struct LoadError(String);

impl LoadError {
    /// An error in one file; `what` continues the sentence that its path begins.
    pub fn new(path: &Path, what: impl Display) -> Self {
        Self(format!("{}: {what}", path.display()))
    }
}

impl Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LoadError {}

/// The bytes of a regular file of at most [`FILE_BYTES_MAX`].
///
/// # Errors
/// When it cannot be read, is longer, or is none: a pipe can be read once only, and would hold up who reads it again.
pub fn read_file(path: &Path) -> Result<Vec<u8>, LoadError> {
    let cannot = |error| LoadError::new(path, format_args!("{error}; give the path of a file that this user may read"));
    if !fs::metadata(path).map_err(cannot)?.is_file() {
        return Err(LoadError::new(path, "is not a regular file, so that it could not be read again when it changes"));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(cannot)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(LoadError::new(path, format_args!("is longer than {FILE_BYTES_MAX} bytes; it is the wrong file")));
    }
    Ok(bytes)
}

/// What tells a file from the one that was there before, be it written over, replaced, or reached over another link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    written: (i64, i64),
    /// Also moves when the permissions change, which may mend a file that could not be read.
    changed: (i64, i64),
}

impl Stamp {
    /// None when there is nothing to look at.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let error = |path: &Path| read_file(path).unwrap_err().to_string();
        assert!(error(&path).contains("No such file"), "{}", error(&path));
        fs::write(&path, "text").unwrap();
        assert_eq!(read_file(&path).unwrap(), b"text");
        File::create(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(error(&path).starts_with(path.to_str().unwrap()) && error(&path).contains("longer than 1048576"));
        assert!(error(directory.path()).contains("not a regular file"));
        assert!(error(Path::new("/dev/zero")).contains("not a regular file"));
    }
}
