//! PostgreSQL from the packages of Debian and similar systems. Root installs them; other users unpack them.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::cluster::remove_all;
use super::find::OLDEST;
use super::install::{announce, missing, system};
use super::stop::Stop;
use super::{EmbeddedError, Result, cannot, tool};

/// A file that postgresql-common reads when it is installed; without it, it creates and starts a cluster.
const CREATECLUSTER: &str = "/etc/postgresql-common/createcluster.conf";
/// An unpacked root in the cache has this name and the version.
const ROOT_PREFIX: &str = "postgresql-";

/// Arguments that make apt-get list what it would install.
const SIMULATE: &str =
    "-s -o APT::Get::Show-User-Simulation-Note=no --no-install-recommends install postgresql";

/// A package to install.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Package {
    name: String,
    version: String,
}

/// Installs the system's package as root; the system creates no cluster of its own.
pub(super) fn install(stop: &Stop) -> Result<()> {
    announce("installing the package `postgresql` with apt-get, without a cluster of the system");
    let apt = |arguments: &str| {
        let mut apt = system("/usr/bin/apt-get");
        // Keep a changed configuration file (createcluster.conf) without asking.
        apt.env("UCF_FORCE_CONFFOLD", "1").args("-q -y -o DPkg::Lock::Timeout=120".split(' '));
        apt.args(arguments.split(' '));
        apt
    };
    let updated = tool::must("updating the package lists", &mut apt("update"), Some(stop));
    select(&mut apt(SIMULATE), &updated, stop)?.ok_or_else(missing)?;
    let conf = Path::new(CREATECLUSTER);
    if !conf.exists() {
        fs::create_dir_all("/etc/postgresql-common")
            .and_then(|()| fs::write(conf, "create_main_cluster = false\n"))
            .map_err(cannot("write", conf))?;
    }
    // Without `stop`: a killed dpkg leaves half a package.
    let mut install = apt("--no-install-recommends install postgresql");
    tool::must("installing the package `postgresql`", &mut install, None).map(drop)
}

/// The unpacked roots in a cache directory, newest name first.
pub(super) fn roots(cache: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    let mut roots: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(ROOT_PREFIX))
        .map(|entry| entry.path())
        .collect();
    roots.sort_unstable_by(|a, b| b.cmp(a));
    roots
}

/// Downloads the packages of the server and of missing libraries, and unpacks them into the cache. apt checks
/// the signatures. The system's own package lists and locks stay unchanged.
pub(super) fn unpack(cache: &Path, stop: &Stop) -> Result<()> {
    if !Path::new("/usr/share/zoneinfo/UTC").exists() {
        // Debian's server looks for time zones only there.
        return Err(EmbeddedError::new(
            "PostgreSQL cannot run here because the system has no time zones in /usr/share/zoneinfo: install \
             the package `tzdata`, or set DATABASE_URL to a server that runs elsewhere",
        ));
    }
    let before = roots(cache);
    let _lock = lock(&cache.join("install.lock"), stop)?;
    if roots(cache) != before {
        return Ok(()); // Another process has done it meanwhile.
    }
    announce(format_args!("downloading its packages with apt-get into {}, about 100 MB", cache.display()));
    let work = cache.join("install.partial");
    remove_all(&work)?;
    let (archives, root) = (work.join("cache/archives"), work.join("root"));
    for dir in [work.join("lists/partial"), archives.join("partial"), root.clone()] {
        fs::create_dir_all(&dir).map_err(cannot("create", &dir))?;
    }
    let server = download(&work, &archives, stop)?;
    for archive in fs::read_dir(&archives).map_err(cannot("read", &archives))?.flatten() {
        if archive.path().extension().is_some_and(|extension| extension == "deb") {
            let mut dpkg = system("/usr/bin/dpkg");
            tool::must("unpacking PostgreSQL", dpkg.arg("-x").arg(archive.path()).arg(&root), Some(stop))?;
        }
    }
    let file_name_char = |c: char| if c.is_ascii_alphanumeric() || ".-+".contains(c) { c } else { '_' };
    let version: String = server.version.chars().map(file_name_char).collect();
    let target = cache.join(format!("{ROOT_PREFIX}{version}-{}", std::env::consts::ARCH));
    remove_all(&target)?;
    fs::rename(&root, &target).map_err(cannot("move PostgreSQL to", &target))?;
    remove_all(&work)
}

/// Downloads the needed packages into `archives`, with apt's lists and cache in `work`. Returns the server's
/// package.
fn download(work: &Path, archives: &Path, stop: &Stop) -> Result<Package> {
    let lists = format!("Dir::State::Lists={}", work.join("lists").display());
    let cache = format!("Dir::Cache={}", work.join("cache").display());
    let apt = |arguments: &str| {
        let mut apt = system("/usr/bin/apt-get");
        apt.current_dir(archives)
            .args("-q -y -o Debug::NoLocking=true -o Acquire::Languages=none".split(' '));
        apt.args(["-o", &lists, "-o", &cache]).args(arguments.split(' '));
        apt
    };
    let updated = tool::must("updating the package lists", &mut apt("update"), Some(stop));
    let mut selected = select(&mut apt(SIMULATE), &updated, stop)?;
    if selected.is_none() {
        // The system lists the package as installed, but its programs are gone. Assume nothing is installed.
        let nothing = work.join("status");
        File::create(&nothing).map_err(cannot("create", &nothing))?;
        let mut simulation = apt(SIMULATE);
        simulation.arg("-o").arg(format!("Dir::State::Status={}", nothing.display()));
        selected = select(&mut simulation, &updated, stop)?;
    }
    let (server, packages) = selected.ok_or_else(missing)?;
    let names = packages.iter().filter(|package| is_needed(&package.name)).map(|package| &package.name);
    tool::must("downloading PostgreSQL", apt("download").args(names), Some(stop))?;
    Ok(server)
}

