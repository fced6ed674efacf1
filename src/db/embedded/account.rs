//! The account that runs the server. PostgreSQL refuses to run as root, so root runs it as another user.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{EmbeddedError, Result, cannot};

/// An unprivileged user that root runs the server as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// The account of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Account {
    /// The account of this process.
    Own { uid: u32 },
    /// This process is root, and runs the server as another user.
    Other(User),
}

impl Account {
    /// The account for a data directory: the owner of the cluster or of the directory. If this process is
    /// root and neither exists: `postgres`, else `nobody`.
    pub(super) fn for_data(data_dir: &Path) -> Result<Account> {
        let own = rustix::process::geteuid().as_raw();
        let pgdata = data_dir.join("pgdata");
        let owner = fs::metadata(&pgdata).ok();
        if own != 0 {
            return match owner {
                Some(owner) if owner.uid() != own => Err(EmbeddedError::new(format!(
                    "{} belongs to the user with id {}, so run coulomb as this user or set COULOMB_DATA_DIR \
                     to another directory",
                    pgdata.display(),
                    owner.uid()
                ))),
                _ => Ok(Account::Own { uid: own }),
            };
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let owner = owner.or_else(|| fs::metadata(data_dir).ok()).filter(|owner| owner.uid() != 0);
        choose(&users, owner.as_ref().map(|owner| (owner.uid(), owner.gid()))).map(Account::Other).ok_or_else(
            || {
                EmbeddedError::new(
                    "PostgreSQL does not run as root and there is no user `postgres` or `nobody` to run it \
                     as: create one, or start coulomb as an ordinary user",
                )
            },
        )
    }

    pub(super) fn uid(&self) -> u32 {
        match self {
            Account::Own { uid } => *uid,
            Account::Other(user) => user.uid,
        }
    }

    /// Makes the command run under this account. When root changes the user, the standard library also drops
    /// the supplementary groups.
    pub(super) fn apply(&self, command: &mut Command) {
        if let Account::Other(user) = self {
            command.uid(user.uid).gid(user.gid);
        }
    }

    /// Makes the account the owner of a file or directory.
    pub(super) fn make_owner_of(&self, path: &Path) -> Result<()> {
        match self {
            Account::Own { .. } => Ok(()),
            Account::Other(user) => chown(path, Some(user.uid), Some(user.gid))
                .map_err(cannot(format_args!("give {} the directory", user.name), path)),
        }
    }

    /// Checks that the account can enter the directory: a parent with mode 0700 would prevent it.
    pub(super) fn check_access(&self, dir: &Path) -> Result<()> {
        let Account::Other(user) = self else { return Ok(()) };
        let mut probe = Command::new("/bin/sh");
        probe.args(["-c", ":"]).current_dir(dir).stdin(Stdio::null());
        self.apply(&mut probe);
        match probe.status() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let closed =
                    dir.ancestors().filter(|at| fs::metadata(at).is_ok_and(|at| !can_enter(user, &at)));
                let closed = closed.last().unwrap_or(dir);
                Err(EmbeddedError::new(format!(
                    "the user {}, who runs PostgreSQL because root may not, cannot enter {}: set \
                     COULOMB_DATA_DIR to a directory whose parents are open to it, such as /var/lib/coulomb",
                    user.name,
                    closed.display()
                )))
            }
            // Without a shell we cannot check: the server itself will fail with a clear error.
            _ => Ok(()),
        }
    }
}

fn can_enter(user: &User, dir: &Metadata) -> bool {
    let shift = match dir {
        dir if dir.uid() == user.uid => 6,
        dir if dir.gid() == user.gid => 3,
        _ => 0,
    };
    dir.mode() >> shift & 1 == 1
}

/// Chooses the user from the text of `/etc/passwd`: the owner (uid, gid) of the data, else a usual name.
fn choose(passwd: &str, owner: Option<(u32, u32)>) -> Option<User> {
    let users: Vec<User> = passwd.lines().filter_map(parse).collect();
    if let Some((uid, gid)) = owner {
        let named = users.into_iter().find(|user| user.uid == uid);
        return named.or_else(|| Some(User { name: uid.to_string(), uid, gid }));
    }
    ["postgres", "_postgres", "nobody"]
        .iter()
        .find_map(|name| users.iter().find(|user| user.name == *name && user.uid != 0))
        .cloned()
}

/// Parses a line `name:password:uid:gid:…`, see passwd(5). macOS writes the ids of `nobody` as -2.
fn parse(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let mut ids = fields.skip(1).map_while(|id| id.parse::<i64>().ok()).map(|id| id as u32);
    Some(User { name, uid: ids.next()?, gid: ids.next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/bash\n# comment\nnobody:x:65534:65534::/:\n\
        postgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash\nalice:x:1000:1001::/home/alice:\n";

    #[test]
    fn prefers_postgres_then_nobody() {
        let chosen = choose(USERS, None).unwrap();
        assert_eq!((chosen.name.as_str(), chosen.uid, chosen.gid), ("postgres", 101, 104));
        let without = USERS.replace("postgres:", "pg:");
        assert_eq!(choose(&without, None).unwrap().name, "nobody");
        assert_eq!(choose("root:x:0:0::/:\n", None), None);
        assert_eq!(choose("postgres:x:0:0::/:\n", None), None, "another name of root is no help");
    }

    #[test]
    fn keeps_the_owner_of_existing_data() {
        assert_eq!(
            choose(USERS, Some((1000, 5))).unwrap(),
            User { name: "alice".into(), uid: 1000, gid: 1001 }
        );
        assert_eq!(choose(USERS, Some((7, 8))).unwrap(), User { name: "7".into(), uid: 7, gid: 8 });
    }

    #[test]
    fn reads_negative_ids() {
        let nobody = parse("nobody:*:-2:-2:Unprivileged User:/var/empty:/usr/bin/false").unwrap();
        assert_eq!(nobody.uid, u32::MAX - 1);
    }
}
