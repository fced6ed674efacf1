//! `coulomb stripe meters …`

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::json;

use super::client;
use crate::billing::directory::Directory;
use crate::charging::charges::{self, ChargeFilter, ChargeState};
use crate::charging::preview;
use crate::charging::stripe_meter::{self, StripeMeter};
use crate::charging::ways::{self, NewWay, Unsent, Way};
use crate::cli::keys::{actor, record, record_of};
use crate::cli::{Failure, limits, open};
use crate::config::Config;
use crate::db;
use crate::page::DEFAULT_LIMIT;
use crate::time::{Clock, Moment};

#[derive(Subcommand)]
pub(in crate::cli) enum MetersCommand {
    /// List the meters whose usage goes to Stripe, as JSON lines
    List,
    /// Let the usage of a meter go to Stripe one way, so that it is charged
    ///
    /// totals: absolute totals of each UTC hour or day, into a Stripe meter with that event_time_window.
    /// deltas: what was added, into a Stripe meter without a window. invoice_items: priced lines on the
    /// draft of each billing period.
    Set(SetArgs),
    /// End the way of a meter; what was used until now is still sent
    Remove {
        /// Key of the meter
        meter: String,
        /// The way was a mistake: send nothing more of it
        #[arg(long)]
        discard: bool,
    },
    /// List charges, the newest period first, as JSON lines
    Charges {
        /// Only in this state
        #[arg(long)]
        state: Option<ChargeState>,
        /// Only of this meter
        #[arg(long)]
        meter: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = DEFAULT_LIMIT, value_parser = limits())]
        limit: i64,
    },
    /// Have a failed charge tried again; with --failed, all of them
    Retry {
        /// Its id (chg_…)
        #[arg(required_unless_present = "failed")]
        charge: Option<String>,
        /// Every failed charge
        #[arg(long, conflicts_with = "charge")]
        failed: bool,
    },
}

#[derive(Args)]
pub(in crate::cli) struct SetArgs {
    /// Key of the meter
    meter: String,
    /// Which way
    #[arg(long)]
    way: Way,
    /// The meter at Stripe (mtr_…); not for invoice_items
    #[arg(long, value_name = "ID")]
    stripe_meter: Option<String>,
    /// A connected account (acct_…); our own when left out
    #[arg(long, default_value = "")]
    account: String,
    /// Usage that occurred before is not sent; now when left out
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Only show what would be sent: buckets, orgs, quantities and amounts
    #[arg(long)]
    dry_run: bool,
}

pub(in crate::cli) fn run(config: &Config, command: MetersCommand) -> Result<(), Failure> {
    let now = Clock::system().now();
    match command {
        MetersCommand::Set(args) => return set(config, args),
        MetersCommand::List => {
            let mut database = open::Database::open(config)?;
            let mut out = std::io::stdout().lock();
            for way in ways::list(&mut database.conn)? {
                writeln!(out, "{}", serde_json::to_string(&way)?)?;
            }
        }
        MetersCommand::Remove { meter, discard } => {
            let mut database = open::Database::open(config)?;
            let unsent = if discard { Unsent::Discard } else { Unsent::Send };
            let way = db::run_once(&mut database.conn, |conn| {
                let way = ways::remove(conn, &meter, unsent, now)?;
                record(conn, "stripe_meter.remove", &meter, json!(way), now)?;
                Ok(way)
            })?;
            match way.until.filter(|_| !discard) {
                Some(until) => println!("usage of {} from {until} on goes to Stripe no more", way.meter),
                None => println!("usage of {} goes to Stripe no more", way.meter),
            }
        }
        MetersCommand::Charges { state, meter, limit } => {
            let mut database = open::Database::open(config)?;
            let mut out = std::io::stdout().lock();
            let filter = ChargeFilter { org_id: None, state, meter };
            for charge in charges::list(&mut database.conn, &filter, None, limit)? {
                writeln!(out, "{}", serde_json::to_string(&charge)?)?;
            }
        }
        MetersCommand::Retry { charge, .. } => {
            let mut database = open::Database::open(config)?;
            let retried = db::run_once(&mut database.conn, |conn| match &charge {
                Some(charge) => {
                    let org_id = charges::retry(conn, charge, now)?;
                    record_of(conn, org_id, ("stripe_charge.retry", charge, json!({})), now)?;
                    Ok(1)
                }
                None => {
                    let retried = charges::retry_all(conn, now)?;
                    let detail = json!({ "charges": retried });
                    record(conn, "stripe_charge.retry_all", "failed", detail, now)?;
                    Ok(retried)
                }
            })?;
            println!("{retried} charges are tried again");
        }
    }
    Ok(())
}

fn set(config: &Config, args: SetArgs) -> Result<(), Failure> {
    let new = NewWay {
        way: args.way,
        stripe_meter: args.stripe_meter,
        account: args.account,
        since: args.since.map(|since| since.0),
    };
    let at_stripe = read_meter(config, &new)?;
    let mut database = open::Database::open(config)?;
    let clock = Clock::system();
    let now = clock.now();
    let meter = &args.meter;
    let shown = db::run_once(&mut database.conn, |conn| {
        let way = ways::check(conn, meter, &new, at_stripe.clone(), &actor(), now)?;
        if args.dry_run {
            let directory = Directory::new(clock.clone(), config.past_due_grace_days);
            let livemode = config.acting_realms().livemode();
            return Ok(json!(preview::dry_run(conn, &directory, livemode, &way, now)?));
        }
        let way = ways::set(conn, &way)?;
        record(conn, "stripe_meter.set", meter, json!(way), now)?;
        Ok(json!(way))
    })?;
    println!("{}", serde_json::to_string_pretty(&shown)?);
    Ok(())
}

fn read_meter(config: &Config, new: &NewWay) -> Result<Option<StripeMeter>, Failure> {
    let Some(id) = &new.stripe_meter else { return Ok(None) };
    let client = client(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(Some(runtime.block_on(stripe_meter::read(&client, &new.account, id))?))
}
