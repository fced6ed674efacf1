//! Rows that tests write by SQL: usage for tests of reads and rebuilds, and plans and packs sold before
//! today. Everything that the API can make is made by the API.

use coulomb::metering::digest::event_key;

use super::Database;

/// A usage record with the columns of its table.
#[derive(Clone)]
pub struct RecordRow {
    pub org: &'static str,
    pub meter: &'static str,
    pub id: String,
    pub at: String,
    pub quantity: String,
    pub member: Option<&'static str>,
    pub dimensions: &'static str,
    pub subject: Option<&'static str>,
    pub value: Option<&'static str>,
    pub cost: &'static str,
    pub card: Option<i32>,
    pub day: Option<&'static str>,
    pub correction: i16,
}

pub fn record(org: &'static str, meter: &'static str, id: &str, at: &str, quantity: &str) -> RecordRow {
    RecordRow {
        org,
        meter,
        id: id.to_owned(),
        at: at.to_owned(),
        quantity: quantity.to_owned(),
        member: None,
        dimensions: "{}",
        subject: None,
        value: None,
        cost: "0",
        card: None,
        day: None,
        correction: 0,
    }
}

fn text(value: Option<&str>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |value| format!("'{value}'"))
}

/// An org by its external id; its public id adds the prefix `org_`.
pub fn org(database: &Database, name: &str, zone: &str) {
    database.execute(&format!(
        "WITH o AS (INSERT INTO orgs (public_id, external_id, name, time_zone, created_at, metadata)
                    VALUES ('org_{name}', '{name}', '{name}', '{zone}', now(), '{{}}') RETURNING org_id)
         INSERT INTO org_refs (ref, org_id)
         SELECT unnest(ARRAY['org_{name}', '{name}']), org_id FROM o"
    ));
}

/// A meter; `dimensions` are separated by commas.
pub fn meter(database: &Database, key: &str, aggregation: &str, dimensions: &str) {
    database.execute(&format!(
        "WITH m AS (INSERT INTO meters (meter_id, key, aggregation, unit, created_at)
             SELECT coalesce(max(meter_id), 0) + 1, '{key}', '{aggregation}', 'units', now() FROM meters
             RETURNING meter_id)
         INSERT INTO meter_versions
             (meter_id, version, name, event_name, value_field, dimensions, created_at)
         SELECT meter_id, 1, '{key}', '{key}', 'value', string_to_array('{dimensions}', ','), now() FROM m"
    ));
}

/// Stores a record with its series, key and partition.
pub fn put(database: &Database, row: &RecordRow) {
    let key = event_key("test", &row.id);
    let RecordRow { org, meter, id, at, quantity, dimensions, cost, correction, .. } = row;
    let (member, subject, value, day) = (text(row.member), text(row.subject), text(row.value), text(row.day));
    let card = row.card.map_or_else(|| "NULL".to_owned(), |card| card.to_string());
    database.execute(&format!(
        "SELECT make_usage_partition(('{at}'::timestamptz AT TIME ZONE 'UTC')::date);
         WITH o AS (SELECT org_id, time_zone FROM orgs WHERE external_id = '{org}'),
             m AS (SELECT meter_id FROM meters WHERE key = '{meter}'),
              s AS (INSERT INTO usage_series AS x (org_id, series_id, meter_id, member, dimensions)
                  SELECT org_id, hashtextextended(format('%s %s %L %s', org_id, meter_id,
                  {member}::text, '{dimensions}'::jsonb), 0) & 9223372036854775807, meter_id,
                  {member}, '{dimensions}' FROM o, m
                    ON CONFLICT (org_id, series_id) DO UPDATE SET meter_id = x.meter_id
                    RETURNING org_id, series_id),
              k AS (INSERT INTO usage_keys (org_id, event_key, occurred_at, content)
                  SELECT org_id, '{key}', '{at}', 1 FROM o ON CONFLICT DO NOTHING)
         INSERT INTO usage_records
             (org_id, series_id, occurred_at, received_at, event_key, meter_id, rate_card_id, day,
              billing_period, correction, quantity, cost, battery_units, event_id, source, subject, value,
              moved)
         SELECT org_id, series_id, '{at}', now(), '{key}', meter_id, {card},
             coalesce({day}::date, ('{at}'::timestamptz AT TIME ZONE time_zone)::date), NULL, {correction},
             {quantity}, {cost}, 0, '{id}', 'test', {subject}, {value},
                 coalesce({day}::date - ('{at}'::timestamptz AT TIME ZONE 'UTC')::date > 1, false) FROM o
             JOIN s USING (org_id), m"
    ));
}

/// A plan sold since 2020; the API can only make one from today.
#[derive(Clone, Copy, Default)]
pub struct PlanRow {
    pub id: &'static str,
    /// The Stripe prices that buy it.
    pub prices: &'static [&'static str],
    /// Units of a month, of a year and of a trial.
    pub units: i64,
    pub annual_units: Option<i64>,
    pub trial_units: Option<i64>,
    /// Units of each day, and how far the battery may go below zero.
    pub daily_units: i64,
    pub debt_limit: Option<i64>,
}

/// Stores a plan, its version and its prices.
pub fn plan(database: &Database, plan: &PlanRow) {
    let number = |number: Option<i64>| number.map_or_else(|| "NULL".to_owned(), |number| number.to_string());
    let PlanRow { id, units, daily_units, .. } = plan;
    let (annual, trial) = (number(plan.annual_units), number(plan.trial_units));
    let (debt_limit, prices) = (number(plan.debt_limit), plan.prices.join("','"));
    database.execute(&format!(
        "INSERT INTO plans (plan_id, name, active, metadata, created_at)
         VALUES ('{id}', '{id}', true, '{{}}', '2020-01-01');
         INSERT INTO plan_versions
             (plan_id, version, created_at, trial_days, features, battery_units, annual_battery_units,
              trial_battery_units, daily_battery, battery_debt_limit)
         VALUES ('{id}', 1, '2020-01-01', 0, '{{}}', {units}, {annual}, {trial}, {daily_units}, {debt_limit});
         INSERT INTO plan_stripe_prices (price_id, plan_id)
         SELECT price, '{id}' FROM unnest(ARRAY['{prices}']) price;
         UPDATE catalog SET version = version + 1"
    ));
}

/// Stores a pack of units that has been sold since 2020, and its prices.
pub fn pack(database: &Database, id: &str, units: &str, prices: &[&str]) {
    let prices = prices.join("','");
    database.execute(&format!(
        "INSERT INTO battery_packs (pack_id, name, units, active, created_at)
         VALUES ('{id}', '{id}', {units}, true, '2020-01-01');
         INSERT INTO battery_pack_stripe_prices (price_id, pack_id)
         SELECT price, '{id}' FROM unnest(ARRAY['{prices}']) price WHERE price <> ''"
    ));
}

/// Stores an active subscription of an org to a price, as the projection writes it.
pub fn subscription(database: &Database, org: &str, price: &str) {
    database.execute(&format!(
        "INSERT INTO stripe_customer_links (account, livemode, customer_id, api_ref)
         VALUES ('', false, 'cus_{org}', '{org}');
         INSERT INTO subscriptions (account, livemode, id, customer_id, status, items_complete, created)
         VALUES ('', false, 'sub_{org}', 'cus_{org}', 'active', true, '2026-01-01');
         INSERT INTO subscription_items (account, livemode, subscription_id, item_number, price_id)
         VALUES ('', false, 'sub_{org}', 0, '{price}');
         NOTIFY coulomb_orgs"
    ));
}
