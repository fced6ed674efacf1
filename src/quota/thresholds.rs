//! Messages of limits that usage has come near to.

use chrono::{DateTime, SecondsFormat, Utc};
use diesel::pg::PgConnection;
use rust_decimal::Decimal;
use serde_json::json;

use super::limits::Limits;
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::catalog::Catalog;
use crate::metering::counters::MovedCounter;
use crate::metering::slots::Slot;
use crate::outbox::{self, NewMessage};
use crate::quantity::{Quantity, Sum};

/// Writes a message for every threshold that a counter has reached now that usage was added: one per
/// threshold and period. `org` gives the contexts of the orgs concerned. It belongs into the transaction that
/// moved the counters.
pub fn thresholds<'a>(
    conn: &mut PgConnection,
    catalog: &Catalog,
    limits: &Limits,
    org: impl Fn(i64) -> Option<&'a OrgContext>,
    moved: &[MovedCounter],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let mut messages = Vec::new();
    for MovedCounter { key, used, .. } in moved.iter().filter(|moved| moved.added > Sum::ZERO) {
        let Some(org) = org(key.org_id) else { continue };
        let Some((limit, quantity)) =
            limits.of(org, key.slot_id).and_then(|limit| Some((limit, limit.terms.limit?.0)))
        else {
            continue;
        };
        for percent in &limit.terms.thresholds {
            // A limit of nothing is reached by anything.
            let reached = quantity.checked_mul(percent.0).zip(used.shown().checked_mul(Decimal::ONE_HUNDRED));
            if reached.is_none_or(|(threshold, used)| used < threshold) {
                continue;
            }
            let Some((meter, slot)) = slot_of(catalog, key.slot_id) else { continue };
            let (start, end) = key.period.bounds(slot.period, org);
            let data = json!({
                "org": &*org.public_id, "meter": meter, "filter": slot.filter,
                    "subject": slot.per_subject.then_some(&key.subject),
                "period": slot.period, "period_start": start, "period_end": end, "threshold": percent,
                "limit": Quantity(quantity), "used": Quantity(used.shown()),
                    "enforcement": limit.terms.enforcement,
            });
            let period = match key.period.began {
                Some(began) => began.to_rfc3339_opts(SecondsFormat::AutoSi, true),
                None => key.period.label.to_string(),
            };
            let dedupe_key = format!("quota:{}:{period}:{}:{}", key.slot_id, percent.0, key.subject);
            messages.push(NewMessage {
                org_id: key.org_id,
                kind: "quota.threshold_reached",
                dedupe_key,
                data,
            });
        }
    }
    outbox::write(conn, messages, now)
}

fn slot_of(catalog: &Catalog, slot_id: i32) -> Option<(&str, &Slot)> {
    let slot = catalog.slots.values().flatten().find(|slot| slot.slot_id == slot_id)?;
    Some((catalog.meters.get(&slot.meter_id)?.key.as_str(), slot))
}
