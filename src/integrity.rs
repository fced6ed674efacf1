//! Promise kept: everything derived can be rebuilt. Each check computes derived rows again from their inputs
//! and compares them with the stored rows:
//!
//! | check | derived | from |
//! |---|---|---|
//! | [`mirrors`] | mirrors of Stripe's objects | the inbox |
//! | [`usage`] | daily summaries, unique values, counters of tiers and quotas, levels, keys | usage records |
//! | [`batteries`] | balances and grants | ledger entries, usage records |
//! | [`effects`] | what payments granted | the mirrors |
//! | `accounts` | states of own invoices, balances, numbers | account entries, documents |
//! | `issued` | rows of invoices, credit notes, payments, periods | documents as issued, account entries |
//! | `closings` | manifests of closed months | usage records, documents, account entries |
//!
//! [`verify`] runs them all. It changes nothing, blocks nobody and notifies nobody: each comparison reads one
//! snapshot, so the daemon may go on. [`mirrors::rebuild`] and [`usage::rebuild`] repair; a worker repairs
//! daily summaries all the time ([`background`]).

mod accounts;
pub mod background;
pub mod batteries;
pub mod derived_tables;
pub mod effects;
mod issued;
pub mod mirrors;
pub mod usage;

use diesel::pg::PgConnection;
use secrecy::ExposeSecret;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::auth::PLATFORM;
use crate::closing::check::{self, TrustedKeys};
use crate::config::Config;
use crate::error::Error;
use crate::messages::{self, NewMessage};
use crate::time::Clock;
use derived_tables::CountingSettings;
use derived_tables::parts::CheckedRange;

/// Receives the progress of a check: the table it reads, how much is done, how much there is.
pub type Progress<'a> = &'a mut dyn FnMut(&'static str, u64, u64);

/// The result of one check.
#[derive(Debug)]
pub struct Checked {
    pub check: &'static str,
    /// What was compared, for people.
    pub compared: String,
    /// One sentence for each difference; a bounded number.
    pub differences: Vec<String>,
}

/// Runs every check that fits the scope: a scope of one org or of some months has usage and quotas only.
pub fn verify(
    conn: &mut PgConnection,
    config: &Config,
    clock: &Clock,
    scope: &CheckedRange,
    progress: Progress<'_>,
) -> Result<Vec<Checked>, Error> {
    let mut results = Vec::new();
    if scope.is_everything() {
        results.push(check_mirrors(conn, config, clock, progress)?);
    }
    results.extend(check_usage(conn, config, clock, scope, progress)?);
    if scope.is_everything() {
        results.push(check_batteries(conn, progress)?);
        results.push(check_effects(conn, progress)?);
        results.push(check_accounts(conn)?);
        results.push(check_closings(conn, config)?);
    }
    // A standby can be verified, and nothing can be written there.
    if let Err(error) = messages::write(conn, drift(&results), clock.now()) {
        tracing::warn!(%error, "the message about differences could not be written");
    }
    Ok(results)
}

/// The messages about differences: one for each check, and none again about the same ones.
fn drift(results: &[Checked]) -> Vec<NewMessage> {
    let found = results.iter().filter(|one| !one.differences.is_empty());
    found.map(|one| drift_found(one.check, &one.differences)).collect()
}

/// The message that a check found differences.
fn drift_found(check: &str, differences: &[String]) -> NewMessage {
    let digest = hex::encode(Sha256::digest(differences.join("\n")));
    NewMessage {
        org_id: PLATFORM,
        kind: "drift.found",
        dedupe_key: format!("drift:{check}:{digest}"),
        data: json!({ "check": check, "differences": differences.len(), "first": differences.first() }),
        object: None,
    }
}

fn check_mirrors(
    conn: &mut PgConnection,
    config: &Config,
    clock: &Clock,
    progress: Progress<'_>,
) -> Result<Checked, Error> {
    let found = mirrors::verify(conn, config.projection_batch, clock.now(), progress)?;
    let waiting = match found.waiting {
        0 => String::new(),
        waiting => format!(", {waiting} that wait or are quarantined left out"),
    };
    Ok(Checked {
        check: "mirrors",
        compared: format!("{} Stripe events replayed{waiting}, {} rows compared", found.events, found.rows),
        differences: found.differences,
    })
}

fn check_usage(
    conn: &mut PgConnection,
    config: &Config,
    clock: &Clock,
    scope: &CheckedRange,
    progress: Progress<'_>,
) -> Result<[Checked; 2], Error> {
    let settings = CountingSettings::new(config, clock.now());
    let found = usage::verify(conn, settings, scope, progress)?;
    let usage = Checked {
        check: "usage",
        compared: format!("{} orgs, {} months counted again", found.orgs, found.months),
        differences: found.usage,
    };
    let quotas = Checked {
        check: "quotas",
        compared: format!("{} counted quantities of {} orgs", found.slots, found.orgs),
        differences: found.quotas,
    };
    Ok([usage, quotas])
}

fn check_batteries(conn: &mut PgConnection, progress: Progress<'_>) -> Result<Checked, Error> {
    let found = batteries::verify(conn, |done, all| progress("batteries", done, all))?;
    Ok(Checked {
        check: "batteries",
        compared: format!("{} ledgers added up", found.accounts),
        differences: found.differences,
    })
}

fn check_effects(conn: &mut PgConnection, progress: Progress<'_>) -> Result<Checked, Error> {
    let found = effects::verify(conn, |done| progress("battery_effects", done, done))?;
    Ok(Checked {
        check: "effects",
        compared: format!("{} payments computed again", found.sources),
        differences: found.differences,
    })
}

fn check_accounts(conn: &mut PgConnection) -> Result<Checked, Error> {
    let found = accounts::verify(conn)?;
    Ok(Checked {
        check: "accounts",
        compared: format!("{} accounts added up, {} documents read", found.accounts, found.documents),
        differences: found.differences,
    })
}

fn check_closings(conn: &mut PgConnection, config: &Config) -> Result<Checked, Error> {
    let key = config.closing_key.as_ref().map(ExposeSecret::expose_secret);
    let found = check::verify(conn, &TrustedKeys::new(key, &config.closing_old_keys)?)?;
    let mut compared = format!("{} closed months computed again", found.months);
    for (count, what) in [
        (found.unsigned, "without a signature".to_owned()),
        (found.without_usage, "whose usage records are gone".to_owned()),
        (
            found.changed_mirrors.len(),
            format!("of which Stripe's objects changed since ({})", found.changed_mirrors.join(", ")),
        ),
    ] {
        if count > 0 {
            compared += &format!(", {count} {what}");
        }
    }
    Ok(Checked { check: "closings", compared, differences: found.differences })
}
