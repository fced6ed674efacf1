//! Messages about limits that usage has come near to.

use std::collections::BTreeSet;

use chrono::{DateTime, SecondsFormat, Utc};
use diesel::pg::PgConnection;
use rust_decimal::Decimal;
use serde_json::json;

use super::limit_status::reach;
use super::limits::Limit;
use super::rulebook::Rulebook;
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::messages::{self, NewMessage};
use crate::metering::counters::{self, CounterKey, Counts, MovedCounter};
use crate::metering::meters::Meter;
use crate::metering::periods::Period;
use crate::metering::rolling;
use crate::metering::slots::Slot;
use crate::quantity::{Quantity, Sum};

/// Writes a message for every threshold that a counter has reached now that usage was added: one per
/// threshold and period, of a rolling window one each time that usage crosses the threshold. `org` finds the
/// orgs concerned. Belongs in the transaction that moved the counters.
pub fn write_messages<'a>(
    conn: &mut PgConnection,
    rules: &Rulebook,
    org: impl Fn(i64) -> Option<&'a OrgContext>,
    moved: &[MovedCounter],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let mut messages = Vec::new();
    let mut windows = BTreeSet::new();
    for MovedCounter { key, used, .. } in moved.iter().filter(|moved| moved.added > Sum::ZERO) {
        let Some(org) = org(key.org_id) else { continue };
        let Some(limit) = rules.limits.limit(org, key.slot_id) else { continue };
        if let Some(window) = rules.catalog.windows.get(&key.slot_id) {
            if !limit.terms.thresholds.is_empty() {
                windows
                    .insert(CounterKey { period: Period::instant(window.segment_start(now)), ..key.clone() });
            }
            continue;
        }
        let Some((meter, slot)) = rules.slot(key.slot_id) else { continue };
        let (start, end) = key.period.bounds(slot.period, org);
        for percent in reached(limit, *used) {
            messages.extend(message(org, (meter, slot), limit, percent, (key, *used), (start, end)));
        }
    }
    messages.extend(crossed_windows(conn, rules, org, moved, &windows)?);
    messages::write(conn, messages, now)
}

/// The messages about rolling windows: their counters are those of the present segments. The transaction has
/// locked their anchors, so it alone takes them over the threshold. Usage that is older than the window moves
/// none.
fn crossed_windows<'a>(
    conn: &mut PgConnection,
    rules: &Rulebook,
    org: impl Fn(i64) -> Option<&'a OrgContext>,
    moved: &[MovedCounter],
    windows: &BTreeSet<CounterKey>,
) -> Result<Vec<NewMessage>, Error> {
    let after = counters::read_ranges(conn, &reach(&rules.catalog, windows))?;
    let mut before = after.clone();
    for MovedCounter { key, added, .. } in moved {
        if let Some(count) = before.get_mut(key) {
            count.used = count.used - *added;
        }
    }
    let mut messages = Vec::new();
    for key in windows {
        let Some(org) = org(key.org_id) else { continue };
        let Some(limit) = rules.limits.limit(org, key.slot_id) else { continue };
        let Some((meter, slot)) = rules.slot(key.slot_id) else { continue };
        let counted = |counts: &Counts| rolling::counted(counts, slot.period.window(), key);
        let (before, after) = (counted(&before).count.used, counted(&after));
        let Some((last, window)) = after.last_segment.zip(slot.period.window()) else { continue };
        let bounds = (last - window.length(), Some(last + window.segment()));
        let known: BTreeSet<Quantity> = reached(limit, before).collect();
        for percent in reached(limit, after.count.used).filter(|percent| !known.contains(percent)) {
            messages.extend(message(org, (meter, slot), limit, percent, (key, after.count.used), bounds));
        }
    }
    Ok(messages)
}

/// The thresholds that so much usage has reached. A limit of 0 is reached by any usage.
fn reached(limit: &Limit, used: Sum) -> impl Iterator<Item = Quantity> {
    let in_percent = used.shown().checked_mul(Decimal::ONE_HUNDRED);
    let is_reached = move |percent: &&Quantity| {
        let threshold = limit.terms.limit.and_then(|limit| limit.0.checked_mul(percent.0));
        threshold.zip(in_percent).is_some_and(|(threshold, used)| used >= threshold)
    };
    limit.terms.thresholds.iter().filter(is_reached).copied()
}

fn message(
    org: &OrgContext,
    (meter, slot): (&Meter, &Slot),
    limit: &Limit,
    percent: Quantity,
    (key, used): (&CounterKey, Sum),
    (start, end): (DateTime<Utc>, Option<DateTime<Utc>>),
) -> Option<NewMessage> {
    let data = json!({
        "org": &*org.public_id,
        "meter": meter.key,
        "filter": slot.filter,
        "subject": slot.per_subject.then_some(&key.subject),
        "period": slot.period,
        "period_start": start,
        "period_end": end,
        "threshold": percent,
        "limit": limit.terms.limit?,
        "used": Quantity(used.shown()),
        "enforcement": limit.terms.enforcement,
    });
    let period = match key.period.began {
        Some(began) => began.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        None => key.period.label.to_string(),
    };
    let dedupe_key = format!("quota:{}:{period}:{}:{}", key.slot_id, percent.0, key.subject);
    Some(NewMessage { org_id: key.org_id, kind: "quota.threshold_reached", dedupe_key, data, object: None })
}
