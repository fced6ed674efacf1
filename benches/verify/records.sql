-- Inserts :records usage records of :orgs orgs over the last 80 days, a fifth of them at one instant, and the
-- tables derived from them. These statements compute the derived tables; they differ from the measured ones.

INSERT INTO orgs (public_id, external_id, name, time_zone, created_at, metadata)
SELECT 'org_' || n, 'customer-' || n, 'Customer ' || n, 'UTC', now(), '{}' FROM generate_series(1, :orgs) n;
INSERT INTO org_refs SELECT external_id, org_id FROM orgs;
INSERT INTO meters VALUES
    (1, 'tokens', 'sum', 'tokens', now()), (2, 'calls', 'count', 'calls', now()),
    (3, 'seats', 'max', 'seats', now()), (4, 'users', 'unique', 'users', now()),
    (5, 'level', 'latest', 'level', now());
UPDATE meters SET currency = 'usd' WHERE meter_id = 1;
INSERT INTO meter_versions SELECT meter_id, 1, key, key, 'n', '{model}', now() FROM meters;
INSERT INTO rate_cards VALUES (1, 1, 1, '2020-01-01', 'usd',
    '[{"when":{"model":"m-1"},"unit_cost":"0.1"},
      {"tiers":{"mode":"graduated","tiers":[{"unit_cost":"0.1"}]}}]', now());
INSERT INTO quota_slots VALUES
    (1, 1, '{}', false, 'month', true, now() - interval '100 days'),
    (2, 1, '{"model":"m-1"}', true, 'day', true, now() - interval '100 days');

SELECT make_usage_partition(month::date)
FROM generate_series(date_trunc('month', now() - interval '80 days'), now() + interval '1 month',
    '1 month') month;

-- For each org: ten series of tokens, and one series of each other meter.
INSERT INTO usage_series
SELECT o.org_id, meter_id * 100 + model, meter_id, NULL, jsonb_build_object('model', 'm-' || model)
FROM orgs o, meters, generate_series(0, 9) model WHERE meter_id = 1 OR model = 0;

CREATE UNLOGGED TABLE drawn AS
SELECT n, first + n % :orgs AS org_id, h % 10 AS model, h % 50 AS subject, h % 1000 AS quantity,
    CASE WHEN h / 1000 % 20 < 16 THEN 1 ELSE (h / 1000 % 20 - 14) END AS meter_id,
    h / 1000 % 20 = 0 AS burns,
    CASE WHEN h / 20000 % 5 = 0 THEN middle ELSE start + n::float8 / :records * interval '80 days' END AS at
FROM generate_series(0, :records - 1) n, LATERAL (SELECT hashint8(n)::bigint & 2147483647 AS h) h,
    (SELECT min(org_id) AS first FROM orgs) o,
    (SELECT date_trunc('day', now()) - interval '80 days' AS start,
        date_trunc('day', now()) - interval '39.5 days' AS middle) t;

INSERT INTO usage_records
SELECT org_id, meter_id * 100 + CASE meter_id WHEN 1 THEN model ELSE 0 END, at, at,
    (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || substr(md5(n::text), 1, 20))::uuid,
    meter_id, CASE meter_id WHEN 1 THEN 1 END, (at AT TIME ZONE 'UTC')::date, NULL, 0,
    CASE WHEN meter_id IN (2, 4) THEN 1 ELSE quantity END,
    CASE meter_id WHEN 1 THEN quantity * 0.1 ELSE 0 END,
    CASE WHEN burns THEN 0.01 ELSE 0 END, 'event-' || n, 'bench', 'subject-' || subject,
    CASE meter_id WHEN 4 THEN 'user-' || quantity END, false,
    CASE WHEN burns THEN extract(epoch FROM date_trunc('day', at))::bigint * 1000000 << 11 END
FROM drawn;
DROP TABLE drawn;
INSERT INTO usage_keys SELECT org_id, event_key, occurred_at, 0 FROM usage_records;

INSERT INTO daily_summaries
SELECT org_id, series_id, day,
    CASE meter_id WHEN 3 THEN max(quantity) WHEN 4 THEN count(DISTINCT value)
        WHEN 5 THEN (array_agg(quantity ORDER BY occurred_at DESC, quantity DESC))[1] ELSE sum(quantity) END,
    count(*), sum(cost), sum(battery_units), CASE meter_id WHEN 5 THEN max(occurred_at) END
FROM usage_records GROUP BY org_id, series_id, day, meter_id;
INSERT INTO usage_uniques
SELECT DISTINCT org_id, series_id, day, encode(substr(sha256(convert_to(value, 'UTF8')), 1, 16), 'hex')::uuid
FROM usage_records WHERE meter_id = 4;
INSERT INTO rating_counters
SELECT org_id, 1, 1, 1, date_trunc('month', day)::date, sum(quantity)
FROM usage_records WHERE meter_id = 1 AND series_id <> 101 GROUP BY 1, 5;
INSERT INTO quota_counters
SELECT org_id, 1, '', date_trunc('month', day)::date, sum(quantity), 0
FROM usage_records WHERE meter_id = 1 GROUP BY 1, 4
UNION ALL
SELECT org_id, 2, subject, day, sum(quantity), 0 FROM usage_records WHERE series_id = 101 GROUP BY 1, 3, 4;

INSERT INTO battery_entries
SELECT org_id, 1, now() - interval '90 days', 'bonus', 1000000, 1000000, 'bonus', 1, NULL, '[]' FROM orgs
UNION ALL
SELECT org_id, 1 + row_number() OVER w, at, 'usage', -units, 1000000 - sum(units) OVER w, 'usage', NULL,
    batch,
    jsonb_build_array(jsonb_build_array(1, units))
FROM (SELECT org_id, battery_batch AS batch, max(received_at) AS at, sum(battery_units) AS units
      FROM usage_records WHERE battery_batch IS NOT NULL GROUP BY 1, 2) b
WINDOW w AS (PARTITION BY org_id ORDER BY batch);
INSERT INTO battery_accounts
SELECT org_id, sum(amount), 0, count(*), 1, max(at) FROM battery_entries GROUP BY 1;
INSERT INTO battery_grants
SELECT org_id, 1, 'grt_' || org_id, 'bonus', 'b', 'open', 30, now(), now(), NULL, 1000000, balance,
    1000000 - balance, 0, 0
FROM battery_accounts;
UPDATE catalog SET version = version + 1;
