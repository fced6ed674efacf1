//! The byte stream of a connection, TCP or TLS. It reports to the [`Connection`] what arrives and leaves.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::connections::Connection;

pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A stream that tells its connection when bytes arrive, and whether the client receives what we send.
pub(super) struct WatchedStream {
    pub(super) wire: Wire,
    pub(super) connection: Rc<Connection>,
}

impl WatchedStream {
    /// Reports the result of a write to the connection: `done` if it succeeded, else a stall.
    fn report<T>(&self, result: Poll<T>, done: impl FnOnce(&Connection, &T)) -> Poll<T> {
        match &result {
            Poll::Ready(value) => done(&self.connection, value),
            Poll::Pending => self.connection.on_stalled(),
        }
        result
    }
}

/// Calls the method of the inner stream.
macro_rules! forward {
    ($wire:expr, $method:ident, $cx:expr $(, $argument:expr)?) => {
        match $wire {
            Wire::Plain(stream) => Pin::new(stream).$method($cx $(, $argument)?),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).$method($cx $(, $argument)?),
        }
    };
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = forward!(&mut self.wire, poll_read, cx, buffer);
        let bytes = buffer.filled().len() - before;
        if bytes > 0 {
            self.connection.on_received(bytes);
        }
        read
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = forward!(&mut self.wire, poll_write, cx, bytes);
        self.report(written, |connection, _| connection.on_progress())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = forward!(&mut self.wire, poll_flush, cx);
        self.report(flushed, |connection, _| connection.on_flushed())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = forward!(&mut self.wire, poll_shutdown, cx);
        self.report(closed, |_, _| {})
    }
}
