//! `coulomb dump`: all derived state as canonical JSON lines, for tests to compare and people to search.
//!
//! One line a row: keys sorted, rows sorted, no row ids, no times of arrival. Two databases that received the
//! same set of Stripe events and usage, in any order, give the same bytes.

use std::io::Write;

use diesel::pg::{PgConnection, PgRowByRowLoadingMode};
use diesel::prelude::*;
use diesel::sql_types::{Binary, Bool, Text};
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::stripe::event;
use crate::stripe::order;
use crate::stripe::project;

#[derive(QueryableByName)]
struct SnapshotRow {
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Text)]
    object: String,
    #[diesel(sql_type = Text)]
    object_id: String,
    #[diesel(sql_type = Bool)]
    ambiguous: bool,
    #[diesel(sql_type = Binary)]
    body: Vec<u8>,
}

#[derive(QueryableByName)]
struct LineRow {
    #[diesel(sql_type = Text)]
    line: String,
}

/// Orgs, identified by their external ids; their own ids are random.
const ORGS: &str = "
    SELECT jsonb_build_object(
        'kind', 'org', 'external_id', o.external_id, 'name', o.name,
        'customers', (
            SELECT coalesce(jsonb_agg(l.customer_id ORDER BY l.account, l.livemode, l.customer_id), '[]')
            FROM org_refs r JOIN stripe_customer_links l USING (ref)
            WHERE r.org_id = o.org_id))::text AS line
    FROM orgs o
    ORDER BY o.external_id COLLATE \"C\", o.name COLLATE \"C\", o.org_id";

/// Tables that follow from usage records. A row of zeros means the same as no row. Reserved amounts do not
/// follow from usage, so they are left out.
const USAGE: [&str; 4] = [
    "SELECT jsonb_build_object(
        'kind', 'daily_summary', 'org', coalesce(o.external_id, o.name), 'meter', m.key,
        'member', s.member, 'dimensions', s.dimensions, 'day', d.day,
        'quantity', trim_scale(d.quantity)::text, 'count', d.count, 'cost', trim_scale(d.cost)::text,
        'battery_units', trim_scale(d.battery_units)::text, 'currency', s.currency,
        'latest_at', d.latest_at)::text AS line
    FROM daily_summaries d
    JOIN orgs o USING (org_id)
    JOIN usage_series s USING (org_id, series_id)
    JOIN meters m USING (meter_id)
    WHERE (d.quantity, d.count, d.cost, d.battery_units) <> (0, 0, 0, 0)
    ORDER BY coalesce(o.external_id, o.name) COLLATE \"C\", m.key, s.member NULLS FIRST,
        s.dimensions::text COLLATE \"C\", s.currency NULLS FIRST, d.day, d.org_id",
    "SELECT jsonb_build_object(
        'kind', 'usage_unique', 'org', coalesce(o.external_id, o.name), 'meter', m.key,
        'member', s.member, 'dimensions', s.dimensions, 'day', u.day,
        'value_digest', u.value_digest)::text AS line
    FROM usage_uniques u
    JOIN orgs o USING (org_id)
    JOIN usage_series s USING (org_id, series_id)
    JOIN meters m USING (meter_id)
    ORDER BY coalesce(o.external_id, o.name) COLLATE \"C\", m.key, s.member NULLS FIRST,
        s.dimensions::text COLLATE \"C\", u.day, u.value_digest, u.org_id",
    "SELECT jsonb_build_object(
        'kind', 'rating_counter', 'org', coalesce(o.external_id, o.name), 'meter', m.key,
        'rate_card_version', c.version, 'rate', r.rate, 'period', r.period,
        'began', nullif(r.began, 'epoch'), 'quantity', trim_scale(r.quantity)::text)::text AS line
    FROM rating_counters r
    JOIN orgs o USING (org_id)
    JOIN meters m ON m.meter_id = r.meter_id
    JOIN rate_cards c USING (rate_card_id)
    WHERE r.quantity <> 0
    ORDER BY coalesce(o.external_id, o.name) COLLATE \"C\", m.key, c.version, r.rate, r.period, r.began,
        r.org_id",
    "SELECT jsonb_build_object(
        'kind', 'quota_counter', 'org', coalesce(o.external_id, o.name), 'meter', m.key,
        'filter', q.filter, 'per_subject', q.per_subject, 'period_kind', q.period,
        'subject', c.subject, 'period', c.period, 'began', nullif(c.began, 'epoch'),
        'used', trim_scale(c.used)::text)::text AS line
    FROM quota_counters c
    JOIN orgs o USING (org_id)
    JOIN quota_slots q USING (slot_id)
    JOIN meters m USING (meter_id)
    WHERE c.used <> 0
    ORDER BY coalesce(o.external_id, o.name) COLLATE \"C\", m.key, q.filter::text COLLATE \"C\",
        q.per_subject, q.period COLLATE \"C\", c.subject, c.period, c.began, c.org_id",
];

