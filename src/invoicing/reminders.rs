//! Reminders: messages about invoices that are open and were due some days ago.
//!
//! Only what is open is reminded of: when an invoice is paid, void or given up in time, it is not
//! (lago-api #3315). When several steps passed at once, because no daemon ran, the last one alone is sent.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Integer, Text, Timestamptz};
use serde_json::{Value, json};

use super::shown;
use crate::error::Error;
use crate::messages::{self, NewMessage};

/// Reminders that one turn writes, at most.
const BATCH: i64 = 500;

#[derive(QueryableByName)]
struct DueReminder {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = Text)]
    org: String,
    #[diesel(sql_type = Text)]
    invoice_id: String,
    #[diesel(sql_type = Text)]
    number: String,
    #[diesel(sql_type = Text)]
    currency: String,
    #[diesel(sql_type = BigInt)]
    remaining: i64,
    #[diesel(sql_type = Date)]
    due_date: NaiveDate,
    /// The step that is reached, from 1.
    #[diesel(sql_type = Integer)]
    step: i32,
    #[diesel(sql_type = Integer)]
    days_overdue: i32,
}

/// Writes the reminders that are due, in the caller's transaction, and returns how many.
pub fn remind(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<usize, Error> {
    let due: Vec<DueReminder> = diesel::sql_query(
        "WITH due AS (
             SELECT i.org_id, i.invoice_id, r.step, t.today - i.due_date AS days_overdue
             FROM own_invoices i
             JOIN sellers s USING (seller_id)
             JOIN orgs p ON p.org_id = i.org_id AND p.archived_at IS NULL AND p.erased_at IS NULL
             CROSS JOIN LATERAL (SELECT ($1 AT TIME ZONE (s.settings ->> 'time_zone'))::date AS today) t
             CROSS JOIN LATERAL (SELECT max(d.place)::integer AS step
                 FROM jsonb_array_elements_text(s.settings -> 'reminder_days') WITH ORDINALITY d (days, place)
                 WHERE i.due_date + d.days::integer <= t.today) r
             WHERE i.status = 'open' AND i.due_date <= t.today AND r.step > i.reminders
             ORDER BY i.due_date LIMIT $2)
         UPDATE own_invoices i SET reminders = due.step
         FROM due JOIN orgs o USING (org_id)
         WHERE (i.org_id, i.invoice_id) = (due.org_id, due.invoice_id) AND i.status = 'open'
             AND i.reminders < due.step
         RETURNING i.org_id, o.public_id AS org, i.invoice_id, i.number, i.currency,
             i.total - i.amount_paid - i.amount_credited - i.amount_written_off AS remaining,
             i.due_date, due.step, due.days_overdue",
    )
    .bind::<Timestamptz, _>(now)
    .bind::<BigInt, _>(BATCH)
    .load(conn)?;
    let mut reminders = Vec::new();
    for one in &due {
        let object = shown::object(conn, (one.org_id, &one.org), &one.invoice_id)?;
        reminders.push(message(one, object));
    }
    messages::write(conn, reminders, now)?;
    Ok(due.len())
}

fn message(due: &DueReminder, object: Option<Value>) -> NewMessage {
    NewMessage {
        org_id: due.org_id,
        kind: "invoice.reminder",
        dedupe_key: format!("invoice:{}:reminder:{}", due.invoice_id, due.step),
        data: json!({
            "org": due.org,
            "invoice": due.invoice_id,
            "number": due.number,
            "currency": due.currency,
            "amount_remaining": due.remaining,
            "due_date": due.due_date,
            "days_overdue": due.days_overdue,
            "step": due.step,
        }),
        object,
    }
}
