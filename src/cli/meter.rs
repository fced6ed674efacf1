//! `coulomb meter …`

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use rust_decimal::Decimal;
use serde_json::json;

use super::keys::record;
use super::{Failure, open};
use crate::billing::directory::Directory;
use crate::billing::org_name::OrgName;
use crate::config::Config;
use crate::db;
use crate::metering::meters::{self, Aggregation, MeterFilter, NewMeter, Unpriced};
use crate::metering::rates::{self, NewRateCard, Rate, TierPeriod};
use crate::metering::series;
use crate::quota::rulebook::RulebookCache;
use crate::time::{Clock, Moment};
use crate::usage::correct::late_pricing::{self, LatePricing};

/// What to do with meters.
#[derive(Subcommand)]
pub(super) enum MeterCommand {
    /// List all meters by key, as JSON lines
    List {
        /// Archived ones too
        #[arg(long)]
        all: bool,
    },
    /// Make a meter; it counts usage that comes from then on
    Create(CreateArgs),
    /// Print a meter, its versions and its rate cards
    Show {
        /// Its key
        key: String,
    },
    /// Give a meter a rate card: prices from a time on
    ///
    /// Either one price for all usage (--unit-cost, --battery-units), or a JSON file with the card in the
    /// form of POST /v1/meters/{key}/rate_cards.
    Rate(RateArgs),
    /// Price usage that had no price when it came, by the current rate cards
    ///
    /// Usage that no rate fitted, or that came before the meter's first card, gets the price of its time.
    /// Usage that has a price keeps it.
    RateUsage(RateUsageArgs),
}

#[derive(Args)]
pub(super) struct RateUsageArgs {
    /// Key of the meter
    key: String,
    /// Only of this org, by public or external id
    #[arg(long)]
    org: Option<String>,
    /// Only usage that occurred at or after
    #[arg(long, value_name = "TIME")]
    from: Option<Moment>,
    /// Only usage that occurred before
    #[arg(long, value_name = "TIME")]
    to: Option<Moment>,
    /// The reason, for people
    #[arg(long)]
    reason: String,
}

#[derive(Args)]
pub(super) struct CreateArgs {
    /// What callers name it by: a-z, 0-9, `-`, `_`, `.`
    key: String,
    /// The usage events that it counts
    #[arg(long)]
    event_name: String,
    /// How values become a quantity: sum, count, max, unique, latest or level; sum and count can be priced,
    /// these and level limited
    #[arg(long, value_parser = aggregation)]
    aggregation: Aggregation,
    /// Field of `data` that holds the value; none for count
    #[arg(long)]
    value_field: Option<String>,
    /// Field of `data` that holds what a level changes by
    #[arg(long)]
    change_field: Option<String>,
    /// What the quantity is counted in, such as tokens
    #[arg(long, default_value = "")]
    unit: String,
    /// Fields of `data` kept for grouping, prices and quotas, separated by commas
    #[arg(long, value_delimiter = ',')]
    dimensions: Vec<String>,
    /// Fields of `data` kept with each usage record, separated by commas; they may have any number of values
    #[arg(long, value_delimiter = ',')]
    labels: Vec<String>,
    /// Let keys with the scope usage:price report values below zero
    #[arg(long)]
    allows_negative: bool,
    /// What people call it; its key when left out
    #[arg(long)]
    name: Option<String>,
    /// Reject usage that no rate fits, instead of recording it without a price
    #[arg(long)]
    refuse_unpriced: bool,
}

#[derive(Args)]
pub(super) struct RateArgs {
    /// Key of the meter
    key: String,
    /// The whole card as JSON; `-` reads standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "currency", "unit_cost", "battery_units", "valid_from", "backdate", "plan", "org",
    ])]
    file: Option<PathBuf>,
    /// Price the usage of orgs with this plan alone
    #[arg(long, conflicts_with = "org")]
    plan: Option<String>,
    /// Price the usage of this org alone, by public or external id
    #[arg(long)]
    org: Option<String>,
    /// Currency of the price, such as usd
    #[arg(long, required_unless_present = "file")]
    currency: Option<String>,
    /// What a unit costs, in whole units of the currency, such as 0.0025
    #[arg(long, value_name = "DECIMAL")]
    unit_cost: Option<Decimal>,
    /// Battery units per unit
    #[arg(long, value_name = "DECIMAL")]
    battery_units: Option<Decimal>,
    /// It prices usage that occurs from then on; now when left out
    #[arg(long, value_name = "TIME")]
    valid_from: Option<DateTime<Utc>>,
    /// Let it start in the past, a year at most: it prices usage of that time that comes from now on
    #[arg(long)]
    backdate: bool,
}

