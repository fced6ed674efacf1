//! What the Stripe key may do, and how far the daemon is with it.

use chrono::Utc;
use diesel::pg::PgConnection;

use super::{Finding, is_there};
use crate::charging::charges as usage_charges;
use crate::config::Config;
use crate::error::Error;
use crate::realm::Realm;
use crate::stripe::sync::{self, KeyCheck, Sync, accounts, whose};
use crate::threads::Threads;

/// Asks Stripe whose the key is and what it may read.
pub(super) fn look(conn: &mut PgConnection, config: &Config) -> Result<Finding, Error> {
    let threads = Threads::default();
    let Some(sync) = Sync::start(config, &threads) else {
        return Ok(Finding::Note(
            "STRIPE_SECRET_KEY is not set: Coulomb sees only what webhooks tell, and calls nobody".to_owned(),
        ));
    };
    let KeyCheck { account, forbidden } = match sync.check_key() {
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
            "{} charge(s) through Stripe failed: `coulomb stripe meters charges --state failed` says why, \
             `coulomb stripe meters retry --failed` tries them again",
            counts.failed
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
