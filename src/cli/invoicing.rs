//! `coulomb invoicing …`

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::keys::record;
use super::plans::{How, is_agreed, text};
use super::{Failure, open, out};
use crate::config::Config;
use crate::db;
use crate::error::Error;
use crate::invoicing::file::{self, BillingFile};
use crate::time::Clock;

/// What to do with the settings of invoices of our own.
#[derive(Subcommand)]
pub(super) enum InvoicingCommand {
    /// Set sellers, tax rates, coupons, payment accounts and billing profiles as a TOML file says
    ///
    /// The file has tables [sellers.<key>], [tax_rates.<key>], [coupons.<code>], [payment_accounts.<key>]
    /// and [orgs.<id or external id>] with the fields of their PUT requests. It shows the changes and asks.
    /// All of them are made, or none. What the file does not name stays as it is.
    Apply {
        /// The file; `-` reads standard input
        file: PathBuf,
        #[command(flatten)]
        how: How,
    },
}

pub(super) fn run(config: &Config, command: InvoicingCommand) -> Result<(), Failure> {
    let InvoicingCommand::Apply { file, how } = command;
    let name = file.display().to_string();
    let wanted = BillingFile::read(&text(&file)?).map_err(|error| format!("{name}: {error}"))?;
    let mut database = open::Database::open(config)?;
    let (conn, clock) = (&mut database.conn, Clock::system());
    let shown = db::run_with_retries(conn, |conn| file::changes(conn, &wanted, clock.now()))?;
    if !is_agreed(&shown, how)? {
        return Ok(());
    }
    db::run_with_retries(conn, |conn| {
        let now = clock.now();
        let done = file::apply(conn, &wanted, now)?;
        if done != shown {
            let detail = "somebody else changed these settings since: run it again, nothing was changed";
            return Err(Error::conflict("settings_changed", detail));
        }
        record(conn, "invoicing.apply", &name, json!({ "changes": done }), now)
    })?;
    out::line_of("the changes were applied", "applied")
}
