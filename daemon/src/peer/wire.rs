//! The bytes of the peer channel: what a connection begins with, and the head of a frame.
//!
//! The dialer says four bytes: the letter of what it wants, the version of this layout, and the
//! number of its own format (big-endian). The acceptor answers with the same four, its own format
//! in them, or closes. With TLS 1.3 that answer is also how the dialer learns that its certificate
//! was taken. A frame is a head of five bytes (length of what follows it, big-endian; kind) and its
//! bytes. Pure: it reads and writes arrays.

use std::time::Duration;

/// The number of the format of frames and requests that this version speaks. A member with another
/// number is let in: whoever adds to the format asks [`super::Peers::format`] first, so that a
/// cluster is upgraded node by node.
pub const FORMAT: u16 = 1;
/// The version of this layout. Another one is refused.
pub const VERSION: u8 = 1;
/// The kind of the empty frames that keep a stream alive; never delivered.
pub const KEEPALIVE: u8 = 0;
/// Bytes of one frame: 64 MiB of entries and what raft puts around them.
pub const FRAME_BYTES_MAX: usize = 65 << 20;
/// Bytes of a frame's head.
pub const HEAD_BYTES: usize = 5;
/// How often each side of a stream says something.
pub const KEEPALIVE_EVERY: Duration = Duration::from_secs(1);
/// After this many pauses of [`KEEPALIVE_EVERY`] without a byte a stream is dead.
pub const SILENT_MAX: u32 = 5;
/// A connection is dropped if nothing can be written to it for so long.
pub const STALLED: Duration = Duration::from_secs(5);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Frames from the dialer to the acceptor.
    Stream,
    /// HTTP/2, the dialer being the client.
    Requests,
}

impl Purpose {
    fn letter(self) -> u8 {
        match self {
            Purpose::Stream => b'R',
            Purpose::Requests => b'H',
        }
    }
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// What it is for.
    pub purpose: Purpose,
    /// The format of the one who says it.
    pub format: u16,
}

/// A greeting that is none of this version's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GreetingError {
    /// The letter is not known.
    #[error("it wants a connection of kind {0}, which this version does not have")]
    Purpose(u8),
    /// The layout is another one.
    #[error("it speaks version {0} of the peer channel; this node speaks {VERSION}")]
    Version(u8),
}

impl Greeting {
    /// Its length in bytes.
    pub const BYTES: usize = 4;

    /// As it is sent.
    pub fn to_bytes(self) -> [u8; Greeting::BYTES] {
        let [high, low] = self.format.to_be_bytes();
        [self.purpose.letter(), VERSION, high, low]
    }

    /// Reads what the other side said.
    ///
    /// # Errors
    /// [`GreetingError`]; the version is looked at first, because it may change what follows.
    pub fn from_bytes(bytes: [u8; Greeting::BYTES]) -> Result<Greeting, GreetingError> {
        let [letter, version, high, low] = bytes;
        if version != VERSION {
            return Err(GreetingError::Version(version));
        }
        let purpose = match letter {
            b'R' => Purpose::Stream,
            b'H' => Purpose::Requests,
            other => return Err(GreetingError::Purpose(other)),
        };
        Ok(Greeting { purpose, format: u16::from_be_bytes([high, low]) })
    }
}

/// The head of a frame; the caller has checked the length against [`FRAME_BYTES_MAX`].
pub fn head(kind: u8, length: usize) -> [u8; HEAD_BYTES] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [a, b, c, d, kind]
}

/// Length and kind from a head; `None` if there are not enough bytes yet.
pub fn read_head(bytes: &[u8]) -> Option<(usize, u8)> {
    let [a, b, c, d, kind] = *bytes.first_chunk::<HEAD_BYTES>()?;
    Some((usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX), kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_and_heads_are_read_as_they_were_written() {
        for purpose in [Purpose::Stream, Purpose::Requests] {
            let greeting = Greeting { purpose, format: 0x1234 };
            assert_eq!(Greeting::from_bytes(greeting.to_bytes()), Ok(greeting));
        }
        assert_eq!(Greeting::from_bytes(*b"R\x01\x00\x07").map(|read| read.format), Ok(7));
        assert_eq!(Greeting::from_bytes(*b"X\x01\x00\x01"), Err(GreetingError::Purpose(b'X')));
        assert_eq!(Greeting::from_bytes(*b"X\x02\x00\x01"), Err(GreetingError::Version(2)));
        assert_eq!(head(9, 258), [0, 0, 1, 2, 9]);
        assert_eq!(read_head(&[0, 0, 1, 2, 9, 77]), Some((258, 9)));
        assert_eq!(read_head(&[0, 0, 1, 2]), None);
    }
}
