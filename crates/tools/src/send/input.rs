//! Where rows come from: files and pipes, looked at before anything is sent and then read as a stream.
//!
//! Opens every input once at the start, keeps its first bytes for the header and the samples, and never holds more of
//! it than those. Knows nothing of rows.

use std::{
    fs::File,
    io::{self, Cursor, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// One input that was opened and looked at.
#[derive(Debug)]
pub(super) struct Input {
    /// As the user wrote it; `<stdin>` for `-`. Leads every message about it.
    pub(super) name: String,
    /// The first bytes, at most `HEAD_BYTES_MAX`.
    pub(super) head: Vec<u8>,
    /// Whether `head` is all there is.
    pub(super) is_whole: bool,
    /// The size, when it is a regular file.
    pub(super) bytes: Option<u64>,
    rest: Rest,
}

/// How to get at an input again after its head was read.
#[derive(Debug)]
enum Rest {
    /// A regular file is closed meanwhile, so that a thousand files need no thousand descriptors.
    Reopen(PathBuf),
    /// A pipe gives its bytes once.
    Open(File),
}

impl Input {
    /// Opens `path` (`-` is stdin) and reads its head.
    ///
    /// # Errors
    /// Text for the user that names the input and the remedy.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let is_stdin = path == Path::new("-");
        let name = if is_stdin { "<stdin>".to_owned() } else { path.display().to_string() };
        let opened = if is_stdin { io::stdin().as_fd().try_clone_to_owned().map(File::from) } else { File::open(path) };
        let mut file = opened.map_err(|error| unreadable(&name, &error))?;
        let metadata = file.metadata().map_err(|error| unreadable(&name, &error))?;
        if metadata.is_dir() {
            return Err(format!("{name} is a directory: name the files in it, as {name}/*.csv"));
        }
        let is_regular = metadata.is_file() && !is_stdin;
        let (head, is_whole) = read_head(&mut file, is_regular).map_err(|error| unreadable(&name, &error))?;
        check_text(&head).map_err(|text| format!("{name} {text}"))?;
        let rest = if is_regular { Rest::Reopen(path.to_owned()) } else { Rest::Open(file) };
        let bytes = is_regular.then_some(metadata.len());
        Ok(Self { name, head, is_whole, bytes, rest })
    }

    /// All its bytes from the first.
    pub(super) fn into_reader(self) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self.rest {
            Rest::Reopen(path) => Box::new(File::open(path)?),
            Rest::Open(file) => Box::new(Cursor::new(self.head).chain(file)),
        })
    }

    /// The complete lines of the head, without a byte order mark.
    pub(super) fn lines(&self) -> &[u8] {
        let head = self.head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&self.head);
        let end = head.iter().rposition(|&byte| byte == b'\n').map_or(0, |index| index + 1);
        if self.is_whole { head } else { &head[..end] }
    }
}

fn unreadable(name: &str, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => ": check the path",
        io::ErrorKind::PermissionDenied => ": make it readable for this user",
        _ => "",
    };
    format!("cannot read {name}: {error}{remedy}; nothing was sent")
}

/// Reads until the head is full or the input ends. From a pipe, which may be somebody typing or a program that logs
/// once a second, it takes what is there as soon as that holds a header and a row.
fn read_head(file: &mut File, is_regular: bool) -> io::Result<(Vec<u8>, bool)> {
    let mut head = vec![0; HEAD_BYTES_MAX];
    let mut filled = 0;
    let mut is_whole = false;
    while filled < head.len() {
        let lines = head[..filled].iter().filter(|&&byte| byte == b'\n').count();
        if !is_regular && lines >= 2 && !has_more_soon(file)? {
            break;
        }
        match file.read(&mut head[filled..]) {
            Ok(0) => {
                is_whole = true;
                break;
            }
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    head.truncate(filled);
    Ok((head, is_whole))
}

fn has_more_soon(file: &File) -> io::Result<bool> {
    Ok(poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&PAUSE))? > 0)
}

/// Refuses what is no text with lines, by its first bytes.
fn check_text(head: &[u8]) -> Result<(), &'static str> {
    if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
        return Err("is UTF-16 text: convert it with `iconv -f UTF-16 -t UTF-8`");
    }
    if head.starts_with(&[0x1f, 0x8b]) {
        return Err("is compressed: unpack it, as in `zcat FILE | corelane send --id NAME -`");
    }
    if head.contains(&b'\r') && !head.contains(&b'\n') {
        return Err("has lines that end with CR alone: convert it with `tr '\\r' '\\n'`");
    }
    Ok(())
}

/// Enough rows to tell the kinds of columns by. One read of a pipe.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// How long a pipe may be silent before its head is taken to be all that waits.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// What some programs put before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn pipe_with(bytes: &[u8]) -> (File, impl Write) {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(bytes).unwrap();
        (File::from(std::os::fd::OwnedFd::from(reader)), writer)
    }

    #[test]
    fn a_missing_file_is_named_with_a_remedy() {
        let text = Input::open(Path::new("/nowhere/a.csv")).unwrap_err();
        assert!(text.contains("/nowhere/a.csv") && text.contains("check the path"), "{text}");
    }

    #[test]
    fn a_directory_is_no_file() {
        assert!(Input::open(Path::new("/tmp")).unwrap_err().contains("is a directory"));
    }

    #[test]
    fn a_silent_pipe_does_not_hold_up_its_first_row() {
        let (mut file, _writer) = pipe_with(b"time,a\n1,2\n");
        assert_eq!(read_head(&mut file, false).unwrap(), (b"time,a\n1,2\n".to_vec(), false));
    }

    #[test]
    fn a_pipe_is_read_to_its_first_row_and_its_end() {
        let (mut file, writer) = pipe_with(b"time,a\n1,2");
        drop(writer);
        assert_eq!(read_head(&mut file, false).unwrap(), (b"time,a\n1,2".to_vec(), true));
    }

    #[test]
    fn bytes_that_are_no_lines_of_text_are_refused() {
        assert!(check_text(b"\xff\xfet\0").unwrap_err().contains("UTF-16"));
        assert!(check_text(b"\x1f\x8b\x08").unwrap_err().contains("compressed"));
        assert!(check_text(b"time,a\r1,2\r").unwrap_err().contains("CR alone"));
        assert_eq!(check_text(b"time,a\r\n1,2\r\n"), Ok(()));
    }

    #[test]
    fn a_cut_last_line_is_no_sample() {
        let input = |is_whole| Input {
            name: String::new(),
            head: b"\xef\xbb\xbftime,a\n1,2\n3,".to_vec(),
            is_whole,
            bytes: None,
            rest: Rest::Reopen(PathBuf::new()),
        };
        assert_eq!(input(false).lines(), b"time,a\n1,2\n");
        assert_eq!(input(true).lines(), b"time,a\n1,2\n3,");
    }
}
