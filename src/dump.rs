//! All derived state as canonical JSON lines: what tests compare and people grep.
//!
//! One line a row: keys sorted, rows sorted, no row ids, no times of arrival. Two databases that were sent the same set of
//! Stripe events give the same bytes, whatever the order.

use std::io::Write;

use diesel::pg::{PgConnection, PgRowByRowLoadingMode};
use diesel::prelude::*;
use diesel::sql_types::{Binary, Bool, Text};
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::stripe::event;
use crate::verify::DERIVED;

#[derive(QueryableByName)]
struct Object {
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
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

/// Orgs by what they are known by; their own ids are made at random.
const ORGS: &str = "SELECT jsonb_build_object('kind', 'org', 'external_id', o.external_id, 'name', o.name, 'customers',
        (SELECT coalesce(jsonb_agg(l.customer_id ORDER BY l.account, l.livemode, l.customer_id), '[]') FROM org_refs r JOIN stripe_customer_links l USING (ref) WHERE r.org_id = o.org_id))::text AS line
    FROM orgs o ORDER BY o.external_id COLLATE \"C\", o.name COLLATE \"C\", o.org_id";

/// Writes everything, kind by kind.
///
/// # Errors
/// When the database or the output fails.
pub fn write(conn: &mut PgConnection, out: &mut dyn Write) -> Result<(), Error> {
    // One snapshot, so that a running daemon tears nothing.
    conn.build_transaction().repeatable_read().read_only().run(|conn| {
        for table in DERIVED.iter().filter(|table| **table != "stripe_objects") {
            let kind = kind_of(table);
            let sql = format!(
                "SELECT (to_jsonb(t) || jsonb_build_object('kind', '{kind}'))::text AS line FROM {table} t ORDER BY {}",
                sort_key(table)
            );
            lines(conn, &sql, out)?;
        }
        lines(conn, ORGS, out)?;
        objects(conn, out)
    })
}

fn lines(conn: &mut PgConnection, sql: &str, out: &mut dyn Write) -> Result<(), Error> {
    for line in diesel::sql_query(sql).load_iter::<Line, PgRowByRowLoadingMode>(conn)? {
        let value: Value =
            serde_json::from_str(&line?.line).map_err(|error| Error::Internal(error.to_string()))?;
        put(out, &value)?;
    }
    Ok(())
}

/// The winning snapshots as Stripe sent them. A connected account is named; the platform's own is not.
fn objects(conn: &mut PgConnection, out: &mut dyn Write) -> Result<(), Error> {
    let rows = diesel::sql_query(
        "SELECT o.account, o.object, o.object_id, o.ambiguous, i.body FROM stripe_objects o JOIN stripe_inbox i USING (inbox_id)
         ORDER BY o.object, o.object_id, o.account, o.livemode",
    );
    for row in rows.load_iter::<Object, PgRowByRowLoadingMode>(conn)? {
        let row = row?;
        let event: Value = serde_json::from_slice(event::without_bom(&row.body))
            .map_err(|error| Error::Internal(error.to_string()))?;
        let mut line = Map::new();
        line.insert("kind".to_owned(), json!("stripe_object"));
        line.insert("object".to_owned(), json!(row.object));
        line.insert("id".to_owned(), json!(row.object_id));
        line.insert("snapshot".to_owned(), event["data"]["object"].clone());
        if !row.account.is_empty() {
            line.insert("account".to_owned(), json!(row.account));
        }
        put(out, &Value::Object(line))?;
        if row.ambiguous {
            put(out, &json!({ "kind": "ambiguous", "object": row.object, "id": row.object_id }))?;
        }
    }
    Ok(())
}

/// `serde_json`'s map is sorted by key.
fn put(out: &mut dyn Write, value: &Value) -> Result<(), Error> {
    writeln!(out, "{value}").map_err(|error| Error::Internal(format!("the output failed: {error}")))
}

/// `invoice_lines` → `invoice_line`, `tax_rates` → `tax_rate`.
fn kind_of(table: &str) -> &str {
    table.strip_suffix('s').unwrap_or(table)
}

fn sort_key(table: &str) -> &'static str {
    match table {
        "invoice_lines" => "account, livemode, invoice_id, line_number",
        "credit_note_lines" => "account, livemode, credit_note_id, line_number",
        "subscription_items" => "account, livemode, subscription_id, item_number",
        _ => "account, livemode, id",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keys_come_out_sorted() {
        // A dependency that turned on serde_json's `preserve_order` would break the canonical form.
        let value: serde_json::Value = serde_json::from_str(r#"{"b":1,"a":{"d":1,"c":2}}"#).expect("json");
        assert_eq!(value.to_string(), r#"{"a":{"c":2,"d":1},"b":1}"#);
    }
}
