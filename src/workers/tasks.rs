//! What each worker does in a turn.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;

use super::NextTurn;
use crate::api::commands;
use crate::app::App;
use crate::audit;
use crate::auth::uses;
use crate::battery::{effects, upkeep};
use crate::billing::told;
use crate::charging;
use crate::db;
use crate::erasure;
use crate::error::Error;
use crate::integrity::derived_tables::CountingSettings;
use crate::invoicing::{reminders, run};
use crate::messages::{dispatch, retention};
use crate::metering::counters;
use crate::metering::{catalog, partitions};
use crate::plans::{subscriptions, unit_grants};
use crate::quota::{reservation_batch, reservations};
use crate::stripe::project;
use crate::stripe::sync::TurnOutcome;
use crate::time::ClockState;

/// Markers of effects in one transaction. Each may lock an account that usage waits for, and takes 0.1 ms.
const EFFECTS_BATCH: u32 = 250;
/// While many webhooks wait for their answer, a projector pauses for this many times the length of its turn:
/// Stripe waits for the answers, and nobody notices a projection that comes some tenths of a second later.
const PAUSE_PER_TURN: u32 = 15;
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long it is remembered in memory when a key was used: longer than until it is written.
const USES_KEPT: TimeDelta = TimeDelta::minutes(10);
/// Drafts are made for so long in one turn. Those that are left are made in the next one.
const LONGEST_DRAFTING: Duration = Duration::from_secs(60);
/// The longest billing period: three years.
const BILLING_DAYS: i64 = 3 * 366;

/// Ends local subscriptions that are due, tells of trials that end soon, and grants the units of periods that
/// have begun.
pub(super) fn update_local_subscriptions(app: &App, conn: &mut PgConnection) -> Result<NextTurn, Error> {
    let now = app.clock.now();
    if subscriptions::end_due(conn, app.as_of())? > 0 {
        return Ok(NextTurn::AtOnce);
    }
    db::run_once(conn, |conn| told::write_trial_endings(conn, now))?;
    let mut after = None;
    loop {
        after = unit_grants::grant_begun(conn, after, now)?;
        if after.is_none() {
            return Ok(NextTurn::AfterInterval);
        }
    }
}

/// Reads at Stripe what is due.
pub(super) fn read_stripe(app: &App, conn: &mut PgConnection) -> Result<NextTurn, Error> {
    let Some(sync) = &app.stripe else { return Ok(NextTurn::AfterInterval) };
    match sync.turn(conn, &|| app.clock.now(), &|| app.wake.is_stopped())? {
        TurnOutcome::More => Ok(NextTurn::AtOnce),
        TurnOutcome::Rest => Ok(NextTurn::AfterInterval),
    }
}

/// Lets another daemon go on at once.
pub(super) fn release_stripe(app: &App, conn: &mut PgConnection) -> Result<(), Error> {
    app.stripe.as_ref().map_or(Ok(()), |sync| sync.release(conn))
}

/// Plans and sends usage that goes to Stripe.
pub(super) fn charge_usage(app: &App, conn: &mut PgConnection) -> Result<NextTurn, Error> {
    let Some(sync) = &app.stripe else { return Ok(NextTurn::AfterInterval) };
    let (now, is_stopped) = (|| app.clock.now(), || app.wake.is_stopped());
    match app.charger.turn(sync, &app.directory, conn, &now, &is_stopped)? {
        charging::TurnOutcome::More => Ok(NextTurn::AtOnce),
        charging::TurnOutcome::Rest => Ok(NextTurn::AfterInterval),
    }
}

/// Lets another daemon go on at once.
pub(super) fn release_charging(app: &App, conn: &mut PgConnection) -> Result<(), Error> {
    app.stripe.as_ref().map_or(Ok(()), |sync| app.charger.release(sync, conn))
}

/// Drafts and finalises invoices whose time has come, and writes reminders.
pub(super) fn run_billing(app: &App, conn: &mut PgConnection) -> Result<NextTurn, Error> {
    let now = app.clock.now();
    let (began, mut after) = (Instant::now(), 0);
    while run::make_drafts(conn, &app.directory, &mut after, now)? && began.elapsed() < LONGEST_DRAFTING {}
    let more_drafts = run::finalise_due(conn, &app.directory, now)?;
    let reminded = db::run_once(conn, |conn| reminders::remind(conn, now))?;
    Ok(if after > 0 || more_drafts || reminded > 0 { NextTurn::AtOnce } else { NextTurn::AfterInterval })
}

/// Ends reservations whose time is over.
pub(super) fn end_overdue_reservations(app: &App, conn: &mut PgConnection) -> Result<NextTurn, Error> {
    let ended = reservation_batch::end_overdue(conn, app.clock.now())?;
    Ok(if ended == 0 { NextTurn::AfterInterval } else { NextTurn::AtOnce })
}

