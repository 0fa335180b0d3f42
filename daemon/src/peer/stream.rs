//! The stream of frames: writing it to a member, again and again, and reading one that came.
//!
//! The writer takes all frames that wait, hands them to TLS as one vectored write, and flushes when
//! nothing is left. Both sides say something every second; five seconds without a byte, or without
//! getting one out, end the stream, and the writer dials again with a growing, jittered pause. A
//! member that comes to us is alive: that ends the pause at once.

use super::Shared;
use super::dial::{self, DialError};
use super::link::Link;
use super::outbox::Frame;
use super::wire::{
    FRAME_BYTES_MAX, HEAD_BYTES, KEEPALIVE, KEEPALIVE_EVERY, Purpose, SILENT_MAX, STALLED, head,
    read_head,
};
use bytes::{Buf, BytesMut};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Interval, MissedTickBehavior, timeout};

/// The first pause before dialling again, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A stream that lived for so long was a good one: the next pause is the shortest again.
const GOOD: Duration = Duration::from_secs(1);
/// How often a member that stays away is logged.
const AWAY_EVERY: Duration = Duration::from_secs(60);
/// Frames of one write; more would only make its list longer.
const FRAMES_PER_WRITE: usize = 64;
/// Room for reading: four TLS records.
const READ_BYTES: usize = 64 << 10;
/// Less free room than this, and the next read gets a new buffer.
const READ_BYTES_MIN: usize = 16 << 10;

/// Keeps a stream to a member until the link is gone.
pub async fn keep(shared: Arc<Shared>, link: Arc<Link>) {
    tokio::select! {
        () = link.gone.cancelled() => {}
        () = dial_again(&shared, &link) => {}
    }
    link.outbox.close();
}

