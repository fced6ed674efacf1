//! `coulomb battery …`

use clap::{Args, Subcommand};
use diesel::Connection;
use rust_decimal::Decimal;
use serde_json::json;

use super::keys::{actor, record};
use super::{Failure, open, out};
use crate::battery::by_hand::{self, ManualGrant};
use crate::battery::effects::waiting;
use crate::battery::grants::{GrantSource, GrantState};
use crate::battery::reads::{balance, entries, grants};
use crate::battery::upkeep;
use crate::billing::directory::Directory;
use crate::billing::org_name::OrgName;
use crate::config::Config;
use crate::db;
use crate::error::Error;
use crate::quota::entitlements::EntitledBattery;
use crate::time::{Clock, Moment};

/// What to do with batteries.
#[derive(Subcommand)]
pub(super) enum BatteryCommand {
    /// Print an org's balance, the grants that may still be used, and the last entries, as JSON
    Show {
        /// The org, by its id or your own id of it
        #[arg(long)]
        org: String,
        /// How many entries, 500 at most
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(0..=500))]
        entries: i64,
    },
    /// Grant units to an org's battery
    Grant(GrantArgs),
    /// List effects of Stripe's payments that cannot be applied yet, oldest first, as JSON lines
    Waiting {
        /// Only those that wait for this reason, such as no_org or unknown_pack
        #[arg(long)]
        reason: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 500)]
        limit: i64,
    },
}

#[derive(Args)]
pub(super) struct GrantArgs {
    /// The org, by its id or your own id of it
    #[arg(long)]
    org: String,
    /// Units, above 0, at most 9 decimal places
    #[arg(long, value_parser = units)]
    amount: Decimal,
    /// Why, for people
    #[arg(long, value_parser = reason)]
    reason: String,
    /// What it comes from: bonus, adjustment or purchase
    #[arg(long, default_value = "bonus", value_parser = source)]
    source: GrantSource,
    /// 0 to 1000, lower is burned first; when left out, the priority of the source
    #[arg(long, value_parser = clap::value_parser!(i16).range(0..=1000))]
    priority: Option<i16>,
    /// When it becomes usable; now when left out
    #[arg(long, value_name = "TIME")]
    effective_at: Option<Moment>,
    /// When what remains expires; never when left out
    #[arg(long, value_name = "TIME")]
    expires_at: Option<Moment>,
    /// What it is granted for: an org gets one grant per key
    #[arg(long, value_parser = reason)]
    key: Option<String>,
}

fn units(text: &str) -> Result<Decimal, String> {
    let rule = || "an amount is a decimal above 0 and below 10^15, with at most 9 places".to_owned();
    let units = Decimal::from_str_exact(text).map_err(|_| rule())?;
    let fits = units > Decimal::ZERO && units < crate::quantity::LIMIT && units.normalize().scale() <= 9;
    if fits { Ok(units) } else { Err(rule()) }
}

fn reason(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.chars().count() > 200 || text.chars().any(char::is_control) {
        return Err("1 to 200 characters are expected, not blank, without control characters".to_owned());
    }
    Ok(text.to_owned())
}

fn source(name: &str) -> Result<GrantSource, String> {
    [GrantSource::Bonus, GrantSource::Adjustment, GrantSource::Purchase]
        .into_iter()
        .find(|source| source.name() == name)
        .ok_or_else(|| "the sources are bonus, adjustment and purchase".to_owned())
}

pub(super) fn run(config: &Config, command: BatteryCommand) -> Result<(), Failure> {
    let mut database = open::Database::open(config)?;
    let conn = &mut database.conn;
    let (now, directory) = (Clock::system().now(), Directory::default());
    match command {
        BatteryCommand::Show { org, entries } => {
            let shown = conn.transaction(|conn| {
                let org = OrgName::of_any(org, "org").find(&directory, conn)?;
                upkeep::post(conn, [org.org_id], now)?;
                let filter = grants::GrantFilter {
                    state: vec![GrantState::Open, GrantState::Scheduled],
                    ..grants::GrantFilter::default()
                };
                let live = grants::list(conn, org.org_id, &filter, None, i64::MAX)?;
                let live: Vec<_> = live.into_iter().map(|(_, grant)| grant).collect();
                let all = entries::EntryFilter::default();
                let last = entries::list(conn, org.org_id, &all, entries::Order::NewestFirst, None, entries)?;
                let balance = balance::now(
                    &org,
                    EntitledBattery::read(conn, &org, now)?.into(),
                    balance::last_allowance(conn, org.org_id)?,
                    now,
                );
                Ok::<_, Error>(json!({ "balance": balance, "grants": live, "entries": last }))
            })?;
            out::line(serde_json::to_string_pretty(&shown)?)?;
        }
        BatteryCommand::Waiting { reason, limit } => {
            for effect in waiting::list(conn, reason.as_deref(), None, limit)? {
                out::line(serde_json::to_string(&effect)?)?;
            }
        }
        BatteryCommand::Grant(args) => {
            let new = ManualGrant {
                amount: args.amount,
                source: args.source,
                priority: args.priority,
                effective_at: args.effective_at.map(|at| at.0),
                expires_at: args.expires_at.map(|at| at.0),
                reason: args.reason,
                key: args.key,
            };
            let grant = db::run_once(conn, |conn| {
                let org_id = OrgName::of_any(args.org, "org").find(&directory, conn)?.org_id;
                let grant = by_hand::grant(conn, org_id, &new, &actor(), now)?;
                record(conn, "battery.grant", &grant.id, json!(grant), now)?;
                Ok(grant)
            })?;
            out::line_of(&format!("the grant {} was made", grant.id), serde_json::to_string(&grant)?)?;
        }
    }
    Ok(())
}
