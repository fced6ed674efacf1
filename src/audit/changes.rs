//! What a command changes of a stored thing: its fields before and after, found by the command's route.
//!
//! The command's own transaction reads the thing twice, without a lock. Only fields that differ are kept.

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Jsonb, Nullable, Text};
use serde_json::{Map, Value};

use crate::error::Error;

/// How a stored thing changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The fields that differ, as they were; `None`: there was no such thing.
    pub before: Option<Value>,
    /// The fields that differ, as they are; `None`: it is gone.
    pub after: Option<Value>,
}

/// Routes of commands, and the SQL of what each changes. `$1` and `$2` are the parts of its path; where a
/// route makes a thing and its path does not name it, `$1` is the target of its audit entry.
const STORED: &[(&str, &str)] = &[
    ("/v1/orgs", ORG),
    ("/v1/orgs/{id}", ORG),
    ("/v1/orgs/{id}/suspend", ORG),
    ("/v1/orgs/{id}/resume", ORG),
    ("/v1/orgs/{id}/archive", ORG),
    ("/v1/orgs/{id}/restore", ORG),
    ("/v1/orgs/{id}/billing", PROFILE),
    ("/v1/orgs/{id}/coupons/{code}", ORG_COUPON),
    ("/v1/orgs/{id}/subscription", SUBSCRIPTION),
    ("/v1/orgs/{id}/subscription/activate", SUBSCRIPTION),
    ("/v1/orgs/{id}/subscription/cancel", SUBSCRIPTION),
    ("/v1/orgs/{id}/subscription/change", SUBSCRIPTION),
    ("/v1/orgs/{id}/subscription/import", SUBSCRIPTION),
    ("/v1/orgs/{id}/stripe_customers/{customer_id}", LINK),
    ("/v1/stripe/meters/{meter}", STRIPE_METER),
    ("/v1/plans/{id}", PLAN),
    ("/v1/plans/{id}/quotas", PLAN),
    ("/v1/quotas", QUOTA),
    ("/v1/quotas/{id}", QUOTA),
    ("/v1/quota_exemptions", EXEMPTION),
    ("/v1/quota_exemptions/{id}", EXEMPTION),
    ("/v1/meters", METER),
    ("/v1/meters/{key}", METER),
    ("/v1/meters/{key}/rate_cards", RATE_CARD),
    ("/v1/sellers/{id}", "SELECT to_jsonb(t) AS state FROM sellers t WHERE seller_id = $1 AND $2 = $2"),
    (
        "/v1/tax_rates/{id}",
        "SELECT to_jsonb(t) AS state FROM own_tax_rates t WHERE tax_rate_id = $1 AND $2 = $2",
    ),
    ("/v1/coupons/{code}", "SELECT to_jsonb(t) AS state FROM own_coupons t WHERE code = $1 AND $2 = $2"),
    ("/v1/payment_accounts/{id}", PAYMENT_ACCOUNT),
    ("/v1/keys", KEY),
    ("/v1/keys/{id}", KEY),
    ("/v1/keys/{id}/rotate", KEY),
    ("/v1/message_endpoints", ENDPOINT),
    ("/v1/message_endpoints/{id}", ENDPOINT),
    ("/v1/invoices/{id}", INVOICE),
    ("/v1/invoices/{id}/void", INVOICE),
    ("/v1/invoices/{id}/write_off", INVOICE),
    ("/v1/battery/packs/{id}", PACK),
    ("/v1/battery/settings/{org}", BATTERY_SETTINGS),
    ("/v1/battery/effects/ignored/{kind}/{id}", IGNORED),
];

const ORG: &str = "SELECT to_jsonb(o) AS state FROM orgs o JOIN org_refs r USING (org_id)
    WHERE r.ref = $1 AND $2 = $2";
const PROFILE: &str = "SELECT to_jsonb(t) AS state FROM billing_profiles t JOIN org_refs r USING (org_id)
    WHERE r.ref = $1 AND $2 = $2";
const ORG_COUPON: &str = "SELECT to_jsonb(t) AS state FROM org_coupons t JOIN org_refs r USING (org_id)
    WHERE r.ref = $1 AND t.code = $2";