/// Asks apt what it would install; returns the server's package and all packages. `None`: apt considers the
/// server installed.
fn select(
    simulation: &mut Command,
    updated: &Result<String>,
    stop: &Stop,
) -> Result<Option<(Package, Vec<Package>)>> {
    let looking = "looking for the package `postgresql`";
    // If apt could not fetch its lists, it reports success but does not know the package. So show that error.
    let output = tool::must(looking, simulation, Some(stop)).map_err(|error| match updated {
        Err(unreachable) => unreachable.clone(),
        Ok(lists) => EmbeddedError::new(format!("{error}\n{}", tool::last_lines(lists, 4))),
    })?;
    let packages = parse(&output);
    let of_server = |package: &&Package| major(&package.name, "postgresql-").is_some();
    let Some(server) = packages.iter().find(of_server).cloned() else { return Ok(None) };
    match major(&server.name, "postgresql-") {
        Some(major) if major < OLDEST => Err(EmbeddedError::new(format!(
            "the system's packages offer PostgreSQL {major}, and {OLDEST} or newer is needed: install it \
             from the packages of the PostgreSQL project (PGDG), or set DATABASE_URL to a server that runs \
             elsewhere"
        ))),
        _ => Ok(Some((server, packages))),
    }
}

/// Parses lines such as `Inst libpq5 [15.1-1] (15.18-0+deb12u1 Debian:12/stable [amd64])`; the version in
/// brackets is the installed one, if any.
fn parse(simulation: &str) -> Vec<Package> {
    let packages = simulation.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
        let version = rest.split_once('(')?.1.split_whitespace().next()?;
        Some(Package { name: name.to_owned(), version: version.to_owned() })
    });
    packages.collect()
}

/// Whether the unpacked server needs this package. It needs neither Debian's scripts around the server, nor
/// the compiler for `jit`, which is off, nor the C library, which works only with the system's loader.
fn is_needed(package: &str) -> bool {
    let superfluous = ["libllvm", "libz3", "libperl", "libjson-perl", "libgdbm", "libc6", "libc-"];
    major(package, "postgresql-").or(major(package, "postgresql-client-")).is_some()
        || package.starts_with("lib") && !superfluous.iter().any(|prefix| package.starts_with(prefix))
}

fn major(package: &str, prefix: &str) -> Option<u32> {
    package.strip_prefix(prefix)?.parse().ok()
}

/// Takes the lock; waits while another process downloads the same.
fn lock(path: &Path, stop: &Stop) -> Result<File> {
    let file = File::options().create(true).append(true).open(path).map_err(cannot("open", path))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(cannot("lock", path)(error)),
            Err(TryLockError::WouldBlock) if stop.requested() => {
                return Err(EmbeddedError::new("stopped on request"));
            }
            Err(TryLockError::WouldBlock) => stop.pause(Duration::from_millis(200)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIMULATION: &str = "\
NOTE: This is only a simulation!
Inst libllvm14 (1:14.0.6-12 Debian:12.15/oldstable [amd64])
Inst libpq5 [15.1-1] (15.18-0+deb12u1 Debian:12.15/oldstable [amd64])
Inst postgresql-common (248+deb12u1 Debian:12.15/oldstable [all])
Inst postgresql-client-15 (15.18-0+deb12u1 Debian:12.15/oldstable [amd64])
Inst postgresql-15 (15.18-0+deb12u1 Debian:12.15/oldstable [amd64])
Inst postgresql (15+248+deb12u1 Debian:12.15/oldstable [all])
Conf postgresql (15+248+deb12u1 Debian:12.15/oldstable [all])
";

    fn simulate(output: &str) -> Result<Option<(Package, Vec<Package>)>> {
        select(Command::new("/usr/bin/printf").args(["%s", output]), &Ok(String::new()), &Stop::default())
    }

    #[test]
    fn takes_the_server_and_its_libraries() {
        let (server, packages) = simulate(SIMULATION).unwrap().unwrap();
        assert_eq!(server, Package { name: "postgresql-15".into(), version: "15.18-0+deb12u1".into() });
        let names = packages.iter().map(|package| package.name.as_str()).filter(|name| is_needed(name));
        assert_eq!(names.collect::<Vec<_>>(), ["libpq5", "postgresql-client-15", "postgresql-15"]);
        assert!(
            !is_needed("libc6") && !is_needed("locales") && is_needed("libicu72") && is_needed("libssl3t64")
        );
    }

    #[test]
    fn refuses_an_old_version_before_installing_it() {
        let error = simulate(&SIMULATION.replace("-15 ", "-13 ")).unwrap_err().to_string();
        assert!(error.contains("offer PostgreSQL 13") && error.contains("PGDG"), "{error}");
        assert_eq!(simulate("").unwrap(), None);
    }

    #[test]
    fn says_that_the_lists_could_not_be_fetched() {
        let unreachable = Err(EmbeddedError::new("updating the package lists failed:\nno network"));
        let mut unknown = Command::new("/bin/sh");
        unknown.args(["-c", "echo E: Unable to locate package; exit 100"]);
        for updated in [unreachable, Ok("W: Failed to fetch: no network\n".to_owned())] {
            let error = select(&mut unknown, &updated, &Stop::default()).unwrap_err().to_string();
            assert!(error.contains("no network"), "{error}");
        }
    }
}
