//! `coulomb export …`

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use diesel::pg::PgConnection;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::keys::actor;
use super::{Failure, Usage, as_usage, open};
use crate::audit::Author;
use crate::battery::upkeep;
use crate::config::Config;
use crate::db::{self, Scope, migrate};
use crate::error::Error;
use crate::export::{
    self, AuditParams, BatteryParams, BreakdownExportParams, ChargeParams, DriftParams, Ended, ExportKind,
    ExportParams, ExportRequest, Output, Totals, UsageParams,
};
use crate::time::Clock;

/// What to export. `--out` works alike in all of them.
#[derive(Subcommand)]
pub(super) enum ExportCommand {
    /// Invoices; with --of also their lines, payments or refunds
    ///
    /// With --out the file gets its name only when it is complete, and FILE.totals.json beside it holds the
    /// number of rows and the sums per currency. Without --out the rows go to standard output and the totals
    /// to standard error.
    Invoices(Box<ExportArgs>),
    /// Entries of the batteries' ledgers
    Battery(Box<BatteryArgs>),
    /// Entries of the audit log
    Audit(Box<AuditArgs>),
    /// Usage charged through Stripe, with the state of each charge
    StripeCharges(Box<ChargeArgs>),
    /// Usage by day or month of all orgs; with --columns focus as FinOps tools read it (FOCUS 1.2)
    Usage(Box<UsageArgs>),
    /// Usage by hour, day or month, org, meter, member, subject, dimensions and labels
    Breakdown(Box<BreakdownArgs>),
    /// Differences between the mirrors and Stripe
    Drift(Box<DriftArgs>),
}

#[derive(Args)]
pub(super) struct ExportArgs {
    /// The file to write; without --format its extension names the format
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    params: ExportParams,
}

#[derive(Args)]
pub(super) struct BatteryArgs {
    /// The file to write; without --format its extension names the format
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    params: BatteryParams,
}

#[derive(Args)]
pub(super) struct AuditArgs {
    /// The file to write; without --format its extension names the format
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    params: AuditParams,
}

#[derive(Args)]
pub(super) struct ChargeArgs {
    /// The file to write; without --format its extension names the format
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    params: ChargeParams,
}

#[derive(Args)]
pub(super) struct UsageArgs {
    /// The file to write; without --format its extension names the format
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    params: UsageParams,
}

#[derive(Args)]
pub(super) struct BreakdownArgs {
    /// The file to write; without --format its extension names the format
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    params: BreakdownExportParams,
}

#[derive(Args)]
pub(super) struct DriftArgs {
    /// The file to write; without --format its extension names the format
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    params: DriftParams,
}

pub(super) fn run(config: &Config, command: ExportCommand) -> Result<(), Failure> {
    let format_of = |out: &Option<PathBuf>| {
        let extension = out.as_deref().and_then(Path::extension).and_then(|extension| extension.to_str());
        extension.map(str::to_owned)
    };
    let now = Clock::system().now();
    let (request, out) = match command {
        ExportCommand::Invoices(args) => {
            let ExportArgs { out, mut params } = *args;
            params.format = params.format.or_else(|| format_of(&out));
            (params.check(now).map_err(as_usage)?, out)
        }
        ExportCommand::Battery(args) => {
            let BatteryArgs { out, mut params } = *args;
            params.format = params.format.or_else(|| format_of(&out));
            (params.check(now).map_err(as_usage)?, out)
        }
        ExportCommand::Audit(args) => {
            let AuditArgs { out, mut params } = *args;
            params.format = params.format.or_else(|| format_of(&out));
            (params.check(now).map_err(as_usage)?, out)
        }
        ExportCommand::Drift(args) => {
            let DriftArgs { out, mut params } = *args;
            params.format = params.format.or_else(|| format_of(&out));
            (params.check(now).map_err(as_usage)?, out)
        }
        ExportCommand::StripeCharges(args) => {
            let ChargeArgs { out, mut params } = *args;
            params.format = params.format.or_else(|| format_of(&out));
            (params.check(now).map_err(as_usage)?, out)
        }
        ExportCommand::Breakdown(args) => {
            let BreakdownArgs { out, mut params } = *args;
            params.format = params.format.or_else(|| format_of(&out));
            (params.check(now).map_err(as_usage)?, out)
        }
        ExportCommand::Usage(args) => {
            let UsageArgs { out, mut params } = *args;
            params.format = params.format.or_else(|| format_of(&out));
            (params.check(now).map_err(as_usage)?, out)
        }
    };
    let target = out.as_deref().map(Target::of).transpose()?;
    let mut database = open::Database::open(config)?;
    let roles = migrate::roles_are_usable(&mut database.conn)?;
    let conn = &mut database.conn;
    if request.of == ExportKind::Battery {
        // The file includes what has become due until now.
        while db::run_once(conn, |conn| upkeep::post_due(conn, now))? > 0 {}
    }
    let totals = match target {
        Some(Target::File(path)) => return to_file(conn, roles, &request, &path),
        Some(Target::Other(path, file)) => {
            let buffered = BufWriter::with_capacity(1 << 20, file);
            write(conn, roles, &request, || Ok(Box::new(buffered)))
                .map_err(|error| format!("{} was not written completely: {error}", path.display()))?
        }
        None => write(conn, roles, &request, || Ok(Box::new(io::stdout())))?,
    };
    eprintln!("{}", totals.json()?);
    Ok(())
}

