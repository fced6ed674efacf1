//! `coulomb battery …`

use std::io::Write;

use clap::Subcommand;

use super::{Failure, open};
use crate::battery::effects::waiting;
use crate::config::Config;

/// What to do with batteries.
#[derive(Subcommand)]
pub(super) enum BatteryCommand {
    /// List effects of Stripe's payments that cannot happen yet, oldest first, as JSON lines
    Waiting {
        /// Only those that wait for this reason, such as no_org or unknown_pack
        #[arg(long)]
        reason: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 500)]
        limit: i64,
    },
}

pub(super) fn run(config: &Config, command: &BatteryCommand) -> Result<(), Failure> {
    let BatteryCommand::Waiting { reason, limit } = command;
    let mut database = open::Database::open(config)?;
    let mut out = std::io::stdout().lock();
    for effect in waiting::list(&mut database.conn, reason.as_deref(), None, *limit)? {
        writeln!(out, "{}", serde_json::to_string(&effect)?)?;
    }
    Ok(())
}
