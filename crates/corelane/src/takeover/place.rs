//! Where in the file system the socket of a takeover is: a file with mode 0600 in a directory that no other user can
//! write to, so that only the own user and root can connect, fill its queue, or put another socket in its place.

use std::env;
use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use corelane_command::Failure;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use rustix::process::{Uid, geteuid};

use crate::config::Config;

/// Mode bits with which users other than the owner can write.
const OTHERS_WRITE: u32 = 0o022;
/// Mode bits with which users other than the owner can do anything.
const OTHERS_ANYTHING: u32 = 0o077;

/// Successors that wait to be accepted. Only the own user and root can get that far.
const BACKLOG: i32 = 16;

/// How long another process may look at the same place. It does so for less than a millisecond; a user who can open the
/// directory can hold its lock, which must not keep a server from its socket.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// Which file the socket is.
#[derive(Debug)]
pub(crate) enum Place {
    Stated(PathBuf),
    /// In the runtime directory, named after the data port.
    Directory(PathBuf),
    /// There is no usable directory, so there is only the abstract name.
    Nowhere,
}

impl Place {
    /// The path that is configured, else one in the runtime directory, which is made if it is missing.
    ///
    /// # Errors
    /// When the configured directory is missing, or other users can write to it.
    pub(crate) fn of(config: &Config) -> Result<Self, Failure> {
        if let Some(said) = &config.takeover_path {
            return match check_directory(directory_of(&said.value)) {
                Ok(()) => Ok(Self::Stated(said.value.clone())),
                Err(error) => Err(Failure::failed(format!("{}: {error}", said.source))),
            };
        }
        let usable = runtime_directory().and_then(|directory| {
            match DirBuilder::new().mode(0o700).create(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io::Error::new(error.kind(), format!("{}: {error}", directory.display())));
                }
                _ => check_directory(&directory)?,
            }
            Ok(directory)
        });
        Ok(match usable {
            Ok(directory) => Self::Directory(directory),
            Err(error) => {
                tracing::warn!(
                    "any user of this host can delay a takeover, because its socket has no place in the file system: \
                     {error}; set --takeover-path"
                );
                Self::Nowhere
            }
        })
    }

    /// The file for a server of this address.
    pub(crate) fn path(&self, listen: SocketAddr) -> Option<PathBuf> {
        match self {
            Self::Stated(path) => Some(path.clone()),
            Self::Directory(directory) => Some(directory.join(format!("{listen}.sock"))),
            Self::Nowhere => None,
        }
    }
}

/// The directory for what lives as long as this process: that of the service manager (systemd.exec(5)), else the one that
/// a unit with `RuntimeDirectory=corelane` would get for root, and that of the login session for other users.
fn runtime_directory() -> io::Result<PathBuf> {
    let from = |variable| env::var_os(variable).filter(|value| !value.is_empty());
    if let Some(directories) = from("RUNTIME_DIRECTORY") {
        return Ok(env::split_paths(&directories).next().unwrap_or_default());
    }
    if geteuid().is_root() {
        return Ok("/run/corelane".into());
    }
    let session = from("XDG_RUNTIME_DIR").ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "neither RUNTIME_DIRECTORY nor XDG_RUNTIME_DIR is set")
    })?;
    Ok(Path::new(&session).join("corelane"))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Checks that no other user can put files into a directory. Root may use the directory of any user.
fn check_directory(directory: &Path) -> io::Result<()> {
    let refuse = |text: &str| {
        let text = format!("{} {text}", directory.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    };
    let metadata = match fs::metadata(directory) {
        Ok(metadata) => metadata,
        Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", directory.display()))),
    };
    let user = geteuid();
    if !metadata.is_dir() {
        refuse("is not a directory")
    } else if ![0, user.as_raw()].contains(&metadata.uid()) && !user.is_root() {
        refuse("belongs to another user; choose a directory of the user that runs the server")
    } else if metadata.mode() & OTHERS_WRITE != 0 {
        refuse("can be written by other users; choose another directory, or chmod go-w")
    } else {
        Ok(())
    }
}

/// Whether the socket at `path` can only have been made by this user: the file is theirs alone, and so is each directory
/// above it, or it is root's.
pub(super) fn is_of(path: &Path, user: Uid) -> io::Result<bool> {
    let owned = |metadata: &Metadata, by: &[u32]| by.contains(&metadata.uid());
    let socket = fs::symlink_metadata(path)?;
    let directory = fs::canonicalize(directory_of(path))?;
    let is_theirs =
        socket.file_type().is_socket() && owned(&socket, &[user.as_raw()]) && socket.mode() & OTHERS_ANYTHING == 0;
    for above in directory.ancestors() {
        let metadata = fs::metadata(above)?;
        if !owned(&metadata, &[0, user.as_raw()]) || metadata.mode() & OTHERS_WRITE != 0 {
            return Ok(false);
        }
    }
    Ok(is_theirs)
}

/// A socket file that this process has made. Removed on drop, unless another file has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Listens at `path`. Replaces the socket of a process that has ended, and nothing else.
///
/// # Errors
/// When another process listens there, or the file is not a socket.
pub(super) fn listen(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let address = SocketAddrUnix::new(path)?;
    let _lock = lock(directory_of(path))?;
    remove_stale(path, &address)?;
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    rustix::net::bind(&socket, &address)?;
    let file = SocketFile { path: path.to_owned(), identity: identity(&fs::symlink_metadata(path)?) };
    // Before it listens, so that nobody connects while the umask alone decides.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok((socket.into(), file))
}

/// Removes the socket of a process that has ended: nobody listens there.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    // A plain file refuses connections, too.
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file is not a socket; it stays as it is"));
    }
    match super::connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
}

/// Keeps two servers that start at once from removing each other's socket.
fn lock(directory: &Path) -> io::Result<File> {
    let directory = File::open(directory)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    while directory.try_lock().is_err() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(directory)
}
