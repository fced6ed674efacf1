//! The command line: one subcommand, one function.

mod ask;
mod audit;
mod battery;
mod close;
mod doctor;
mod export;
mod inbox;
mod invoicing;
mod journal;
mod keys;
mod meter;
mod open;
mod out;
mod plans;
mod progress;
mod rebuild;
mod running;
mod serve;
mod stripe;
mod verify;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::RangedI64ValueParser;
use clap::{CommandFactory, Parser, Subcommand};

use crate::api::openapi;
use crate::config::{Config, ConfigError};
use crate::db::embedded::{self, GuardArgs};
use crate::db::migrate::MigrateError;
use crate::error::Error;
use crate::page::MAX_LIMIT;
use crate::server::ServeError;
use crate::{db, dump, logging, panics};

/// Why a command failed: the last line on standard error. The exit code says the kind.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The command line or a setting is wrong: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

impl Usage {
    /// Boxed, since commands return a [`Failure`].
    #[allow(clippy::new_ret_no_self, reason = "commands return boxed errors")]
    fn new(problem: impl Into<String>) -> Failure {
        Box::new(Self(problem.into()))
    }
}

/// A wrong argument is an error of the command line.
fn as_usage(error: Error) -> Failure {
    match error {
        Error::Invalid { .. } => Usage::new(error.to_string()),
        error => error.into(),
    }
}

/// How many rows a list may print: as many as a page of the API may have.
fn limits() -> RangedI64ValueParser<i64> {
    clap::value_parser!(i64).range(1..=MAX_LIMIT)
}

/// The exit codes, for scripts.
const EXIT_CODES: &str = "Exit codes: 0 done; 1 it failed (the last line says why); 2 the command line or a \
    setting is wrong; 3 a check (doctor, verify) found a problem.";

/// A billing and metering daemon: one binary beside one PostgreSQL.
#[derive(Parser)]
#[command(name = "coulomb", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// TOML file with settings; environment variables override it [env: COULOMB_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is only one value")]
enum Command {
    /// Run the daemon
    ///
    /// Without DATABASE_URL it runs its own PostgreSQL in COULOMB_DATA_DIR. It migrates the schema, then
    /// listens on COULOMB_LISTEN. SIGTERM and Ctrl-C end it after it has answered the running requests.
    Serve,
    /// Bring the database schema up to this binary
    ///
    /// `serve` does this by itself. Use this command to migrate separately.
    Migrate {
        /// Only print what would be applied
        #[arg(long)]
        plan: bool,
        /// Revert the newest N migrations; refused where that destroys data
        #[arg(long, value_name = "N", conflicts_with = "plan")]
        revert: Option<usize>,
        /// With --revert: destroy the data of these migrations in the database of this name
        #[arg(long, value_name = "DATABASE", requires = "revert")]
        destroy_data_of: Option<String>,
    },
    /// List entries of the audit log, newest first, as JSON lines
    Audit(audit::AuditArgs),
    /// Make, list and revoke API keys
    #[command(subcommand)]
    Key(keys::KeyCommand),
    /// Make, list and price meters: what turns usage events into quantities
    #[command(subcommand)]
    Meter(meter::MeterCommand),
    /// Set plans from a file, or from Stripe's products
    #[command(subcommand)]
    Plans(plans::PlansCommand),
    /// Set sellers, tax rates, coupons and billing profiles of our own invoices from a file
    #[command(subcommand)]
    Invoicing(invoicing::InvoicingCommand),
    /// Show an org's battery, and grant it units
    #[command(subcommand)]
    Battery(battery::BatteryCommand),
    /// Read an account at Stripe, charge usage through it, show the inbox, and retry events
    #[command(subcommand)]
    Stripe(stripe::StripeCommand),
    /// Print all settings in force, their sources and meanings; secrets are hidden
    Config,
    /// Check database, clock, secrets and backlog, and print what to do
    Doctor,
    /// Print all derived state as canonical JSON lines
    ///
    /// One line per row, keys and rows sorted, without row ids and times of arrival: two databases that got
    /// the same input give the same bytes. Stripe objects are
    /// {"kind":"stripe_object","object":…,"id":…,"snapshot":…}.
    Dump,
    /// Compute all derived state again from its inputs, and compare it with the stored state
    ///
    /// This changes nothing, and the daemon may keep running. It prints each difference with row, field, the
    /// stored value and the computed one; the exit code is then 3. With an org or a range it compares only
    /// usage and quotas.
    Verify(verify::VerifyArgs),
    /// Rebuild derived state from its inputs
    #[command(subcommand)]
    Rebuild(rebuild::RebuildCommand),
    /// Write invoices, their lines, payments or refunds, entries of batteries or of the audit log to a file
    #[command(subcommand)]
    Export(export::ExportCommand),
    /// Close a month for usage and money, and make its signed manifest
    ///
    /// All months before it are closed too. What comes later is posted to the open month. Closing again
    /// changes nothing; it makes a manifest that is missing.
    Close(close::CloseArgs),
    /// Write a month's double entries for bookkeeping: hledger, Beancount, DATEV or CSV
    Journal(journal::JournalArgs),
    /// Print the OpenAPI description of the API
    Openapi,
    /// Print a completion script for a shell
    Completions {
        /// bash, elvish, fish, powershell or zsh
        shell: clap_complete::Shell,
    },
    /// Run the private PostgreSQL server of a data directory until standard input ends
    #[command(hide = true)]
    Postgres(GuardArgs),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    panics::install_hook();
    let code = begin(cli);
    logging::flush();
    code
}

