//! What the Stripe key may do, and how far the daemon is with it.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use diesel::pg::PgConnection;

use super::{Finding, is_there};
use crate::charging::charges as usage_charges;
use crate::charging::charges::staying::{self, StayingPlanned};
use crate::charging::ways;
use crate::config::Config;
use crate::error::Error;
use crate::realm::Realm;
use crate::stripe::sync::{self, KeyCheck, Sync, accounts, whose};
use crate::threads::Threads;

/// How long Stripe may take for all answers together.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A charge that is planned for longer is not on its way.
const PLANNED_FOR: TimeDelta = TimeDelta::minutes(10);

/// Asks Stripe whose the key is and what it may read.
pub(super) fn look(conn: &mut PgConnection, config: &Config) -> Result<Finding, Error> {
    let threads = Threads::default();
    let Some(sync) = Sync::start(config, &threads) else {
        return Ok(Finding::Note(
            "STRIPE_SECRET_KEY is not set: Coulomb sees only what webhooks tell, and calls nobody".to_owned(),
        ));
    };
    let KeyCheck { account, forbidden } = match sync.check_key(ANSWER_WITHIN) {
        Ok(check) => check,
        Err(error) if error.is_temporary() && error.refusal().is_none_or(|refusal| refusal.status != 401) => {
            return Ok(Finding::Bad(format!("Stripe cannot be asked now: {error}")));
        }
        Err(error) => {
            return Ok(Finding::Bad(format!("the key of STRIPE_SECRET_KEY does not work: {error}")));
        }
    };
    let livemode = sync.client().livemode();
    if is_there(conn, "stripe_accounts")? {
        let own = Realm { account: String::new(), livemode };
        let known = accounts::find(conn, &own)?.and_then(|known| known.stripe_id);
        if let Some(Err(error)) = known.map(|known| whose::is_same(&account, &known)) {
            return Ok(Finding::Bad(format!("{error}; nothing is read or charged")));
        }
    }
    let mode = if livemode { "live" } else { "test" };
    if !forbidden.is_empty() {
        return Ok(Finding::Bad(format!(
            "{account}, {mode} mode; the key may not read {}: give it these rights, or these mirrors stay \
             incomplete",
            forbidden.join(", ")
        )));
    }
    if !is_there(conn, "stripe_accounts")? {
        return Ok(Finding::Good(format!("{account}, {mode} mode; the key may read all kinds")));
    }
    let state = sync::backlog(conn, Utc::now())?;
    let text = format!(
        "{account}, {mode} mode; the key may read all kinds; {} object(s) to read, {} difference(s) found",
        state.wanted, state.drift
    );
    Ok(match state {
        _ if state.failing > 0 => {
            Finding::Bad(format!("{text}; calls fail: `GET /v1/stripe/sync` says why, for each account"))
        }
        _ if state.failed_runs > 0 => Finding::Bad(format!(
            "{text}; the last run failed: `GET /v1/stripe/sync` says why, `coulomb stripe sync` begins \
             another, and so does the daemon tomorrow"
        )),
        _ if state.wanted_failed > 0 => {
            Finding::Note(format!("{text}; {} object(s) could not be read yet", state.wanted_failed))
        }
        _ => Finding::Good(text),
    })
}

/// Usage that is charged through Stripe, and is not there.
pub(super) fn charges(conn: &mut PgConnection) -> Result<Finding, Error> {
    if !is_there(conn, "stripe_charges")? {
        return Ok(Finding::Good("no usage is charged through Stripe".to_owned()));
    }
    let counts = usage_charges::counts(conn, Utc::now())?;
    if counts.failed > 0 {
        return Ok(Finding::Bad(format!(
            "{} charge(s) through Stripe failed, {} wait: `coulomb stripe meters charges --state failed` (or \
             waiting) says why, `coulomb stripe meters retry --failed` tries the failed ones again",
            counts.failed, counts.waiting
        )));
    }
    let staying = staying::count(conn, Utc::now() - PLANNED_FOR)?;
    if staying.charges > 0 {
        return Ok(Finding::Bad(not_sent(&staying)));
    }
    let without_prices = ways::without_prices(conn)?;
    if !without_prices.is_empty() {
        return Ok(Finding::Note(format!(
            "{} goes to Stripe as invoice items and has no rate card: nothing of it is charged; give it one \
             (backdated), then `coulomb meter rate-usage`",
            without_prices.join(", ")
        )));
    }
    if counts.waiting > 0 {
        return Ok(Finding::Note(format!(
            "{} charge(s) through Stripe wait for something: `coulomb stripe meters charges --state \
             waiting` says for what",
            counts.waiting
        )));
    }
    Ok(Finding::Good("no charge through Stripe waits or failed".to_owned()))
}

/// Says since when charges are not sent, what Stripe answered, and what to do.
fn not_sent(staying: &StayingPlanned) -> String {
    let since = staying.since.map(|since| format!(" since {}", since.format("%F %R"))).unwrap_or_default();
    let because = match staying.detail.as_deref() {
        Some(detail) => format!("of the oldest: {detail}"),
        None => "Stripe was not asked".to_owned(),
    };
    format!(
        "{} charge(s) through Stripe are planned{since} and not sent; {because}: {}",
        staying.charges,
        advice(staying.detail.as_deref())
    )
}

/// What to do after Stripe's answer.
fn advice(detail: Option<&str>) -> &'static str {
    match detail {
        None => "run `coulomb serve` with STRIPE_SECRET_KEY; its log says what holds it up",
        Some(detail) if detail.starts_with("Stripe answered 403") => {
            "give the key the right (deploy/coulomb.toml.example lists them); the daemon sends them then"
        }
        Some(detail) if detail.starts_with("Stripe answered 401") => {
            "set STRIPE_SECRET_KEY to a key that works, and start the daemon again"
        }
        Some(_) => "the daemon tries again by itself; see whether Stripe works (status.stripe.com)",
    }
}