const SUBSCRIPTION: &str =
    "SELECT to_jsonb(t) AS state FROM local_subscriptions t JOIN org_refs r USING (org_id)
    WHERE r.ref = $1 AND $2 = $2 ORDER BY t.created_at DESC, t.subscription_id DESC LIMIT 1";
const LINK: &str = "SELECT jsonb_build_object('links', jsonb_agg(to_jsonb(l) ORDER BY l.account, l.livemode))
    AS state FROM stripe_customer_links l WHERE l.customer_id = $2 AND $1 = $1 HAVING count(*) > 0";
/// A plan with its newest version and that version's quotas.
const PLAN: &str = "SELECT to_jsonb(p) || jsonb_build_object('version', (
        SELECT to_jsonb(v) FROM plan_versions v WHERE v.plan_id = p.plan_id ORDER BY v.version DESC LIMIT 1
    ), 'quotas', (
        SELECT jsonb_agg(to_jsonb(q) ORDER BY q.slot_id) FROM plan_quotas q WHERE q.plan_id = p.plan_id
            AND q.version = (SELECT max(x.version) FROM plan_quotas x WHERE x.plan_id = p.plan_id)
    ), 'stripe_prices', (
        SELECT jsonb_agg(to_jsonb(s) ORDER BY s.price_id) FROM plan_stripe_prices s
        WHERE s.plan_id = p.plan_id
    )) AS state FROM plans p WHERE p.plan_id = $1 AND $2 = $2";
const QUOTA: &str = "SELECT to_jsonb(q) AS state FROM quotas q WHERE q.quota_id = $1 AND $2 = $2";
const EXEMPTION: &str = "SELECT to_jsonb(q) AS state FROM quota_exemptions q WHERE q.exemption_id = $1
    AND $2 = $2";
const METER: &str = "SELECT to_jsonb(m) || jsonb_build_object('version', (
        SELECT to_jsonb(v) FROM meter_versions v WHERE v.meter_id = m.meter_id ORDER BY v.version DESC LIMIT 1
    )) AS state FROM meters m WHERE m.key = $1 AND $2 = $2";
const STRIPE_METER: &str = "SELECT to_jsonb(w) - 'scanned_until' AS state
    FROM stripe_meters w JOIN meters m USING (meter_id) WHERE m.key = $1 AND $2 = $2
    ORDER BY w.until DESC NULLS FIRST LIMIT 1";
const RATE_CARD: &str = "SELECT to_jsonb(c) AS state FROM rate_cards c JOIN meters m USING (meter_id)
    WHERE m.key = $1 AND $2 = $2 ORDER BY c.rate_card_id DESC LIMIT 1";
const PAYMENT_ACCOUNT: &str = "SELECT to_jsonb(t) AS state FROM payment_accounts t
    WHERE payment_account_id = $1 AND $2 = $2";
const KEY: &str =
    "SELECT to_jsonb(k) - 'secret_sha256' AS state FROM api_keys k WHERE k.key_id = $1 AND $2 = $2";
const ENDPOINT: &str = "SELECT to_jsonb(e) AS state FROM message_endpoints e
    WHERE e.endpoint_id = $1 AND $2 = $2";
const INVOICE: &str = "SELECT to_jsonb(i) AS state FROM own_invoices i WHERE i.invoice_id = $1 AND $2 = $2";
const PACK: &str = "SELECT to_jsonb(p) || jsonb_build_object('stripe_prices', (
        SELECT jsonb_agg(to_jsonb(s) ORDER BY s.price_id) FROM battery_pack_stripe_prices s
        WHERE s.pack_id = p.pack_id
    )) AS state FROM battery_packs p WHERE p.pack_id = $1 AND $2 = $2";
const BATTERY_SETTINGS: &str = "SELECT to_jsonb(t) AS state FROM battery_settings t
    JOIN org_refs r USING (org_id) WHERE r.ref = $1 AND $2 = $2";
const IGNORED: &str = "SELECT to_jsonb(t) AS state FROM battery_effects_ignored t
    WHERE t.kind = $1 AND t.id = $2";

