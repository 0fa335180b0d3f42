//! Reading request bodies under their limits, and draining those that are not wanted.
//!
//! A body is read whole: at most [`BODY_BYTES_MAX`] and within [`BODY_READ`], and all bodies
//! together within the admission's bound. A body that is not wanted (an answer that comes before
//! it) is still drained within bounds: some HTTP/2 clients fail if the answer overtakes the body.

use super::admission::{Admission, BodyCharge};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, EXPECT};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use std::sync::Arc;
use std::time::Duration;
use tiebeam_proto::limits::{BODY_BYTES_MAX, BODY_READ};

/// Most bytes that are drained of a body nobody wants.
const DRAIN_BYTES_MAX: usize = 4 * BODY_BYTES_MAX;
/// Longest time that such draining takes.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// A body, and its charge against the bytes of all bodies.
#[derive(Debug)]
pub struct Charged {
    /// The bytes.
    pub bytes: Vec<u8>,
    _charge: BodyCharge,
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is longer than allowed.
    #[error("the body is over its limit")]
    TooLarge,
    /// It did not arrive in time.
    #[error("the body did not arrive in time")]
    Slow,
    /// All bodies together are over their limit now.
    #[error("too many bodies are being read now")]
    Crowded,
    /// The connection broke inside the body.
    #[error("the body broke off")]
    Broken(#[source] hyper::Error),
}

/// The length that a request announces, if it does.
pub fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// Reads a whole body of at most `max` bytes. What is left of a body over the limit can still be
/// drained by the caller.
///
/// # Errors
///
/// [`BodyError`]; a body whose announced length is over `max` is not touched.
pub async fn read(
    body: &mut Incoming,
    headers: &HeaderMap,
    max: usize,
    admission: &Arc<Admission>,
) -> Result<Charged, BodyError> {
    let length = announced(headers).unwrap_or(0);
    if length > max {
        return Err(BodyError::TooLarge);
    }
    let mut charge = admission.body();
    let mut bytes = Vec::new();
    let reading = async {
        while let Some(chunk) = next_chunk(body).await? {
            if bytes.len() + chunk.len() > max {
                return Err(BodyError::TooLarge);
            }
            if !charge.add(chunk.len()) {
                return Err(BodyError::Crowded);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(())
    };
    tokio::time::timeout(BODY_READ, reading).await.map_err(|_late| BodyError::Slow)??;
    Ok(Charged { bytes, _charge: charge })
}

async fn next_chunk(body: &mut Incoming) -> Result<Option<Bytes>, BodyError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(BodyError::Broken)?;
        if let Ok(chunk) = frame.into_data() {
            return Ok(Some(chunk));
        }
    }
    Ok(None)
}

/// Reads and drops what is left of a body, within bounds. A client that waits for `100 Continue`
/// has sent nothing and is not asked to.
pub async fn drain(body: &mut Incoming, headers: &HeaderMap) {
    if body.is_end_stream() || headers.contains_key(EXPECT) {
        return;
    }
    let draining = async {
        let mut seen = 0;
        while let Ok(Some(chunk)) = next_chunk(body).await {
            seen += chunk.len();
            if seen > DRAIN_BYTES_MAX {
                return;
            }
        }
    };
    // Whether it ended or ran out of time, the answer goes out next.
    let _ended = tokio::time::timeout(DRAIN_TIME_MAX, draining).await;
}
