//! Ends processes that an earlier guard or a killed postmaster has left on our cluster.
//!
//! The caller has the lock of the data directory, so nobody uses a process that still runs there.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::account::Account;
use super::{EmbeddedError, Result, print_line};

/// Ends the server's processes: the postmaster by an immediate shutdown, the rest by force. The next start
/// recovers, and no commit is lost.
pub(super) fn end(pgdata: &Path, account: &Account) -> Result<()> {
    let file = pgdata.join("postmaster.pid");
    let postmaster = fs::read_to_string(&file).ok().and_then(|text| pid(text.lines().next()?));
    let running = |pid| running_in(pgdata, account, pid);
    if running(postmaster).is_empty() {
        // A starting server would think that any process with this id is a postmaster, even one that got the
        // number after a reboot. No server runs here, so the file is outdated.
        if postmaster.is_some_and(exists) && cfg!(target_os = "linux") {
            let _ = fs::remove_file(&file);
        }
        return Ok(());
    }
    if let Some(postmaster) = postmaster.filter(|pid| running(Some(*pid)).contains(pid)) {
        print_line(format_args!(
            "stopping the PostgreSQL server (process {}) that an earlier coulomb left behind",
            postmaster.as_raw_nonzero()
        ));
        let _ = kill_process(postmaster, Signal::QUIT);
        let until = Instant::now() + Duration::from_secs(10);
        while !running(Some(postmaster)).is_empty() {
            if Instant::now() > until {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
    kill(pgdata, account, postmaster)
}

/// Ends the `initdb` of a killed guard. The directory is not a cluster yet, so nothing can be lost.
pub(super) fn end_initdb(partial: &Path, account: &Account) -> Result<()> {
    kill(partial, account, None)
}

fn kill(dir: &Path, account: &Account, postmaster: Option<Pid>) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        // Look again each time: a process may have started another one just before it died.
        let running = running_in(dir, account, postmaster);
        let Some(first) = running.first() else { return Ok(()) };
        if Instant::now() > until {
            return Err(EmbeddedError::new(format!(
                "a PostgreSQL process still runs on {} and does not end (process {}): end it, then start \
                 again",
                dir.display(),
                first.as_raw_nonzero()
            )));
        }
        for pid in running {
            let _ = kill_process(pid, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn pid(text: &str) -> Option<Pid> {
    // Negative while a single-user server runs.
    Pid::from_raw(text.trim().parse::<i32>().ok()?.abs())
}

/// Whether a process with this number exists.
pub(super) fn process_exists(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(exists)
}

fn exists(pid: Pid) -> bool {
    rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
}

/// The server processes on the cluster, and `initdb`: the working directory of each is the data directory.
#[cfg(target_os = "linux")]
fn running_in(dir: &Path, account: &Account, _postmaster: Option<Pid>) -> Vec<Pid> {
    // The server's account runs this: in a container root may not inspect other users' processes, see
    // ptrace(2).
    let mut ask = std::process::Command::new("/bin/sh");
    ask.args(["-c", "for p in /proc/[0-9]*; do [ $p/cwd -ef \"$1\" ] && echo ${p#/proc/}; done; :", "sh"]);
    ask.arg(dir).env_clear().current_dir("/").stdin(std::process::Stdio::null());
    account.apply(&mut ask);
    let output = ask.output().map(|output| output.stdout).unwrap_or_default();
    let is_server = |pid: &Pid| {
        let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default();
        ["postgres", "initdb"].contains(&name.trim())
    };
    String::from_utf8_lossy(&output).lines().filter_map(pid).filter(is_server).collect()
}

/// The postmaster only: its command line contains the data directory.
#[cfg(not(target_os = "linux"))]
fn running_in(pgdata: &Path, _account: &Account, postmaster: Option<Pid>) -> Vec<Pid> {
    let Some(pid) = postmaster else { return vec![] };
    let number = pid.as_raw_nonzero().to_string();
    let output = std::process::Command::new("ps").args(["-o", "command=", "-p", &number]).output();
    let line = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    match line.contains("postgres") && line.contains(&*pgdata.to_string_lossy()) {
        true => vec![pid],
        false => vec![],
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn own() -> Account {
        Account::Own { uid: rustix::process::geteuid().as_raw() }
    }

    #[test]
    fn a_recycled_process_id_is_no_postmaster() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("postmaster.pid");
        fs::write(&file, format!("{}\n{}\n", std::process::id(), dir.path().display())).unwrap();
        end(dir.path(), &own()).unwrap();
        assert!(!file.exists());
    }

    #[test]
    fn only_servers_in_the_directory_are_ended() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().canonicalize().unwrap();
        // A shell of somebody in this directory, and a process with the name `postgres`.
        let sleep =
            |program: &Path| std::process::Command::new(program).arg("60").current_dir(&dir).spawn().unwrap();
        fs::copy("/bin/sleep", dir.join("postgres")).unwrap();
        let (mut shell, mut server) = (sleep(Path::new("/bin/sleep")), sleep(&dir.join("postgres")));
        end(&dir, &own()).unwrap();
        let ended = server.wait().unwrap();
        assert!(!ended.success());
        assert_eq!(shell.try_wait().unwrap(), None);
        shell.kill().unwrap();
        shell.wait().unwrap();
    }
}