/// Where the rows go.
enum Target {
    /// A regular file, existing or new, with links followed.
    File(PathBuf),
    /// An existing device or pipe, which is written to directly.
    Other(PathBuf, File),
}

impl Target {
    /// # Errors
    /// When nothing can be written there. This is checked before anything is read.
    fn of(path: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| Usage::new(format!("{} cannot be written: {error}", path.display()));
        let kind = match fs::metadata(path) {
            Ok(found) => found.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::File(path.to_owned())),
            Err(error) => return Err(failed(error)),
        };
        if kind.is_dir() {
            return Err(Usage::new(format!("{} is a directory: --out names a file", path.display())));
        }
        let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
        if !kind.is_file() {
            return Ok(Self::Other(path.to_owned(), file));
        }
        fs::canonicalize(path).map(Self::File).map_err(failed)
    }
}

/// Writes FILE.part, then renames it, so a file of that name is always complete. An existing file keeps its
/// permissions.
fn to_file(
    conn: &mut PgConnection,
    roles: bool,
    request: &ExportRequest,
    path: &Path,
) -> Result<(), Failure> {
    let failed = |error: io::Error| format!("{} cannot be written: {error}", path.display());
    let part = beside(path, ".part");
    let rights = fs::metadata(path).ok().map(|found| found.permissions());
    let written = write(conn, roles, request, || {
        let file = File::create(&part).map_err(|error| Error::Internal(failed(error)))?;
        Ok(Box::new(BufWriter::with_capacity(1 << 20, file)))
    });
    let done = written.map_err(Failure::from).and_then(|totals| {
        let file = File::open(&part).map_err(failed)?;
        if let Some(rights) = rights {
            file.set_permissions(rights).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        fs::rename(&part, path).map_err(failed)?;
        fs::write(beside(path, ".totals.json"), totals.json()? + "\n").map_err(failed)?;
        Ok(totals)
    });
    let totals = done.inspect_err(|_| {
        // The part is useless. If it cannot be removed, its name says what it is.
        drop(fs::remove_file(&part));
    })?;
    eprintln!("{}: {} {}", path.display(), totals.rows, request.of.name());
    Ok(())
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn write<'a>(
    conn: &mut PgConnection,
    roles: bool,
    request: &ExportRequest,
    open: impl FnOnce() -> Result<Output<'a>, Error>,
) -> Result<Totals, Error> {
    let bar = ProgressBar::with_draw_target(None, target());
    let mut began = false;
    let mut written = 0;
    let begin = |totals: &Totals| {
        began = true;
        bar.set_length(totals.rows);
        let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} rows, {eta} left");
        bar.set_style(style.map_err(|error| Error::Internal(error.to_string()))?);
        open()
    };
    let wrote = |rows| {
        written = rows;
        bar.set_position(rows);
        Ok(())
    };
    let totals = export::write(conn, (Scope::Platform, roles), request, begin, wrote);
    bar.finish_and_clear();
    let totals = totals.and_then(|totals| {
        record(conn, request, Ended::Complete(&totals))?;
        Ok(totals)
    });
    totals.inspect_err(|error| {
        if began && let Err(error) = record(conn, request, Ended::BrokenOff(written, error)) {
            eprintln!("coulomb: the audit log does not have this export: {error}");
        }
    })
}

/// Writes the audit entry of an export, in the name of the user who runs it.
fn record(conn: &mut PgConnection, request: &ExportRequest, ended: Ended<'_>) -> Result<(), Error> {
    let author = Author { actor: &actor(), at: Clock::system().now(), origin: None };
    export::record(conn, Scope::Platform, request, &author, ended)
}

/// Draws a bar on a terminal only.
fn target() -> ProgressDrawTarget {
    if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_side_files_keep_the_whole_name() {
        assert_eq!(beside(Path::new("/a/b.csv"), ".part"), Path::new("/a/b.csv.part"));
    }
}
