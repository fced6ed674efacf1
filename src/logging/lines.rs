//! Writes lines to standard error without making anybody wait.
//!
//! Threads put whole lines into a bounded buffer, and one thread writes them. A line is dropped and counted
//! if the buffer is full or the write fails. So a slow or missing reader, a full disk or a closed terminal
//! never stops a thread that logs. `tracing-appender` handles a slow reader too, but does not count lines
//! whose write fails.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

/// Size of the buffer in bytes, without the lines that are being written.
const CAPACITY: usize = 1 << 20;
/// Pause before the next attempt when the output would block.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// The lines of this process. The writing thread starts with the first line.
static LINES: LazyLock<&'static Lines> = LazyLock::new(|| {
    let lines: &'static Lines = Box::leak(Box::default());
    // A descriptor of our own: `io::stderr` has a lock, which we would hold while we wait for the reader.
    if let Ok(out) = io::stderr().as_fd().try_clone_to_owned() {
        let thread = thread::Builder::new().name("log-writer".to_owned());
        // If the thread does not start, lines fill the buffer and are then dropped.
        let _ = thread.spawn(move || lines.write_to(&mut File::from(out)));
    }
    lines
});

#[derive(Default)]
struct Lines {
    buffer: Mutex<Buffer>,
    /// Notified when lines arrive, and when all lines are written.
    changed: Condvar,
    dropped: Counter,
    /// How many of the dropped lines the log has reported.
    reported: AtomicU64,
}

#[derive(Default)]
struct Buffer {
    waiting: Vec<u8>,
    /// Whether lines that left the buffer are being written.
    is_writing: bool,
}

/// Counter of the dropped lines, for the metrics.
pub fn dropped_lines() -> Counter {
    LINES.dropped.clone()
}

/// Puts a line, which ends in a newline, into the buffer; drops it if the buffer is full.
pub(super) fn enqueue(line: &[u8]) {
    LINES.enqueue(line);
}

/// Waits until all lines are written, but no longer than `timeout`: perhaps nobody reads them.
pub(super) fn flush(timeout: Duration) {
    LINES.flush(timeout);
}

/// The output that `tracing` writes to, each event in one call.
pub(super) struct Output;

impl Write for Output {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        enqueue(&one_line(event));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(&self, line: &[u8]) {
        let mut buffer = self.buffer();
        if buffer.waiting.len() + line.len() > CAPACITY {
            self.dropped.inc_by(count_lines(line));
            return;
        }
        buffer.waiting.extend_from_slice(line);
        if !buffer.is_writing {
            self.changed.notify_all();
        }
    }

    fn flush(&self, timeout: Duration) {
        let until = Instant::now() + timeout;
        let mut buffer = self.buffer();
        while buffer.is_writing || !buffer.waiting.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            buffer = self.changed.wait_timeout(buffer, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn write_to(&self, out: &mut impl Write) {
        let (mut lines, mut is_cut) = (Vec::new(), false);
        loop {
            lines.clear();
            let mut buffer = self.buffer();
            buffer.is_writing = false;
            self.changed.notify_all();
            while buffer.waiting.is_empty() {
                buffer = self.changed.wait(buffer).unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut buffer.waiting, &mut lines);
            buffer.is_writing = true;
            drop(buffer);
            let lost = write_lines(out, &lines, &mut is_cut);
            self.dropped.inc_by(lost);
            if lost == 0 {
                self.report_dropped();
            }
        }
    }

    /// Logs how many lines were dropped since the last report. Called when lines can be written again.
    fn report_dropped(&self) {
        let dropped = self.dropped.get();
        let lines = dropped - self.reported.swap(dropped, Ordering::Relaxed);
        if lines > 0 {
            tracing::warn!(
                lines,
                "log lines were dropped: standard error was not read, or could not be written"
            );
        }
    }
}

/// Writes as much as possible; returns how many lines could not be written. `is_cut`: the last written line
/// has no newline yet; the next call ends it first.
fn write_lines(out: &mut impl Write, lines: &[u8], is_cut: &mut bool) -> u64 {
    let mut newline_first = std::mem::take(is_cut);
    let mut left = lines;
    while !left.is_empty() {
        let piece = if newline_first { b"\n" } else { left };
        match out.write(piece) {
            Ok(0) => return count_lines(left),
            Ok(_) if newline_first => newline_first = false,
            Ok(written) => left = &left[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY_PAUSE),
            Err(_) => {
                let written = lines.len() - left.len();
                *is_cut = if written == 0 { newline_first } else { lines[written - 1] != b'\n' };
                return count_lines(left);
            }
        }
    }
    0
}

/// Escapes newlines inside an event: text from a stranger must not forge another log line.
fn one_line(event: &[u8]) -> Cow<'_, [u8]> {
    let text = event.strip_suffix(b"\n").unwrap_or(event);
    if !text.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return Cow::Borrowed(event);
    }
    let escaped = text.iter().flat_map(|byte| match byte {
        b'\n' => &b"\\n"[..],
        b'\r' => b"\\r",
        byte => std::slice::from_ref(byte),
    });
    Cow::Owned(escaped.chain(b"\n").copied().collect())
}

/// The number of newlines.
fn count_lines(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An output with room for only this number of bytes.
    struct Disk(Vec<u8>, usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = bytes.len().min(self.1 - self.0.len());
            if room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.extend_from_slice(&bytes[..room]);
            Ok(room)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_was_cut_off_is_ended_before_the_next() {
        let (mut disk, mut is_cut) = (Disk(Vec::new(), 7), false);
        assert_eq!(write_lines(&mut disk, b"one\ntwo three\nfour\n", &mut is_cut), 2);
        assert_eq!(write_lines(&mut disk, b"five\n", &mut is_cut), 1);
        disk.1 = 100;
        assert_eq!(write_lines(&mut disk, b"six\n", &mut is_cut), 0);
        assert_eq!(String::from_utf8_lossy(&disk.0), "one\ntwo\nsix\n");
    }

    #[test]
    fn an_event_is_one_line() {
        assert_eq!(&*one_line(b"said\n"), b"said\n");
        assert_eq!(&*one_line(b"said\r\n ERROR forged\n"), b"said\\r\\n ERROR forged\n");
    }

    #[test]
    fn lines_beyond_the_buffer_are_dropped_and_counted() {
        let lines = Lines::default();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        (0..CAPACITY / 1024 + 5).for_each(|_| lines.enqueue(&line));
        assert_eq!((lines.dropped.get(), lines.buffer().waiting.len()), (5, CAPACITY));
        let began = Instant::now();
        lines.flush(Duration::from_millis(20));
        assert!(began.elapsed() >= Duration::from_millis(20), "nobody writes them");
    }
}
