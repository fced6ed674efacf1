//! `coulomb rebuild`

use clap::Subcommand;

use super::{Failure, Usage, open, out, progress};
use crate::config::Config;
use crate::integrity::derived_tables::CountingSettings;
use crate::integrity::{mirrors, usage};
use crate::time::Clock;

#[derive(Subcommand)]
pub(super) enum RebuildCommand {
    /// Empty the mirrors, so that the daemon projects the whole inbox again
    Mirrors {
        /// Do it; without this the command only prints how many events would be projected
        #[arg(long)]
        yes: bool,
    },
    /// Count daily summaries, unique values and the counters of tiers and quotas again from the usage records
    ///
    /// It repairs and prints each difference. The daemon may keep writing usage: only writers of wrong rows
    /// wait. Months whose records the retention has dropped stay as they are.
    Summaries,
}

pub(super) fn run(config: &Config, command: &RebuildCommand) -> Result<(), Failure> {
    let mut database = open::Database::open(config)?;
    match command {
        RebuildCommand::Mirrors { yes: true } => {
            let events = mirrors::rebuild(&mut database.conn)?;
            out::line(format_args!(
                "the mirrors are empty; {events} events wait to be projected by the daemon"
            ))?;
        }
        RebuildCommand::Mirrors { yes: false } => {
            let events = mirrors::stored_events(&mut database.conn)?;
            return Err(Usage::new(format!(
                "{events} events would be projected again; the mirrors are incomplete meanwhile. Nothing was \
                 changed. Give --yes to do it"
            )));
        }
        RebuildCommand::Summaries => {
            let settings = CountingSettings::new(config, Clock::system().now());
            let bar = progress::Bar::new();
            let report = usage::rebuild(&mut database.conn, settings, &mut |what, done, all| {
                bar.show(what, done, all);
            })?;
            bar.end();
            for difference in report.usage.iter().chain(&report.quotas) {
                out::line(difference)?;
            }
            out::line(format_args!(
                "{} orgs, {} months, {} rows repaired",
                report.orgs, report.months, report.repaired_rows
            ))?;
        }
    }
    Ok(())
}