/// Posts what is due in batteries that nobody uses, and grants the allowances of days that have begun.
pub(super) fn update_batteries(app: &App, conn: &mut PgConnection) -> Result<NextTurn, Error> {
    let now = app.clock.now();
    let posted = db::run_once(conn, |conn| upkeep::post_due(conn, now))?;
    Ok(if grant_allowances(app, conn, now)? || posted > 0 {
        NextTurn::AtOnce
    } else {
        NextTurn::AfterInterval
    })
}

/// Grants some orgs the allowance of their day; returns whether there may be more orgs.
fn grant_allowances(app: &App, conn: &mut PgConnection, now: DateTime<Utc>) -> Result<bool, Error> {
    let version = catalog::version(conn)?;
    let rules = app.rules.at(version).map_or_else(|| app.rules.refresh(conn), Ok)?;
    if !rules.limits.battery.any_daily() {
        return Ok(false);
    }
    let Some(step) = app.allowances.next(conn, now)? else { return Ok(false) };
    let granted = db::run_once(conn, |conn| {
        // The plans must still be the same when this commits.
        if catalog::lock_shared(conn)? != rules.version() {
            return Ok(None);
        }
        upkeep::grant(conn, &app.directory, &rules.limits.battery, step, now).map(Some)
    })?;
    if let Some(reached) = granted {
        app.allowances.done(step, reached);
    }
    Ok(true)
}

/// Deletes counters of old quota periods, and old reservations.
pub(super) fn delete_quota_periods(app: &App, conn: &mut PgConnection) -> Result<NextTurn, Error> {
    if !may_delete(app) {
        return Ok(NextTurn::AfterInterval);
    }
    let now = app.clock.now();
    // One day more, because a local day may begin before the day of UTC.
    let before = |days: i64| (now - TimeDelta::days(days + 1)).date_naive();
    let days = i64::from(app.config.quota_retention_days);
    let oldest = counters::CounterHorizon {
        org: before(days),
        subject: before(i64::from(app.config.quota_subject_retention_days)),
        billing: before(days + BILLING_DAYS),
    };
    // Ended reservations are kept as long as usage may come late.
    let late = TimeDelta::days(i64::from(app.config.usage_window_back_days));
    let deleted = counters::delete_old(conn, oldest)? + reservations::forget_old(conn, now - late)?;
    Ok(if deleted == 0 { NextTurn::AfterInterval } else { NextTurn::AtOnce })
}

/// Projects a batch of Stripe events, then their effects on batteries.
pub(super) fn project_inbox(app: &App, conn: &mut PgConnection) -> Result<NextTurn, Error> {
    let began = Instant::now();
    // While webhooks wait, a turn takes half the batch. The pause follows the length of the turn, so
    // projectors keep their share of the time.
    let divisor = if app.inbox.is_pressed() { 2 } else { 1 };
    let options = project::Options {
        batch: (app.config.projection_batch / divisor).max(1),
        attempts: app.config.projection_attempts,
        org_per_customer: app.config.stripe_org_per_customer,
    };
    let step = project::step(conn, &options, app.clock.now())?;
    for (outcome, events) in [
        ("applied", step.applied),
        ("superseded", step.superseded),
        ("without_object", step.without_object),
        ("failed", step.failed),
        ("repeated", step.repeated),
    ] {
        app.metrics.count_projected(outcome, events);
    }
    // Effects of these events, and effects that other projectors or commands have left.
    let options = effects::EffectOptions {
        batch: EFFECTS_BATCH,
        proration: app.config.battery_proration,
        grace_days: app.config.past_due_grace_days,
    };
    let (mut effects, mut full) = (0_u64, true);
    // Stop after about as many effects as these events can have.
    while full && effects <= 2 * step.taken() {
        let done = effects::run_batch(conn, &options, app.clock.now())?;
        full = done >= EFFECTS_BATCH as usize;
        effects += u64::try_from(done).unwrap_or(u64::MAX);
    }
    Ok(if step.taken() == 0 && effects == 0 {
        NextTurn::AfterInterval
    } else if app.inbox.is_pressed() {
        NextTurn::WhenCalm((began.elapsed() * PAUSE_PER_TURN).min(LONGEST_PAUSE))
    } else {
        NextTurn::AtOnce
    })
}

/// Hears which orgs have changed, and reads them again.
pub(super) fn listen_for_orgs(app: &App, conn: &mut PgConnection) -> Result<NextTurn, Error> {
    app.directory.listen(conn)?;
    Ok(if app.directory.renew(conn)? { NextTurn::AtOnce } else { NextTurn::AfterInterval })
}

/// Whether the clock may decide which rows are old. A daemon that starts with a wrong clock must not delete
/// rows that are not old.
fn may_delete(app: &App) -> bool {
    app.clock.state() == ClockState::Settled
}

