//! `coulomb rebuild`

use std::io::IsTerminal;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Failure, open};
use crate::config::Config;
use crate::verify;

#[derive(Subcommand)]
pub(super) enum RebuildCommand {
    /// Throw the mirrors away and have the daemon project the whole inbox again
    Mirrors {
        /// Do it: without this it only says how many events would be projected
        #[arg(long)]
        yes: bool,
    },
    /// Count daily summaries, unique values and the counters of tiers and quotas anew from the usage records
    ///
    /// What says something else is mended and printed. Usage may be written meanwhile: only writers of the rows at fault wait.
    /// Months whose records are gone by the retention are left as they are.
    Summaries,
}

pub(super) fn run(config: &Config, command: &RebuildCommand) -> Result<(), Failure> {
    let mut database = open::Database::open(config)?;
    match command {
        RebuildCommand::Mirrors { yes: true } => {
            let events = verify::rebuild(&mut database.conn)?;
            println!("the mirrors are empty; {events} events wait to be projected by the daemon");
        }
        RebuildCommand::Mirrors { yes: false } => {
            let events = verify::stored_events(&mut database.conn)?;
            println!(
                "{events} events would be projected again, and the mirrors be incomplete meanwhile; say --yes to do it"
            );
        }
        RebuildCommand::Summaries => {
            let bar = bar();
            let report = verify::usage::rebuild(&mut database.conn, |done, all| {
                bar.set_length(all);
                bar.set_position(done);
            })?;
            bar.finish_and_clear();
            for difference in &report.differences {
                println!("{difference}");
            }
            println!("{} orgs, {} months, {} rows mended", report.orgs, report.months, report.mended);
        }
    }
    Ok(())
}

/// On a terminal a bar, otherwise nothing.
fn bar() -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} orgs, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(None, target).with_style(style)
}
