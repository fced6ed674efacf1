//! Runs a tool of PostgreSQL or of the system until it ends; keeps its last lines for an error message.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::stop::Stop;
use super::{EmbeddedError, Result};

/// How many bytes of output are kept, from the end.
const KEPT: u64 = 256 * 1024;

/// The output of a tool on both streams, at most its last [`KEPT`] bytes.
pub(super) struct Output {
    pub(super) success: bool,
    pub(super) text: String,
}

/// Runs the command. A requested stop kills the tool; without `stop` it always runs to its end.
pub(super) fn run(command: &mut Command, stop: Option<&Stop>) -> io::Result<Output> {
    let mut capture = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(capture.try_clone()?).stderr(capture.try_clone()?);
    let mut child = command.spawn()?;
    let status = match stop {
        None => child.wait()?,
        Some(stop) => loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if stop.requested() {
                child.kill()?;
                child.wait()?;
                return Err(io::Error::new(io::ErrorKind::Interrupted, "stopped on request"));
            }
            stop.sleep(Duration::from_millis(20));
        },
    };
    let length = capture.seek(SeekFrom::End(0))?;
    capture.seek(SeekFrom::Start(length.saturating_sub(KEPT)))?;
    let mut bytes = Vec::new();
    capture.read_to_end(&mut bytes)?;
    Ok(Output { success: status.success(), text: String::from_utf8_lossy(&bytes).into_owned() })
}

/// As [`run`], but a failure of the tool is an error that says what failed and how.
pub(super) fn must(what: &str, command: &mut Command, stop: Option<&Stop>) -> Result<String> {
    match run(command, stop) {
        Ok(Output { success: true, text }) => Ok(text),
        Ok(output) => Err(EmbeddedError::new(format!("{what} failed:\n{}", last_lines(&output.text, 8)))),
        Err(error) => Err(EmbeddedError::new(format!(
            "{what} failed: {}: {error}",
            Path::new(command.get_program()).display()
        ))),
    }
}

/// The last `count` lines that are not empty.
pub(super) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn keeps_the_last_lines_of_both_streams() {
        let error = must("it", &mut shell("seq 1 100; echo; echo broken >&2; exit 3"), None).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("it failed:\n94\n") && message.ends_with("100\nbroken"), "{message}");
    }

    #[test]
    fn a_stop_ends_the_tool() {
        let stop = Stop::default();
        let at = std::time::Instant::now();
        let other = stop.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            other.request();
        });
        let error = run(&mut shell("exec sleep 30"), Some(&stop)).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        assert!(at.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn names_the_missing_tool() {
        let error = must("making the cluster", &mut Command::new("/nowhere/initdb"), None).unwrap_err();
        assert!(error.to_string().contains("/nowhere/initdb"), "{error}");
    }
}
