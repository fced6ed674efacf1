//! Orgs, meters and slots for usage, and the books that must balance.

use serde_json::{Value, json};

use super::{Daemon, Database};

/// The SQL for a version of a meter's rate card.
fn card(meter_id: i32, version: i32, since: &str, rates: &Value) -> String {
    format!(
        "INSERT INTO rate_cards
             (rate_card_id, meter_id, version, valid_from, currency, rates, created_at)
         VALUES ({meter_id} * 100 + {version}, {meter_id}, {version}, '{since}', 'usd', '{rates}', now());
         UPDATE meters SET currency = 'usd' WHERE meter_id = {meter_id};"
    )
}

impl Database {
    /// A meter as the operator's commands make it. `prices` are the rates of a card in force since 2020.
    pub fn meter(
        &self,
        id: i32,
        event_name: &str,
        aggregation: &str,
        dimensions: &str,
        prices: Option<&Value>,
    ) {
        let field = if aggregation == "count" { "NULL" } else { "'value'" };
        let card = prices.map_or_else(String::new, |prices| card(id, 1, "2020-01-01", prices));
        // In one transaction: a daemon that reads the new version must find the prices.
        self.execute(&format!(
            "INSERT INTO meters (meter_id, key, aggregation, unit, created_at)
             VALUES ({id}, 'meter-{id}', '{aggregation}', 'units', now());
             INSERT INTO meter_versions
                 (meter_id, version, name, event_name, value_field, dimensions, created_at)
             VALUES ({id}, 1, 'Meter {id}', '{event_name}', {field}, '{{{dimensions}}}', now());
             {card}
             UPDATE catalog SET version = version + 1"
        ));
    }

    /// A version of a meter's rate card, in force from this time on.
    pub fn card(&self, meter_id: i32, version: i32, since: &str, rates: &Value) {
        let card = card(meter_id, version, since, rates);
        self.execute(&format!("{card} UPDATE catalog SET version = version + 1"));
    }

    /// A slot that is counted for every org.
    pub fn slot(&self, id: i32, meter_id: i32, filter: &Value, per_subject: bool, period: &str) {
        self.execute(&format!(
            "INSERT INTO quota_slots
                 (slot_id, meter_id, filter, per_subject, period, everywhere, created_at)
             VALUES ({id}, {meter_id}, '{filter}', {per_subject}, '{period}', true, now());
             UPDATE catalog SET version = version + 1"
        ));
    }

