//! Usage as it stands in the database, row by row: for what reads it or counts it anew.

use coulomb::metering::digest::event_key;

use crate::support::Database;

/// A record, in the words of its table.
#[derive(Clone)]
pub struct Row {
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

pub fn row(org: &'static str, meter: &'static str, id: &str, at: &str, quantity: &str) -> Row {
    Row {
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

/// An org by its external id; its public id is `org_` and that.
pub fn org(database: &Database, name: &str, zone: &str) {
    database.execute(&format!(
        "WITH o AS (INSERT INTO orgs (public_id, external_id, name, time_zone, created_at, metadata)
                    VALUES ('org_{name}', '{name}', '{name}', '{zone}', now(), '{{}}') RETURNING org_id)
         INSERT INTO org_refs SELECT unnest(ARRAY['org_{name}', '{name}']), org_id FROM o"
    ));
}

/// A meter; `dimensions` separated by commas.
pub fn meter(database: &Database, key: &str, aggregation: &str, dimensions: &str) {
    database.execute(&format!(
        "WITH m AS (INSERT INTO meters
             SELECT coalesce(max(meter_id), 0) + 1, '{key}', '{aggregation}', 'units', now() FROM meters
             RETURNING meter_id)
         INSERT INTO meter_versions
         SELECT meter_id, 1, '{key}', '{key}', 'value', string_to_array('{dimensions}', ','), now() FROM m"
    ));
}

/// Stores a record, its series, its key and its partition.
pub fn put(database: &Database, row: &Row) {
    let key = event_key("test", &row.id);
    let Row { org, meter, id, at, quantity, dimensions, cost, correction, .. } = row;
    let (member, subject, value, day) = (text(row.member), text(row.subject), text(row.value), text(row.day));
    let card = row.card.map_or_else(|| "NULL".to_owned(), |card| card.to_string());
    database.execute(&format!(
        "SELECT make_usage_partition(('{at}'::timestamptz AT TIME ZONE 'UTC')::date);
         WITH o AS (SELECT org_id, time_zone FROM orgs WHERE external_id = '{org}'),
             m AS (SELECT meter_id FROM meters WHERE key = '{meter}'),
              s AS (INSERT INTO usage_series AS x
                  SELECT org_id, hashtextextended(format('%s %s %L %s', org_id, meter_id,
                  {member}::text, '{dimensions}'::jsonb), 0) & 9223372036854775807, meter_id,
                  {member}, '{dimensions}' FROM o, m
                    ON CONFLICT (org_id, series_id) DO UPDATE SET meter_id = x.meter_id
                    RETURNING org_id, series_id),
              k AS (INSERT INTO usage_keys SELECT org_id, '{key}', '{at}', 1 FROM o ON CONFLICT DO NOTHING)
         INSERT INTO usage_records
         SELECT org_id, series_id, '{at}', now(), '{key}', meter_id, {card},
             coalesce({day}::date, ('{at}'::timestamptz AT TIME ZONE time_zone)::date), NULL, {correction},
             {quantity}, {cost}, 0, '{id}', 'test', {subject}, {value},
                 coalesce({day}::date - ('{at}'::timestamptz AT TIME ZONE 'UTC')::date > 1, false) FROM o
             JOIN s USING (org_id), m"
    ));
}
