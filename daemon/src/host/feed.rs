//! Standard input on its way to a program that reads it when it likes, or never.
//!
//! Owns the shim's end of the pipe. It never blocks: the shim has to keep time meanwhile.

use rustix::fs::OFlags;
use std::{
    io::{self, Write},
    os::fd::AsFd,
    process::ChildStdin,
};
use zeroize::Zeroizing;

/// What is still to be written, and where.
pub(crate) struct Feed {
    pipe: Option<ChildStdin>,
    bytes: Zeroizing<Vec<u8>>,
    written: usize,
}

impl Feed {
    /// Takes a pipe and all that is to go through it.
    pub fn new(pipe: Option<ChildStdin>, bytes: Zeroizing<Vec<u8>>) -> io::Result<Feed> {
        if let Some(pipe) = &pipe {
            unblock(pipe)?;
        }
        Ok(Feed { pipe, bytes, written: 0 })
    }

    /// The pipe, while there is something to write.
    pub fn pipe(&self) -> Option<&ChildStdin> {
        self.pipe.as_ref()
    }

    /// Writes what the pipe takes and closes it after the last byte, or when nobody reads.
    pub fn go_on(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        while let Some(rest) = self.bytes.get(self.written..).filter(|rest| !rest.is_empty()) {
            match pipe.write(rest) {
                Ok(0) => break,
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        self.pipe = None;
        self.bytes = Zeroizing::default();
    }
}

/// Makes this end of a pipe answer at once; the other end is not changed.
pub(crate) fn unblock(pipe: &impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(pipe)?;
    Ok(rustix::fs::fcntl_setfl(pipe, flags | OFlags::NONBLOCK)?)
}