    /// Finds keys without records, and summaries, counters and ledgers that differ from the sums of the
    /// records.
    pub fn unbalanced(&self) -> Vec<String> {
        const CHECKS: [(&str, &str); 5] = [
            (
                "keys and records",
                "SELECT count(*) FROM usage_keys k
                 FULL JOIN (SELECT DISTINCT org_id, event_key FROM usage_records WHERE correction = 0) r
                     USING (org_id, event_key) WHERE k.content IS NULL OR r.org_id IS NULL",
            ),
            (
                "records and daily summaries",
                "SELECT count(*) FROM daily_summaries d FULL JOIN (
                     SELECT org_id, series_id, day, sum(quantity) AS quantity,
                         sum(1 - 2 * (correction % 2)) AS count, sum(cost) AS cost,
                            sum(battery_units) AS battery_units
                     FROM usage_records JOIN meters USING (meter_id) WHERE aggregation IN ('sum', 'count')
                     GROUP BY 1, 2, 3) r
                     USING (org_id, series_id, day)
                 WHERE (d.org_id IS NULL
                     OR (SELECT aggregation IN ('sum', 'count') FROM usage_series s JOIN meters
                     USING (meter_id)
                            WHERE (s.org_id, s.series_id) = (d.org_id, d.series_id)))
                   AND (d.quantity, d.count, d.cost, d.battery_units) IS DISTINCT FROM (r.quantity, r.count,
                       r.cost, r.battery_units)",
            ),
            (
                "records and counters",
                // Counters of levels are not sums.
                "SELECT count(*) FROM (SELECT c.* FROM quota_counters c JOIN quota_slots q USING (slot_id)
                     JOIN meters m USING (meter_id)
                     WHERE used <> 0 AND m.aggregation <> 'level') c FULL JOIN (
                     SELECT r.org_id, q.slot_id, CASE WHEN q.per_subject THEN coalesce(r.subject, '') ELSE ''
                         END AS subject,
                            CASE q.period WHEN 'day' THEN coalesce(r.own_day, r.day)
                                 WHEN 'hour' THEN (r.occurred_at AT TIME ZONE 'UTC')::date
                                 WHEN 'always' THEN '2000-01-01'
                                 WHEN 'rolling_1h' THEN (date_bin('150 s', r.occurred_at, 'epoch')
                                     AT TIME ZONE 'UTC')::date
                                 WHEN 'rolling_24h' THEN (r.occurred_at AT TIME ZONE 'UTC')::date
                                 WHEN 'rolling_7d' THEN (date_bin('7 h', r.occurred_at, 'epoch')
                                     AT TIME ZONE 'UTC')::date
                                 WHEN 'rolling_31d' THEN (date_bin('31 h', r.occurred_at, 'epoch')
                                     AT TIME ZONE 'UTC')::date
                                 WHEN 'week' THEN date_trunc('week', coalesce(r.own_day, r.day))::date
                                 WHEN 'month' THEN date_trunc('month', coalesce(r.own_day, r.day))::date
                                 ELSE coalesce(r.billing_period,
                                     date_trunc('month', coalesce(r.own_day, r.day))::date)
                            END AS period,
                            coalesce(CASE q.period WHEN 'billing' THEN r.billing_start
                                WHEN 'hour' THEN date_trunc('hour', r.occurred_at, 'UTC')
                                WHEN 'rolling_1h' THEN date_bin('150 s', r.occurred_at, 'epoch')
                                WHEN 'rolling_24h' THEN date_trunc('hour', r.occurred_at, 'UTC')
                                WHEN 'rolling_7d' THEN date_bin('7 h', r.occurred_at, 'epoch')
                                WHEN 'rolling_31d' THEN date_bin('31 h', r.occurred_at, 'epoch') END,
                                'epoch') AS began,
                            sum(r.quantity) AS used
                     FROM usage_records r JOIN quota_slots q USING (meter_id) JOIN usage_series s
                         USING (org_id, series_id) JOIN meters m ON m.meter_id = r.meter_id
                     WHERE m.aggregation <> 'level' AND s.dimensions @> q.filter
                     GROUP BY 1, 2, 3, 4, 5 HAVING sum(r.quantity) <> 0) r
                     USING (org_id, slot_id, subject, period, began)
                 WHERE c.used IS DISTINCT FROM r.used",
            ),
            (
                "series",
                "SELECT count(*) FROM usage_records r
                WHERE NOT EXISTS (SELECT FROM usage_series s
                WHERE (s.org_id, s.series_id) = (r.org_id, r.series_id))",
            ),
            ("the default partition", "SELECT count(*) FROM usage_partitions.usage_records_default"),
        ];
        let wrong = |(name, sql): (&str, &str)| {
            let count = self.number(sql);
            (count != 0).then(|| format!("{name}: {count}"))
        };
        CHECKS.into_iter().filter_map(wrong).chain(self.unsound_batteries()).collect()
    }
}

impl Daemon {
    /// Makes an org; returns its public id.
    pub async fn org(&self, key: &str, external_id: &str, zone: &str) -> String {
        let body = json!({ "name": external_id, "external_id": external_id, "time_zone": zone });
        let (status, org) = self.post("/v1/orgs", key, &body).await;
        assert_eq!(status, 201, "{org}");
        org["id"].as_str().expect("an id").to_owned()
    }

    /// Sends usage that the daemon must be able to read; returns each event's outcome. The answer to a single
    /// event that was not accepted is a problem.
    pub async fn usage(&self, key: &str, events: &Value) -> Vec<String> {
        let (status, answer) = self.post("/v1/usage", key, events).await;
        let refused = events.is_object() && answer["results"][0]["status"] != "accepted";
        assert!(status == 200 || refused && status.is_client_error(), "{status} {answer}");
        let results = answer["results"].as_array().expect("results");
        results.iter().map(outcome).collect()
    }
}

/// The outcome of one event: its status, or the field and the rule that it breaks.
#[track_caller]
pub fn outcome(result: &Value) -> String {
    match result["rule"].as_str() {
        Some(rule) if result["status"] == "rejected" => {
            format!("{} {rule}", result["field"].as_str().expect("a field"))
        }
        _ => result["status"].as_str().unwrap_or_else(|| panic!("no outcome: {result}")).to_owned(),
    }
}