fn begin(cli: Cli) -> ExitCode {
    if let Command::Postgres(args) = &cli.command {
        return embedded::run_guard(args);
    }
    if !matches!(cli.command, Command::Serve) {
        // A reader that closes the pipe (`… | head`) ends a command quietly. The daemon must not end with its
        // readers.
        sigpipe::reset();
    }
    match load_and_run(cli) {
        Ok(code) => code,
        Err(error) if is_of_settings(&error) => fail(2, error.as_ref()),
        Err(error) => fail(1, error.as_ref()),
    }
}

fn is_of_settings(error: &Failure) -> bool {
    error.is::<ConfigError>() || error.is::<ServeError>() || error.is::<Usage>()
}

fn load_and_run(cli: Cli) -> Result<ExitCode, Failure> {
    let mut config = Config::load(cli.config.as_deref())?;
    logging::start(&config);
    let file = cli.config.or_else(|| std::env::var_os("COULOMB_CONFIG").map(PathBuf::from));
    match cli.command {
        Command::Serve => serve::run(config, file.as_deref()).map(|()| ExitCode::SUCCESS),
        Command::Config => show_config(&config).map(|()| ExitCode::SUCCESS),
        Command::Doctor => doctor::run(config),
        Command::Openapi => {
            out::line(openapi::document())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "coulomb", &mut script);
            out::part(String::from_utf8_lossy(&script))?;
            Ok(ExitCode::SUCCESS)
        }
        command => {
            if let Some(daemon) = running::find(&config)? {
                config = daemon.settings(config)?;
            }
            run(command, &config)
        }
    }
}

fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    logging::print_line(error);
    ExitCode::from(code)
}

/// Runs a command on the database of the settings.
fn run(command: Command, config: &Config) -> Result<ExitCode, Failure> {
    match command {
        Command::Migrate { plan, revert, destroy_data_of } => {
            migrate(config, plan, revert, destroy_data_of.as_deref())?;
        }
        Command::Audit(args) => audit::run(config, args)?,
        Command::Key(command) => keys::run(config, command)?,
        Command::Meter(command) => meter::run(config, command)?,
        Command::Plans(command) => plans::run(config, command)?,
        Command::Invoicing(command) => invoicing::run(config, command)?,
        Command::Battery(command) => battery::run(config, command)?,
        Command::Stripe(command) => stripe::run(config, command)?,
        Command::Dump => {
            let mut database = open::Database::open(config)?;
            let mut out = std::io::BufWriter::new(std::io::stdout().lock());
            dump::write(&mut database.conn, &mut out)?;
            out.flush()?;
        }
        Command::Verify(args) => return verify::run(config, &args),
        Command::Rebuild(command) => rebuild::run(config, &command)?,
        Command::Export(command) => export::run(config, command)?,
        Command::Close(args) => close::run(config, &args)?,
        Command::Journal(args) => journal::run(config, &args)?,
        Command::Serve
        | Command::Config
        | Command::Doctor
        | Command::Openapi
        | Command::Completions { .. }
        | Command::Postgres(_) => unreachable!("`load_and_run` runs these itself"),
    }
    Ok(ExitCode::SUCCESS)
}

fn migrate(config: &Config, plan: bool, revert: Option<usize>, destroy: Option<&str>) -> Result<(), Failure> {
    let (_server, mut conn) = open::owner(config)?;
    let (verb, versions) = match revert {
        Some(steps) => {
            let reverted = db::migrate::revert(&mut conn, steps, destroy).map_err(|error| match error {
                MigrateError::WouldDestroy { .. }
                | MigrateError::OtherDatabase { .. }
                | MigrateError::InUse(_) => Usage::new(error.to_string()),
                error => error.into(),
            });
            ("took back", reverted?)
        }
        None if plan => ("would apply", db::migrate::plan(&mut conn)?),
        None => ("applied", db::migrate::run(&mut conn)?.applied),
    };
    match versions.as_slice() {
        [] if revert.is_some() => out::line("nothing to do: 0 migrations were to be taken back"),
        [] => out::line("nothing to do: the schema is this binary's"),
        versions => out::line(format_args!("{verb} {}", versions.join(", "))),
    }
}

fn show_config(config: &Config) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for setting in config.list() {
        let doc = setting.doc.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        writeln!(
            out,
            "# {doc}\n# file key: {}; from: {}\n{}={}\n",
            setting.key, setting.source, setting.env, setting.value
        )?;
    }
    Ok(())
}
