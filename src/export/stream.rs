//! Turns what a thread writes into the body of a response. The thread is at most a few chunks ahead of the
//! client.

use std::io::{self, Write};
use std::mem;
use std::time::Duration;

use actix_web::web::Bytes;
use futures_util::stream::{self, Stream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;

/// Bytes of a chunk.
const CHUNK: usize = 64 << 10;
/// Chunks that may wait for the client.
const CHUNKS_WAITING: usize = 4;
/// How long a client may take nothing before we give up: its export keeps a snapshot open.
const PATIENCE: Duration = Duration::from_secs(60);

/// A writer for a blocking thread, and the body that it fills. Call this on a runtime.
pub(crate) fn open() -> (Chunks, impl Stream<Item = io::Result<Bytes>> + use<>) {
    let (parts, arriving) = mpsc::channel(CHUNKS_WAITING);
    (Chunks { parts, runtime: Handle::current(), chunk: Vec::new() }, stream_of(arriving))
}

/// A message from the exporting thread to the response.
enum Part {
    Chunk(Bytes),
    End,
}

/// Gathers bytes into chunks and waits until the client takes them, up to [`PATIENCE`].
#[derive(Clone)]
pub(crate) struct Chunks {
    parts: mpsc::Sender<Part>,
    runtime: Handle,
    chunk: Vec<u8>,
}

impl Chunks {
    /// Ends the stream. Without it the stream breaks off, so that a dead thread does not look like an end.
    /// Does not flush.
    pub(crate) fn end(&mut self) {
        drop(self.send(Part::End));
    }

    /// True when nobody takes the chunks any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.parts.is_closed()
    }

    fn send(&mut self, part: Part) -> io::Result<()> {
        self.runtime.block_on(self.parts.send_timeout(part, PATIENCE)).map_err(|error| match error {
            SendTimeoutError::Timeout(_) => {
                io::Error::new(io::ErrorKind::TimedOut, "the client took nothing for a minute")
            }
            SendTimeoutError::Closed(_) => io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone"),
        })
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK + CHUNK / 4));
        self.send(Part::Chunk(chunk.into()))
    }
}

fn stream_of(arriving: mpsc::Receiver<Part>) -> impl Stream<Item = io::Result<Bytes>> {
    stream::unfold(Some(arriving), |arriving| async move {
        let mut arriving = arriving?;
        match arriving.recv().await {
            Some(Part::Chunk(chunk)) => Some((Ok(chunk), Some(arriving))),
            Some(Part::End) => None,
            None => Some((Err(io::Error::other("the export broke off")), None)),
        }
    })
}