/// Fields that say nothing of what changed.
const NOISE: [&str; 3] = ["updated_at", "last_used_at", "org_id"];

/// A stored thing before a command changes it.
#[derive(Clone, Debug)]
pub struct Watched {
    sql: &'static str,
    /// Parts of the path; empty: the command makes the thing, and its audit entry will name it.
    names: Vec<String>,
    before: Option<Value>,
}

impl Watched {
    /// Reads what a command on `route` with these parts of its path is about to change; `None`: it changes
    /// nothing of which fields are kept.
    ///
    /// # Errors
    /// The database fails.
    pub fn begin(conn: &mut PgConnection, route: &str, names: &[String]) -> Result<Option<Self>, Error> {
        let Some((_, sql)) = STORED.iter().find(|(of, _)| *of == route) else { return Ok(None) };
        let before = if names.is_empty() { None } else { state(conn, sql, names)? };
        Ok(Some(Self { sql, names: names.to_vec(), before }))
    }

    /// Reads it again. `target` names the thing if the command made it.
    ///
    /// # Errors
    /// The database fails.
    pub fn end(self, conn: &mut PgConnection, target: &str) -> Result<Change, Error> {
        let names = if self.names.is_empty() { vec![target.to_owned()] } else { self.names };
        let after = state(conn, self.sql, &names)?;
        Ok(difference(self.before, after))
    }
}

fn state(conn: &mut PgConnection, sql: &str, names: &[String]) -> Result<Option<Value>, Error> {
    #[derive(QueryableByName)]
    struct State {
        #[diesel(sql_type = Nullable<Jsonb>)]
        state: Option<Value>,
    }
    let name = |place: usize| names.get(place).map(String::as_str).unwrap_or_default();
    let row: Option<State> = diesel::sql_query(sql)
        .bind::<Text, _>(name(0))
        .bind::<Text, _>(name(1))
        .get_result(conn)
        .optional()?;
    Ok(row.and_then(|row| row.state))
}

/// The fields that differ.
fn difference(before: Option<Value>, after: Option<Value>) -> Change {
    let fields = |value: Option<Value>| match value {
        Some(Value::Object(mut fields)) => {
            fields.retain(|name, _| !NOISE.contains(&name.as_str()));
            Some(fields)
        }
        _ => None,
    };
    let (mut before, mut after) = (fields(before), fields(after));
    if let (Some(before), Some(after)) = (&mut before, &mut after) {
        let is_same = |name: &str, one: &Map<String, Value>, other: &Map<String, Value>| {
            one.get(name) == other.get(name)
        };
        let same: Vec<String> = before.keys().filter(|name| is_same(name, before, after)).cloned().collect();
        for name in same {
            before.remove(&name);
            after.remove(&name);
        }
    }
    Change { before: before.map(Value::Object), after: after.map(Value::Object) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_differs_is_kept() {
        let change = difference(
            Some(json!({ "name": "a", "rank": 1, "updated_at": 1, "gone": true })),
            Some(json!({ "name": "b", "rank": 1, "updated_at": 2, "new": null })),
        );
        assert_eq!(change.before, Some(json!({ "name": "a", "gone": true })));
        assert_eq!(change.after, Some(json!({ "name": "b", "new": null })));
        let same = difference(Some(json!({ "name": "a" })), Some(json!({ "name": "a" })));
        assert_eq!((same.before, same.after), (Some(json!({})), Some(json!({}))));
        let made = difference(None, Some(json!({ "name": "a", "org_id": 7 })));
        assert_eq!((made.before, made.after), (None, Some(json!({ "name": "a" }))));
    }

    #[test]
    fn every_route_of_the_table_is_a_command() {
        let described: Value = serde_json::from_str(include_str!("../../docs/openapi.json")).expect("JSON");
        for (route, _) in STORED {
            let methods =
                described["paths"][*route].as_object().unwrap_or_else(|| panic!("no route {route}"));
            assert!(methods.keys().any(|method| method != "get"), "{route} changes nothing");
        }
    }
}
