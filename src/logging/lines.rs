//! Lines on standard error that nobody has to wait for.
//!
//! Threads put whole lines into a bounded buffer, and one thread writes them. A line that finds no room, or
//! that cannot be written, is dropped and counted: a reader that is gone or does not read, a full disk or a
//! closed terminal must never fail or stop those who log. `tracing-appender` would do for a slow reader; but
//! it does not count lines whose writing fails.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

/// Bytes that may wait while others are being written.
const CAPACITY: usize = 1 << 20;
/// Pause before another attempt, when the output takes nothing for the moment.
const RETRY: Duration = Duration::from_millis(10);

/// The lines of this process. The thread starts with the first line.
static LINES: LazyLock<&'static Lines> = LazyLock::new(|| {
    let lines: &'static Lines = Box::leak(Box::default());
    // Standard error itself has a lock, and whoever waits for a reader would hold it.
    if let Ok(out) = io::stderr().as_fd().try_clone_to_owned() {
        let thread = thread::Builder::new().name("log-writer".to_owned());
        // Without the thread lines fill the buffer and are then dropped.
        let _ = thread.spawn(move || lines.write_to(&mut File::from(out)));
    }
    lines
});

#[derive(Default)]
struct Lines {
    buffer: Mutex<Buffer>,
    /// Told when lines were put in, and when all were written.
    changed: Condvar,
    dropped: Counter,
    /// Of `dropped`, how many were told of.
    told: AtomicU64,
}

#[derive(Default)]
struct Buffer {
    waiting: Vec<u8>,
    /// Lines that were taken out are being written.
    writing: bool,
}

/// Counts the lines that were dropped.
pub fn dropped() -> Counter {
    LINES.dropped.clone()
}

/// Puts a line, which ends in a newline, behind those that wait; drops it where they leave no room.
pub(super) fn put(line: &[u8]) {
    LINES.put(line);
}

/// Waits until what was put in is written, but no longer than `patience`: the reader may never read.
pub(super) fn flush(patience: Duration) {
    LINES.flush(patience);
}

/// Where `tracing` writes each event, in one piece.
pub(super) struct Output;

impl Write for Output {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        put(&one_line(event));
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

    fn put(&self, line: &[u8]) {
        let mut buffer = self.buffer();
        if buffer.waiting.len() + line.len() > CAPACITY {
            self.dropped.inc_by(count(line));
            return;
        }
        buffer.waiting.extend_from_slice(line);
        if !buffer.writing {
            self.changed.notify_all();
        }
    }

    fn flush(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut buffer = self.buffer();
        while buffer.writing || !buffer.waiting.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            buffer = self.changed.wait_timeout(buffer, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn write_to(&self, out: &mut impl Write) {
        let (mut lines, mut torn) = (Vec::new(), false);
        loop {
            lines.clear();
            let mut buffer = self.buffer();
            buffer.writing = false;
            self.changed.notify_all();
            while buffer.waiting.is_empty() {
                buffer = self.changed.wait(buffer).unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut buffer.waiting, &mut lines);
            buffer.writing = true;
            drop(buffer);
            let lost = write(out, &lines, &mut torn);
            self.dropped.inc_by(lost);
            if lost == 0 {
                self.tell_of_dropped();
            }
        }
    }

    /// Says how many lines are missing above, once lines can be written again.
    fn tell_of_dropped(&self) {
        let dropped = self.dropped.get();
        let lines = dropped - self.told.swap(dropped, Ordering::Relaxed);
        if lines > 0 {
            tracing::warn!(
                lines,
                "log lines were dropped: standard error was not read, or could not be written"
            );
        }
    }
}

/// Writes as much as it can, and returns how many lines could not be written. `torn`: the last line that was
/// written lacks its end.
fn write(out: &mut impl Write, lines: &[u8], torn: &mut bool) -> u64 {
    let mut end_first = std::mem::take(torn);
    let mut left = lines;
    while !left.is_empty() {
        let piece = if end_first { b"\n" } else { left };
        match out.write(piece) {
            Ok(0) => return count(left),
            Ok(_) if end_first => end_first = false,
            Ok(written) => left = &left[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(_) => {
                let written = lines.len() - left.len();
                *torn = if written == 0 { end_first } else { lines[written - 1] != b'\n' };
                return count(left);
            }
        }
    }
    0
}

/// An event as one line: a newline in what a stranger sent must not begin another.
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

/// How many lines end in these bytes.
fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An output with room for so many bytes.
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
        let (mut disk, mut torn) = (Disk(Vec::new(), 7), false);
        assert_eq!(write(&mut disk, b"one\ntwo three\nfour\n", &mut torn), 2);
        assert_eq!(write(&mut disk, b"five\n", &mut torn), 1);
        disk.1 = 100;
        assert_eq!(write(&mut disk, b"six\n", &mut torn), 0);
        assert_eq!(String::from_utf8_lossy(&disk.0), "one\ntwo\nsix\n");
    }

    #[test]
    fn an_event_is_one_line() {
        assert_eq!(&*one_line(b"said\n"), b"said\n");
        assert_eq!(&*one_line(b"said\r\n ERROR forged\n"), b"said\\r\\n ERROR forged\n");
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let lines = Lines::default();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        (0..CAPACITY / 1024 + 5).for_each(|_| lines.put(&line));
        assert_eq!((lines.dropped.get(), lines.buffer().waiting.len()), (5, CAPACITY));
        let begun = Instant::now();
        lines.flush(Duration::from_millis(20));
        assert!(begun.elapsed() >= Duration::from_millis(20), "nobody writes them");
    }
}
