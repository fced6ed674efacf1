//! The server's log: its standard error, in two files of limited size.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::panics;

/// Size in bytes at which the log file is renamed to `….1`. Only one older file is kept.
const LARGEST_FILE: u64 = 10 * 1024 * 1024;
/// How many last lines are kept for error messages.
const KEPT_LINES: usize = 12;
/// A longer line is handled in pieces of this size, in bytes.
const LONGEST_PIECE: u64 = 64 * 1024;

/// The log of all servers that a guard runs, one after the other.
#[derive(Clone)]
pub(super) struct Log(Arc<Mutex<Inner>>);

struct Inner {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    last: VecDeque<String>,
}

impl Log {
    pub(super) fn new(path: PathBuf) -> Log {
        Log(Arc::new(Mutex::new(Inner { path, file: None, size: 0, last: VecDeque::new() })))
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).path.clone()
    }

    /// The server's last lines, oldest first.
    pub(super) fn last_lines(&self) -> String {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.last.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// Forgets the last lines, because another server starts.
    pub(super) fn forget_last_lines(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last.clear();
    }

    /// Copies a stream to the log, until the stream ends. It goes on reading even if the disk is full: a full
    /// pipe would block the server.
    pub(super) fn follow(&self, stream: impl Read + Send + 'static) -> thread::JoinHandle<()> {
        let log = self.clone();
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            loop {
                line.clear();
                match (&mut stream).take(LONGEST_PIECE).read_until(b'\n', &mut line) {
                    // Not even a panic may end the reading.
                    Ok(1..) => drop(panics::catch_as_none(|| {
                        log.0.lock().unwrap_or_else(PoisonError::into_inner).add(&line);
                    })),
                    Ok(0) | Err(_) => return,
                }
            }
        })
    }
}

impl Inner {
    fn add(&mut self, line: &[u8]) {
        if self.last.len() == KEPT_LINES {
            self.last.pop_front();
        }
        self.last.push_back(String::from_utf8_lossy(line).trim_end().to_owned());
        if self.size >= LARGEST_FILE {
            self.file = None;
            let _ = fs::rename(&self.path, older(&self.path));
        }
        if self.file.is_none() {
            // The log may contain statements of clients, so only its owner may read it.
            self.file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path).ok();
            self.size = self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.len());
        }
        if let Some(file) = &mut self.file {
            self.size += line.len() as u64;
            let _ = file.write_all(line);
        }
    }
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_stay_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("postgres.log");
        let log = Log::new(path.clone());
        let lines = std::io::repeat(b'x').take(3 * LARGEST_FILE + LARGEST_FILE / 2);
        log.follow(lines).join().unwrap();
        log.follow(&b"first\nlast\n"[..]).join().unwrap();
        let sizes: Vec<u64> = [&path, &older(&path)].map(|path| fs::metadata(path).unwrap().len()).into();
        assert!(sizes.iter().all(|size| (1..=LARGEST_FILE + LONGEST_PIECE).contains(size)), "{sizes:?}");
        assert!(log.last_lines().ends_with("first\nlast"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_restart_appends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("postgres.log");
        for line in ["one\n", "two\n"] {
            Log::new(path.clone()).follow(line.as_bytes()).join().unwrap();
        }
        assert_eq!(fs::read_to_string(path).unwrap(), "one\ntwo\n");
    }
}