pub(super) fn delete_idempotency_keys(app: &App, conn: &mut PgConnection) -> Result<NextTurn, Error> {
    if !may_delete(app) {
        return Ok(NextTurn::AfterInterval);
    }
    let deleted = commands::forget_old(conn, app.clock.now())?;
    Ok(if deleted == 0 { NextTurn::AfterInterval } else { NextTurn::AtOnce })
}

/// Takes the personal fields of erased orgs out of Stripe's events.
pub(super) fn erase_orgs(app: &App, conn: &mut PgConnection) -> Result<NextTurn, Error> {
    let more = db::run_once(conn, |conn| erasure::step(conn, app.clock.now()))?;
    if more {
        app.wake.all();
    }
    Ok(if more { NextTurn::AtOnce } else { NextTurn::AfterInterval })
}

/// Writes the audit entries of what is only counted, and when keys were used.
pub(super) fn write_tallies(app: &App, conn: &mut PgConnection) -> Result<NextTurn, Error> {
    let now = app.clock.now();
    app.tallies.write(conn, now, false)?;
    let used = app.keyring.uses(now, false);
    app.keyring.written(&used, &uses::write(conn, &used, now, false)?, now);
    app.keyring.forget_unused(now - USES_KEPT);
    if let Some(addresses) = &app.addresses {
        addresses.forget_old();
    }
    Ok(NextTurn::AfterInterval)
}

/// As [`write_tallies`], of the present minute too: the daemon ends.
pub(super) fn write_all_tallies(app: &App) -> Result<(), Error> {
    let now = app.clock.now();
    let uses = app.keyring.uses(now, true);
    if app.tallies.is_empty() && uses.is_empty() {
        return Ok(());
    }
    let conn = &mut app.db.connect_worker()?;
    app.tallies.write(conn, now, true)?;
    uses::write(conn, &uses, now, true).map(drop)
}

/// Creates partitions of usage records and of the audit log ahead of time, and retires old ones.
pub(super) fn maintain_partitions(app: &App, conn: &mut PgConnection) -> Result<NextTurn, Error> {
    let now = app.clock.now();
    partitions::create_ahead(conn, now, app.config.usage_window_back_days)?;
    audit::partitions::create_ahead(conn, now)?;
    let dropped = if may_delete(app) {
        audit::partitions::drop_oldest(conn, app.config.audit_retention_months, now)?
    } else {
        None
    };
    let retired = if may_delete(app) { partitions::remove_oldest(conn, &app.config, now)? } else { None };
    if retired.is_some() {
        app.partitions.forget();
    }
    Ok(if retired.or(dropped).is_some() { NextTurn::AtOnce } else { NextTurn::AfterInterval })
}

/// Compares some past days with their usage records, and repairs them.
pub(super) fn repair_summaries(app: &App, conn: &mut PgConnection) -> Result<NextTurn, Error> {
    let turn = app.summary_repair.turn(conn, CountingSettings::new(&app.config, app.clock.now()))?;
    app.metrics.usage_summaries_repaired.inc_by(turn.repaired);
    Ok(turn.rest.map_or(NextTurn::AfterInterval, NextTurn::After))
}

/// Assigns messages to endpoints.
pub(super) fn assign_messages(app: &App, conn: &mut PgConnection) -> Result<NextTurn, Error> {
    let assigned = db::run_once(conn, |conn| dispatch::assign(conn, app.clock.now()))?;
    Ok(if assigned > 0 { NextTurn::AtOnce } else { NextTurn::AfterInterval })
}

/// Sends messages that are due, and stores what came of it.
pub(super) fn send_messages(app: &App, conn: &mut PgConnection) -> Result<NextTurn, Error> {
    let (is_busy, tally) = app.sender.turn(conn)?;
    app.metrics.count_attempts(tally);
    Ok(if is_busy { NextTurn::AtOnce } else { NextTurn::AfterInterval })
}

/// Waits for messages that are on their way.
pub(super) fn finish_messages(app: &App, conn: &mut PgConnection) -> Result<(), Error> {
    app.metrics.count_attempts(app.sender.finish(conn)?);
    Ok(())
}

/// Deletes messages, deliveries and attempts that are older than the retention.
pub(super) fn delete_messages(app: &App, conn: &mut PgConnection) -> Result<NextTurn, Error> {
    let days = i64::from(app.config.message_retention_days);
    if days == 0 || !may_delete(app) {
        return Ok(NextTurn::AfterInterval);
    }
    let oldest = app.clock.now() - TimeDelta::days(days);
    let deleted = db::run_once(conn, |conn| Ok(retention::forget_old(conn, oldest)?))?;
    Ok(if deleted == 0 { NextTurn::AfterInterval } else { NextTurn::AtOnce })
}