fn aggregation(name: &str) -> Result<Aggregation, String> {
    Aggregation::parse(name)
        .ok_or_else(|| "the aggregations are sum, count, max, unique, latest and level".to_owned())
}

pub(super) fn run(config: &Config, command: MeterCommand) -> Result<(), Failure> {
    let mut database = open::Database::open(config)?;
    let conn = &mut database.conn;
    let now = Clock::system().now();
    let mut out = std::io::stdout().lock();
    match command {
        MeterCommand::List { all } => {
            let filter = MeterFilter { archived: (!all).then_some(false), ..MeterFilter::default() };
            for meter in meters::list(conn, filter, i64::MAX)? {
                writeln!(out, "{}", serde_json::to_string(&meter)?)?;
            }
        }
        MeterCommand::Create(args) => {
            let new = NewMeter {
                key: args.key,
                name: args.name,
                event_name: args.event_name,
                aggregation: args.aggregation,
                value_field: args.value_field,
                change_field: args.change_field,
                unit: args.unit,
                dimensions: args.dimensions,
                labels: args.labels,
                allows_negative: args.allows_negative,
                unpriced: if args.refuse_unpriced { Unpriced::Refuse } else { Unpriced::Record },
            };
            let meter = db::run_once(conn, |conn| {
                let meter = meters::create(conn, &new, now)?;
                let detail = crate::json::to_tree(&meter)?;
                record(conn, "meter.create", &meter.key, detail, now)?;
                Ok(meter)
            })?;
            writeln!(out, "{}", serde_json::to_string(&meter)?)?;
        }
        MeterCommand::Show { key } => {
            let found = meters::history(conn, &key)?;
            let cards = rates::of_meter(conn, found.meter.meter_id)?;
            let mut shown = serde_json::to_value(&found)?;
            shown["rate_cards"] = serde_json::to_value(&cards)?;
            writeln!(out, "{}", serde_json::to_string_pretty(&shown)?)?;
        }
        MeterCommand::Rate(args) => {
            let key = args.key.clone();
            let new = card(args)?;
            let card = db::run_once(conn, |conn| {
                let card = rates::create(conn, &key, &new, now)?;
                let detail = json!(card);
                record(conn, "rate_card.create", &key, detail, now)?;
                Ok(card)
            })?;
            writeln!(out, "{}", serde_json::to_string(&card)?)?;
        }
        MeterCommand::RateUsage(args) => rate_usage(conn, &args, now, &mut out)?,
    }
    Ok(())
}

/// Prices usage in one transaction after the other, with a line for each, until nothing is left to price.
fn rate_usage(
    conn: &mut diesel::PgConnection,
    args: &RateUsageArgs,
    now: DateTime<Utc>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let (rules, series, directory) =
        (RulebookCache::default(), series::SeriesCache::default(), Directory::default());
    let org_id = match &args.org {
        Some(org) => Some(OrgName::of_any(org.clone(), "org").find(&directory, conn)?.org_id),
        None => None,
    };
    let actor = super::keys::actor();
    let later = LatePricing {
        meter: &args.key,
        org_id,
        from: args.from.map(|at| at.0),
        before: args.to.map(|at| at.0),
        reason: &args.reason,
        actor: &actor,
    };
    loop {
        let rated = db::run_once(conn, |conn| {
            let rated = late_pricing::price_late(conn, (&rules, &series, &directory), &later, now)?;
            let detail = crate::json::to_tree(&rated)?;
            record(conn, "usage.rate", &args.key, detail, now)?;
            Ok(rated)
        })?;
        writeln!(out, "{}", serde_json::to_string(&rated)?)?;
        if !rated.more {
            return Ok(());
        }
    }
}

fn card(args: RateArgs) -> Result<NewRateCard, Failure> {
    if let Some(file) = &args.file {
        let text = read(file)?;
        return serde_json::from_str(&text)
            .map_err(|error| format!("{} is no rate card: {error}", file.display()).into());
    }
    if args.unit_cost.is_none() && args.battery_units.is_none() {
        return Err("say --unit-cost, --battery-units or both, or give the card with --file".into());
    }
    let rate = Rate {
        unit_cost: args.unit_cost.unwrap_or_default(),
        battery_units: args.battery_units.unwrap_or_default(),
        ..Rate::default()
    };
    Ok(NewRateCard {
        valid_from: args.valid_from.map(Moment),
        backdate: args.backdate,
        plan: args.plan,
        org: args.org,
        period: TierPeriod::default(),
        price_by: None,
        currency: args.currency.unwrap_or_default(),
        rates: vec![rate],
    })
}

fn read(file: &Path) -> Result<String, Failure> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(file)
        .map_err(|error| format!("{} cannot be read: {error}", file.display()).into())
}