/// Grants and balances. How much of each grant remains depends on the order of usage, so it is left out.
const BATTERY: [&str; 2] = [
    "SELECT jsonb_build_object(
        'kind', 'battery', 'org', coalesce(o.external_id, o.name),
        'balance', trim_scale(a.balance)::text)::text AS line
    FROM battery_accounts a
    JOIN orgs o USING (org_id)
    WHERE a.entries > 0
    ORDER BY coalesce(o.external_id, o.name) COLLATE \"C\", a.org_id",
    "SELECT jsonb_build_object(
        'kind', 'battery_grant', 'org', coalesce(o.external_id, o.name), 'source', g.source,
        'for', g.source_key, 'amount', trim_scale(g.amount)::text, 'expires_at', g.expires_at)::text AS line
    FROM battery_grants g
    JOIN orgs o USING (org_id)
    ORDER BY coalesce(o.external_id, o.name) COLLATE \"C\", g.source_key, g.org_id",
];

/// Writes all derived state to `out`.
///
/// # Errors
/// The database or the output fails.
pub fn write(conn: &mut PgConnection, out: &mut dyn Write) -> Result<(), Error> {
    // One snapshot, so that changes of a running daemon do not mix with it.
    conn.build_transaction().repeatable_read().read_only().run(|conn| {
        for table in project::tables().into_iter().filter(|table| *table != "stripe_objects") {
            let kind = kind_of(table);
            // When a period was last shown is a time of arrival.
            let sql = format!(
                "SELECT (to_jsonb(t) - 'shown_at' || jsonb_build_object('kind', '{kind}'))::text AS line
                 FROM {table} t ORDER BY {}",
                sort_key(table)
            );
            write_lines(conn, &sql, out)?;
        }
        write_lines(conn, ORGS, out)?;
        for sql in USAGE.into_iter().chain(BATTERY) {
            write_lines(conn, sql, out)?;
        }
        write_snapshots(conn, out)
    })
}

/// Writes the lines that `sql` returns, with sorted keys.
fn write_lines(conn: &mut PgConnection, sql: &str, out: &mut dyn Write) -> Result<(), Error> {
    for line in diesel::sql_query(sql).load_iter::<LineRow, PgRowByRowLoadingMode>(conn)? {
        let value: Value =
            serde_json::from_str(&line?.line).map_err(|error| Error::Internal(error.to_string()))?;
        write_value(out, &value)?;
    }
    Ok(())
}

/// Writes the winning snapshots as Stripe sent them, without fields that say nothing about the state.
/// Objects of a connected account have its id; objects of
/// the own account have none.
fn write_snapshots(conn: &mut PgConnection, out: &mut dyn Write) -> Result<(), Error> {
    let rows = diesel::sql_query(
        "SELECT o.account, o.object, o.object_id, o.ambiguous, i.body FROM stripe_objects o
         JOIN stripe_inbox i USING (inbox_id)
         ORDER BY o.object, o.object_id, o.account, o.livemode",
    );
    for row in rows.load_iter::<SnapshotRow, PgRowByRowLoadingMode>(conn)? {
        let row = row?;
        let event: Value = serde_json::from_slice(event::without_bom(&row.body))
            .map_err(|error| Error::Internal(error.to_string()))?;
        let mut line = Map::new();
        line.insert("kind".to_owned(), json!("stripe_object"));
        line.insert("object".to_owned(), json!(row.object));
        line.insert("id".to_owned(), json!(row.object_id));
        let mut snapshot = event["data"]["object"].clone();
        order::leave_out_stateless(&mut snapshot);
        line.insert("snapshot".to_owned(), snapshot);
        if !row.account.is_empty() {
            line.insert("account".to_owned(), json!(row.account));
        }
        write_value(out, &Value::Object(line))?;
        if row.ambiguous {
            write_value(out, &json!({ "kind": "ambiguous", "object": row.object, "id": row.object_id }))?;
        }
    }
    Ok(())
}

/// Writes a line. `serde_json` sorts its keys, see the test below.
fn write_value(out: &mut dyn Write, value: &Value) -> Result<(), Error> {
    writeln!(out, "{value}").map_err(|error| Error::Internal(format!("the output failed: {error}")))
}

/// The kind of a table's rows: `invoice_line` for `invoice_lines`, `tax_rate` for `tax_rates`.
fn kind_of(table: &str) -> &str {
    table.strip_suffix('s').unwrap_or(table)
}

fn sort_key(table: &str) -> &'static str {
    match table {
        "invoice_lines" => "account, livemode, invoice_id, line_number",
        "checkout_line_items" => "account, livemode, session_id, line_number",
        "credit_note_lines" => "account, livemode, credit_note_id, line_number",
        "subscription_periods" => "account, livemode, subscription_id, price_id, period_start",
        "subscription_prices" => "account, livemode, subscription_id, price_id",
        "subscription_items" => "account, livemode, subscription_id, item_number",
        _ => "account, livemode, id",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keys_come_out_sorted() {
        // If a dependency turns on serde_json's `preserve_order`, the canonical form breaks.
        let value: serde_json::Value = serde_json::from_str(r#"{"b":1,"a":{"d":1,"c":2}}"#).expect("json");
        assert_eq!(value.to_string(), r#"{"a":{"c":2,"d":1},"b":1}"#);
    }
}
