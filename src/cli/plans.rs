//! `coulomb plans …`

use std::fmt::Display;
use std::io::{BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use diesel::pg::PgConnection;
use serde_json::json;

use super::keys::record;
use super::{Failure, open, out};
use crate::billing::acting_realms;
use crate::billing::directory::Directory;
use crate::billing::plans as stored;
use crate::config::Config;
use crate::db;
use crate::error::Error;
use crate::plans::file::PlansFile;
use crate::plans::{self, PlanChange, PlanDefinition, import};
use crate::realm::Realm;
use crate::time::Clock;

/// What to do with plans.
#[derive(Subcommand)]
pub(super) enum PlansCommand {
    /// Set plans as a TOML file says, after showing the changes
    ///
    /// The file has [[plans]] with an id and the fields of PUT /v1/plans/{id}. Where terms or quotas differ
    /// from a plan's newest version, a new version is made; subscriptions keep the version that they bought.
    /// Plans that the file does not name stay as they are.
    Apply {
        /// The file; `-` reads standard input
        file: PathBuf,
        #[command(flatten)]
        how: How,
    },
    /// Set plans from the Stripe products whose metadata names one, after showing the changes
    ///
    /// Metadata of a product: coulomb_plan (key of the plan), battery_units, annual_battery_units,
    /// trial_battery_units, daily_battery, battery_debt_limit, trial_days, feature_<name>. Amounts are those
    /// of its active monthly and yearly prices. What a product does not say stays as
    /// it is.
    ImportStripe {
        /// Products of live mode; without it, those of the mode that acts
        #[arg(long)]
        live: bool,
        /// Products of this connected account
        #[arg(long, default_value = "", hide_default_value = true)]
        account: String,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Args)]
pub(super) struct How {
    /// Do it without asking
    #[arg(long)]
    pub(super) yes: bool,
    /// Only print what would change
    #[arg(long, conflicts_with = "yes")]
    pub(super) dry_run: bool,
}

pub(super) fn run(config: &Config, command: PlansCommand) -> Result<(), Failure> {
    match command {
        PlansCommand::Apply { file, how } => {
            let name = file.display().to_string();
            let read = PlansFile::read(&text(&file)?).map_err(|error| format!("{name}: {error}"))?;
            let mut database = open::Database::open(config)?;
            let conn = &mut database.conn;
            let others: Vec<String> = stored::ids(conn)?
                .into_iter()
                .filter(|id| !read.plans.iter().any(|plan| plan.id == *id))
                .collect();
            if !others.is_empty() {
                out::line(format_args!("left alone, for {name} does not name them: {}", others.join(", ")))?;
            }
            apply(conn, config, &read.plans, how, ("plans.apply", &name))
        }
        PlansCommand::ImportStripe { live, account, how } => {
            let mut database = open::Database::open(config)?;
            let conn = &mut database.conn;
            let livemode = live || acting_realms::load(conn)?.livemode();
            let (definitions, problems) = import::read(conn, &Realm { account, livemode })?;
            for problem in &problems {
                out::line(problem)?;
            }
            if !problems.is_empty() {
                return Err(
                    "the metadata above cannot be read: correct it in Stripe; nothing was changed".into()
                );
            }
            apply(conn, config, &definitions, how, ("plans.import", "stripe"))
        }
    }
}

/// Shows changes and asks whether to make them. False: there is nothing to do.
///
/// # Errors
/// When the answer is no.
pub(super) fn is_agreed(changes: &[impl Display], how: How) -> Result<bool, Failure> {
    if changes.is_empty() {
        out::line("nothing to do")?;
        return Ok(false);
    }
    for change in changes {
        out::part(change)?;
    }
    if how.dry_run {
        return Ok(false);
    }
    if !how.yes && !confirmed()? {
        return Err("nothing was changed".into());
    }
    Ok(true)
}

/// Shows what would change, asks, and does it.
fn apply(
    conn: &mut PgConnection,
    config: &Config,
    definitions: &[PlanDefinition],
    how: How,
    (action, target): (&'static str, &str),
) -> Result<(), Failure> {
    let shown = db::run_with_retries(conn, |conn| plans::changes(conn, definitions))?;
    if !is_agreed(&shown, how)? {
        return Ok(());
    }
    let clock = Clock::system();
    let directory = Directory::new(clock.clone(), config.past_due_grace_days);
    db::run_with_retries(conn, |conn| {
        let now = clock.now();
        let done = plans::apply(conn, &directory, definitions, now)?;
        check_as_shown(&done, &shown)?;
        record(conn, action, target, json!({ "changes": done }), now)
    })?;
    out::line_of("the changes were applied", "applied")
}

/// Refuses to make changes that were not shown.
fn check_as_shown(done: &[PlanChange], shown: &[PlanChange]) -> Result<(), Error> {
    if done == shown {
        return Ok(());
    }
    Err(Error::conflict(
        "plans_changed",
        "somebody else changed the plans since: run it again, nothing was changed",
    ))
}

/// Asks at the terminal whether to go on.
fn confirmed() -> Result<bool, Failure> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(
            "there is no terminal to ask at: say --yes to apply this, or --dry-run to only see it".into()
        );
    }
    out::part("Apply this? [y/N] ")?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The text of a file; `-` is standard input.
pub(super) fn text(file: &Path) -> Result<String, Failure> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(file)
        .map_err(|error| format!("{} cannot be read: {error}", file.display()).into())
}
