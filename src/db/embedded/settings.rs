//! The server's settings: fixed ones on its command line, and defaults that the operator may change.

use std::fs;
use std::path::Path;

const MIB: u64 = 1024 * 1024;

/// The text that replaces the `postgresql.conf` of `initdb`. Only the kind of shared memory stays: `initdb`
/// has tested which kind works on this machine.
pub(super) fn postgresql_conf(of_initdb: &str) -> String {
    let memory =
        of_initdb.lines().find(|line| line.starts_with("dynamic_shared_memory_type")).unwrap_or_default();
    format!(
        "# The private PostgreSQL server of coulomb.\n\
         # Defaults for this machine, written anew at every start:\n\
         include_if_exists 'coulomb.conf'\n\
         # Settings below override them. Durability, sockets, logging and the time zone are fixed by \
         coulomb.\n\
         {memory}\n"
    )
}

/// Settings that neither a file nor ALTER SYSTEM can change, because the command line wins.
pub(super) fn fixed(socket_dir: &Path) -> Vec<String> {
    let mut arguments = vec![];
    let sockets = format!("unix_socket_directories={}", socket_dir.display());
    for setting in [
        // We acknowledge after a commit, so a commit must be on the disk.
        "fsync=on",
        "full_page_writes=on",
        "synchronous_commit=on",
        // Only the socket's owner can connect, and only through the socket.
        "listen_addresses=",
        "port=5432",
        &sockets,
        "unix_socket_permissions=0700",
        // The guard reads standard error and limits the size of the log.
        "logging_collector=off",
        "log_destination=stderr",
        "log_line_prefix=%m [%p] %q%u %a ",
        "log_timezone=UTC",
        "timezone=UTC",
    ] {
        arguments.extend(["-c".to_owned(), setting.to_owned()]);
    }
    arguments
}

/// The text of `coulomb.conf` for a machine with `memory` bytes.
pub(super) fn defaults(memory: u64, lz4: bool) -> String {
    // An eighth of the memory: usage looks its keys up in an index of all keys.
    let shared_buffers = (memory / 8 / MIB).clamp(128, 2048);
    let cache = (memory / 2 / MIB).max(256);
    let wal_compression = if lz4 { "lz4" } else { "on" };
    format!(
        "# Written by coulomb at every start; put your own settings into postgresql.conf.\n\
         max_connections = 100\n\
         shared_buffers = {shared_buffers}MB\n\
         effective_cache_size = {cache}MB\n\
         huge_pages = off\n\
         max_wal_size = 2GB\n\
         wal_compression = {wal_compression}\n\
         random_page_cost = 1.1\n\
         jit = off\n"
    )
}

/// Bytes of memory that this process may use: of the machine, or of the control group if that is less. 1 GiB
/// if neither is known.
pub(super) fn memory() -> u64 {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let machine = machine_memory(&read("/proc/meminfo"));
    limits
        .into_iter()
        .filter_map(|path| read(path).trim().parse().ok())
        .chain(machine)
        .min()
        .unwrap_or(1024 * MIB)
}

fn machine_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_memory() {
        assert!(defaults(1024 * MIB, true).contains("shared_buffers = 128MB\n"));
        let large = defaults(8192 * MIB, false);
        assert!(large.contains("shared_buffers = 1024MB\neffective_cache_size = 4096MB\n"));
        assert!(large.contains("wal_compression = on\n"));
    }

    #[test]
    fn the_kind_of_shared_memory_is_kept() {
        let conf =
            postgresql_conf("max_connections = 100\ndynamic_shared_memory_type = sysv\t# tried\n#port = 1\n");
        assert!(conf.ends_with("coulomb.\ndynamic_shared_memory_type = sysv\t# tried\n"), "{conf}");
        assert!(!conf.contains("max_connections"));
    }

    #[test]
    fn reads_meminfo() {
        assert_eq!(machine_memory("MemTotal:       24682416 kB\nMemFree: 1 kB\n"), Some(24682416 * 1024));
        assert_eq!(machine_memory(""), None);
        assert!(memory() >= 64 * MIB);
    }
}