async fn dial_again(shared: &Shared, link: &Link) {
    let mut pause = PAUSE_MIN;
    let mut logged: Option<Instant> = None;
    loop {
        match dial::connect(shared, link, Purpose::Stream).await {
            Ok(stream) => {
                logged = None;
                let begin = Instant::now();
                let ended = run(shared, link, stream).await;
                tracing::info!(node = link.id.node, %ended, "the stream to a peer ended");
                if begin.elapsed() >= GOOD {
                    pause = PAUSE_MIN;
                }
            }
            Err(error) => {
                shared.link_is_down(link);
                note_away(link, &error, &mut logged);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            () = link.hurry.notified() => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn note_away(link: &Link, error: &DialError, logged: &mut Option<Instant>) {
    if logged.is_none_or(|at| at.elapsed() >= AWAY_EVERY) {
        *logged = Some(Instant::now());
        let error = crate::report::chain(error);
        tracing::warn!(node = link.id.node, error, "a peer is not reached");
    }
}

/// Between half of the pause and all of it.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0_u8) % 1_000;
    pause / 2 + (pause / 2).mul_f64(random as f64 / 1_000.0)
}

/// Opens the outbox, writes it out until the stream fails, and closes it.
async fn run<S>(shared: &Shared, link: &Link, stream: S) -> io::Error
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    tracing::info!(node = link.id.node, "the stream to a peer is up");
    shared.counters.streams_dialled.fetch_add(1, Ordering::Relaxed);
    link.outage_ends();
    link.outbox.open();
    let ended = write(shared, link, stream).await;
    let dropped = u64::try_from(link.outbox.close()).unwrap_or(u64::MAX);
    shared.counters.frames_dropped.fetch_add(dropped, Ordering::Relaxed);
    shared.link_is_down(link);
    match ended {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn write<S>(
    shared: &Shared,
    link: &Link,
    mut stream: S,
) -> io::Result<std::convert::Infallible>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut ticks = ticks();
    let (mut silent, mut spoke) = (0, false);
    let mut batch = Vec::new();
    let mut scrap = [0; 64];
    loop {
        // In this order, so that a stream that always has frames to write ticks and listens too.
        tokio::select! {
            biased;
            _ = ticks.tick() => {
                count_silence(&mut silent)?;
                if !std::mem::take(&mut spoke) {
                    say_alive(&mut stream).await?;
                }
            }
            read = stream.read(&mut scrap) => {
                note_read(read?, &mut silent, link)?;
            }
            taken = link.outbox.take(&mut batch) => {
                spoke = true;
                write_batches(shared, link, &mut stream, &mut batch, taken).await?;
            }
        }
    }
}

/// Writes what was taken and what came meanwhile, and flushes.
async fn write_batches<S>(
    shared: &Shared,
    link: &Link,
    stream: &mut S,
    batch: &mut Vec<Frame>,
    mut taken: usize,
) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    while taken > 0 {
        for frames in batch.chunks(FRAMES_PER_WRITE) {
            write_frames(stream, frames).await?;
        }
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let bytes = batch.iter().map(|frame| frame.bytes.len()).sum::<usize>();
        shared.counters.frames_sent.fetch_add(count, Ordering::Relaxed);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        shared.counters.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
        batch.clear();
        link.outbox.written(taken);
        taken = link.outbox.take_now(batch);
    }
    timeout(STALLED, stream.flush()).await?
}

/// Writes some frames without copying them together. The time limit is on progress, not on all:
/// a large frame may take its time on a slow line.
async fn write_frames<S>(stream: &mut S, frames: &[Frame]) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    let heads: Vec<[u8; HEAD_BYTES]> =
        frames.iter().map(|frame| head(frame.kind, frame.bytes.len())).collect();
    let parts = heads.iter().zip(frames);
    let mut parts: Vec<IoSlice<'_>> =
        parts.flat_map(|(head, frame)| [IoSlice::new(head), IoSlice::new(&frame.bytes)]).collect();
    let mut left = parts.as_mut_slice();
    while !left.is_empty() {
        let written = timeout(STALLED, stream.write_vectored(left)).await??;
        if written == 0 && left.iter().any(|part| !part.is_empty()) {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}

/// Reads the frames of a member and hands them over in order, until the stream ends.
pub async fn receive<S>(shared: &Shared, link: &Link, mut stream: S) -> io::Error
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _reading = link.reading.lock().await;
    // What a process of before said at its end does not hold for this one.
    link.note_left(false);
    let mut ticks = ticks();
    let mut silent = 0;
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        let step = tokio::select! {
            biased;
            _ = ticks.tick() => match count_silence(&mut silent) {
                Ok(()) => say_alive(&mut stream).await,
                dead => dead,
            },
            read = stream.read_buf(&mut buffer) => read
                .and_then(|read| note_read(read, &mut silent, link))
                .and_then(|()| deliver(shared, link, &mut buffer)),
        };
        if let Err(error) = step {
            return error;
        }
    }
}

/// Hands over the whole frames at the front of the buffer and makes room for what comes next.
fn deliver(shared: &Shared, link: &Link, buffer: &mut BytesMut) -> io::Result<()> {
    let (mut frames, mut bytes) = (0, 0);
    let mut wanted = READ_BYTES_MIN;
    while let Some((length, kind)) = read_head(buffer) {
        if length > FRAME_BYTES_MAX {
            let text = format!("a frame of {length} bytes: at most {FRAME_BYTES_MAX} are taken");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if buffer.len() < HEAD_BYTES + length {
            wanted = wanted.max(HEAD_BYTES + length - buffer.len());
            break;
        }
        buffer.advance(HEAD_BYTES);
        let frame = buffer.split_to(length);
        if kind != KEEPALIVE {
            (frames, bytes) = (frames + 1, bytes + length);
            shared.service.frame(link.id.raft_id, kind, frame.freeze());
        }
    }
    if buffer.capacity() - buffer.len() < wanted {
        buffer.reserve(wanted.max(READ_BYTES));
    }
    shared.counters.frames_received.fetch_add(frames, Ordering::Relaxed);
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    shared.counters.bytes_received.fetch_add(bytes, Ordering::Relaxed);
    Ok(())
}

/// A clock that does not hurry after a pause of the whole process: it would count silence that was
/// our own.
fn ticks() -> Interval {
    let mut ticks = tokio::time::interval(KEEPALIVE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn count_silence(silent: &mut u32) -> io::Result<()> {
    *silent += 1;
    if *silent > SILENT_MAX {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came from it"));
    }
    Ok(())
}

fn note_read(read: usize, silent: &mut u32, link: &Link) -> io::Result<()> {
    if read == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed it"));
    }
    *silent = 0;
    link.hear();
    Ok(())
}

async fn say_alive<S>(stream: &mut S) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    timeout(STALLED, stream.write_all(&head(KEEPALIVE, 0))).await??;
    timeout(STALLED, stream.flush()).await?
}
