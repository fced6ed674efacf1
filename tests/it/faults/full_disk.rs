//! A database whose disk is full.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::{ANSWERED_WITHIN, Place, eventually};
use crate::support::{Database, Server};

/// A small file system; dropping this unmounts it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` if this user may not mount.
    fn mount(name: &str, mebibytes: u32) -> Option<Self> {
        let dir = std::env::temp_dir().join(format!("coulomb-it-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let options = format!("size={mebibytes}m,mode=0755");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&dir).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(dir));
        }
        let _ = std::fs::remove_dir(&dir);
        None
    }

    /// Fills the rest of the disk.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = std::fs::File::create(&path).expect("a file");
        let block = vec![1; 4096];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        path
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Needs the right to mount, which root has; else the test is skipped.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_database_loses_nothing() {
    let Some(disk) = SmallDisk::mount("disk", 256) else {
        println!("skipped: this user may not mount a small file system");
        return;
    };
    let server = Server::start_in(&disk.path().join("server"));
    let mut place = Place::on(Database::at(&server.url), &[]).await;
    place.until_each_done(0).await;
    let filler = disk.fill();
    let (mut stored, mut refused, mut n) = (1, 0, 1);
    let begun = Instant::now();
    while refused < 20 {
        // A batch that needs disk space for its rows.
        let events: Vec<_> = (0..500).map(|k| place.event(&format!("{n}-{k}"), 1)).collect();
        let asked = Instant::now();
        let (status, answer) = place.post("/v1/usage", &serde_json::json!(events)).await;
        assert!(asked.elapsed() < ANSWERED_WITHIN, "answered after {:?}", asked.elapsed());
        match status {
            200 => stored += 500,
            503 => refused += 1,
            _ => panic!("{status} {answer}"),
        }
        assert_eq!(place.daemon.get_text("/healthz").await.0, 200);
        assert!(begun.elapsed().as_secs() < 180, "{stored} events were stored, the disk is not full");
        n += 1;
    }
    // SIGTERM ends a restarting daemon too while the disk is full.
    std::fs::remove_file(filler).expect("removed");
    place.until_each_done(n).await;
    stored += 1;
    place.daemon.projected().await;
    let records = place.database.number("SELECT count(*) FROM usage_records WHERE source = 't'");
    assert!(records >= stored, "{stored} were acknowledged, {records} are there");
    assert_eq!(place.database.unbalanced(), [] as [String; 0]);

    let filler = disk.fill();
    let begun = Instant::now();
    assert!(place.daemon.stop().is_some());
    assert!(begun.elapsed().as_secs() < 30, "ended after {:?}", begun.elapsed());
    std::fs::remove_file(filler).expect("removed");
    place.daemon = crate::support::Daemon::start(&place.database);
    eventually("it is ready", || place.database.number("SELECT count(*) FROM orgs") > 0).await;
    place.until_each_done(n + 1).await;
    assert_eq!(place.database.unbalanced(), [] as [String; 0]);
}
