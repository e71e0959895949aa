//! Sleep of a quiet shard: on the eventfd that the receive ring and other threads signal, inside glommio.
#![allow(unsafe_code, reason = "glommio takes a foreign descriptor only as a raw one")]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd};

use glommio::io::BufferedFile;

pub(crate) struct Parker {
    wake: BufferedFile,
}

impl Parker {
    /// Must be called inside the executor.
    pub(crate) fn new(wake: BorrowedFd<'_>) -> io::Result<Self> {
        let own = wake.try_clone_to_owned()?;
        // SAFETY: the descriptor is ours and open; from here on the file owns it.
        Ok(Self { wake: unsafe { BufferedFile::from_raw_fd(own.into_raw_fd()) } })
    }

    /// Lets the executor's other tasks run until somebody signals.
    pub(crate) async fn park(&self) -> io::Result<()> {
        self.wake.read_at(0, size_of::<u64>()).await?;
        Ok(())
    }

    /// Closes the descriptor inside the executor, as glommio wants it.
    pub(crate) async fn close(self) {
        // The descriptor is gone either way.
        let _ = self.wake.close().await;
    }
}
