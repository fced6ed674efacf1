//! What a connection's bytes pass through: TCP or TLS, watched.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::connections::Connection;

/// The bytes of a connection.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The same, telling the connection what comes and whether its client takes what is sent.
pub(super) struct Watched {
    pub(super) wire: Wire,
    pub(super) connection: Rc<Connection>,
}

impl Watched {
    fn told<T>(&self, result: Poll<T>, done: impl FnOnce(&Connection, &T)) -> Poll<T> {
        match &result {
            Poll::Ready(value) => done(&self.connection, value),
            Poll::Pending => self.connection.stalls(),
        }
        result
    }
}

macro_rules! pass {
    ($wire:expr, $method:ident, $cx:expr $(, $argument:expr)?) => {
        match $wire {
            Wire::Plain(stream) => Pin::new(stream).$method($cx $(, $argument)?),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).$method($cx $(, $argument)?),
        }
    };
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = pass!(&mut self.wire, poll_read, cx, buffer);
        let bytes = buffer.filled().len() - before;
        if bytes > 0 {
            self.connection.received(bytes);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = pass!(&mut self.wire, poll_write, cx, bytes);
        self.told(written, |connection, _| connection.progresses())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = pass!(&mut self.wire, poll_flush, cx);
        self.told(flushed, |connection, _| connection.flushed())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = pass!(&mut self.wire, poll_shutdown, cx);
        self.told(closed, |_, _| {})
    }
}
