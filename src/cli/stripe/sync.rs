//! `coulomb stripe sync` and `coulomb stripe drift`

use std::io::Write;
use std::time::{Duration, Instant};

use chrono::Utc;
use clap::Args;
use diesel::pg::PgConnection;

use crate::cli::progress::Bar;
use crate::cli::{Failure, Usage, as_usage, limits, open};
use crate::config::Config;
use crate::page::DEFAULT_LIMIT;
use crate::realm::Realm;
use crate::stripe::project;
use crate::stripe::sync::drift::{self, DriftFilter, DriftKind};
use crate::stripe::sync::runs::{self, KindTally, Run, RunKind};
use crate::stripe::sync::{Sync, accounts};
use crate::threads::Threads;

/// How long the command waits before it looks again at what a daemon does.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long calls may fail before the command gives up. The run stays, and a daemon goes on with it.
const GIVE_UP: Duration = Duration::from_secs(60);

#[derive(Args)]
pub(in crate::cli) struct SyncArgs {
    /// Connected account (acct_…) that the settings name; our own when left out
    #[arg(long, default_value = "")]
    account: String,
    /// Compare what may have changed, instead of reading everything
    #[arg(long)]
    compare: bool,
}

#[derive(Args)]
pub(in crate::cli) struct DriftArgs {
    /// Only of this kind, such as missed_event
    #[arg(long, value_enum)]
    kind: Option<DriftKind>,
    /// Only of this kind of object, such as invoice
    #[arg(long)]
    object: Option<String>,
    /// Only of this object
    #[arg(long)]
    id: Option<String>,
    /// At most this many
    #[arg(long, default_value_t = DEFAULT_LIMIT, value_parser = limits())]
    limit: i64,
}

/// Lists where the mirrors differed from Stripe, as JSON lines.
pub(super) fn list_drift(config: &Config, args: DriftArgs) -> Result<(), Failure> {
    let mut database = open::Database::open(config)?;
    let filter = DriftFilter { kind: args.kind, object: args.object, object_id: args.id };
    let mut out = std::io::stdout().lock();
    for one in drift::list(&mut database.conn, &filter, None, args.limit)? {
        writeln!(out, "{}", serde_json::to_string(&one)?)?;
    }
    Ok(())
}

/// Reads an account, or watches the daemon that reads it, until the run ends; then prints a table.
pub(super) fn sync(config: &Config, args: &SyncArgs) -> Result<(), Failure> {
    let threads = Threads::default();
    let Some(sync) = Sync::start(config, &threads) else {
        return Err(Usage::new("STRIPE_SECRET_KEY is not set: set it to a key of the account to read"));
    };
    let realm = config.acting_realms().of_account(args.account.clone()).map_err(as_usage)?;
    let mut database = open::Database::open(config)?;
    let conn = &mut database.conn;
    let kind = if args.compare { RunKind::Comparison } else { RunKind::Backfill };
    let run_id = runs::request(conn, &realm, kind, "the command line", Utc::now())?;
    let run = follow(conn, &sync, &realm, config, run_id);
    sync.release(conn)?;
    let run = run?;
    print_table(&run, &runs::by_kind(conn, run_id)?)?;
    match run.state.as_str() {
        "done" => Ok(()),
        state => Err(format!("the run is {state}: {}", run.error.unwrap_or_default()).into()),
    }
}

/// Works on the run unless a daemon does, and shows how far it is.
fn follow(
    conn: &mut PgConnection,
    sync: &Sync,
    realm: &Realm,
    config: &Config,
    run_id: i64,
) -> Result<Run, Failure> {
    let options = project::Options {
        batch: config.projection_batch,
        attempts: config.projection_attempts,
        org_per_customer: config.stripe_org_per_customer,
    };
    let (bar, began) = (Bar::new(), Instant::now());
    let mut failing: Option<Instant> = None;
    loop {
        let show = |run: &Run| {
            let per_second = run.found as f64 / began.elapsed().as_secs_f64().max(0.001);
            let text = format!("{} objects, {per_second:.0}/s, {} requests", run.found, run.requests);
            bar.say(text, run.steps_done.unsigned_abs(), run.steps.unsigned_abs());
        };
        let turn = sync.turn(conn, &Utc::now, &|| false)?;
        while project::step(conn, &options, Utc::now())?.taken() > 0 {}
        let run = runs::find(conn, run_id)?;
        show(&run);
        if run.state != "running" {
            bar.end();
            return Ok(run);
        }
        let account = accounts::find(conn, realm)?;
        match account.filter(|account| account.failing_since.is_some()) {
            None => failing = None,
            Some(account) if failing.get_or_insert_with(Instant::now).elapsed() > GIVE_UP => {
                bar.end();
                let why = account.last_error.unwrap_or_default();
                return Err(
                    format!("{why}; the run stays, and the daemon or this command goes on with it").into()
                );
            }
            Some(_) => {}
        }
        if turn == crate::stripe::sync::TurnOutcome::Rest {
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

fn print_table(run: &Run, kinds: &[KindTally]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let took = run.ended_at.zip(run.began_at).map_or(0, |(ended, began)| (ended - began).num_seconds());
    writeln!(out, "{} {} of {}: {} after {took} s", run.kind, run.run_id, name_of(run), run.state)?;
    writeln!(
        out,
        "{:<24}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "kind", "at Stripe", "same", "new", "changed", "held"
    )?;
    for kind in kinds.iter().filter(|kind| kind.object != "unseen" || kind.found > 0) {
        let forbidden = if kind.forbidden { "  the key may not read it" } else { "" };
        writeln!(
            out,
            "{:<24}{:>10}{:>10}{:>10}{:>10}{:>10}{forbidden}",
            kind.object, kind.found, kind.same, kind.new, kind.changed, kind.held
        )?;
    }
    Ok(())
}

fn name_of(run: &Run) -> String {
    let account = if run.account.is_empty() { "our own account" } else { &run.account };
    format!("{account}, {} mode", if run.livemode { "live" } else { "test" })
}
