-- Inserts :orgs orgs with a billing profile, a local subscription that was paid for the last month, and usage
-- of 19 meters in that month: with the fee of this month, each invoice has 20 lines.

INSERT INTO orgs (public_id, external_id, name, time_zone, created_at, metadata)
SELECT 'org_' || n, 'customer-' || n, 'Customer ' || n, 'UTC', now(), '{}' FROM generate_series(1, :orgs) n;
INSERT INTO org_refs SELECT external_id, org_id FROM orgs;
INSERT INTO meters (meter_id, key, aggregation, unit, created_at, currency)
SELECT n, 'meter-' || n, 'sum', 'unit', now(), 'usd' FROM generate_series(1, 19) n;
INSERT INTO rate_cards (rate_card_id, meter_id, version, valid_from, currency, rates, created_at, org_id,
    period)
SELECT n, n, 1, '2020-01-01', 'usd', '[{"unit_cost": "0.01"}]', now(), 0, 'month'
FROM generate_series(1, 19) n;
INSERT INTO usage_series (org_id, series_id, meter_id, member, dimensions)
SELECT org_id, meter_id, meter_id, NULL, '{}' FROM orgs, meters;
SELECT make_usage_partition(month::date)
FROM generate_series(date_trunc('month', now() - interval '1 month'), now(), '1 month') month;
INSERT INTO usage_records (org_id, series_id, occurred_at, received_at, event_key, meter_id, rate_card_id,
    day, correction, quantity, cost, battery_units, event_id, source, moved, pricing)
SELECT org_id, meter_id, at, at, gen_random_uuid(), meter_id, meter_id, at::date, 0, 100 + meter_id,
    (100 + meter_id) * 0.01, 0, 'event-' || day, 'bench', false, 0
FROM orgs, meters, generate_series(1, 5) day,
    LATERAL (SELECT date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '1 month'
        + make_interval(days => day) AS at) t;
INSERT INTO own_tax_rates (tax_rate_id, name, category, percent, active, created_at)
VALUES ('vat', 'VAT', 'S', 20, true, now());
INSERT INTO sellers (seller_id, party, settings, is_default, created_at, updated_at)
VALUES ('shop', '{"name": "Shop"}', '{"time_zone": "UTC", "tax_rate": "vat", "draft_hours": 0,
    "advance_days": 0, "reminder_days": [7], "invoice_prefix": "INV-", "credit_note_prefix": "CN-",
    "terms_days": 14, "language": "en", "tax_inclusive": false}', true, now(), now());
INSERT INTO plans (plan_id, name, active, metadata, created_at) VALUES ('basic', 'Basic', true, '{}', now());
INSERT INTO plan_versions (plan_id, version, created_at, currency, monthly_amount, trial_days, features,
    battery_units, daily_battery, grace_days)
VALUES ('basic', 1, now(), 'usd', 1000, 0, '{}', 0, 0, 60);
INSERT INTO billing_profiles (org_id, seller_id, party, terms, automatic, created_at, updated_at)
SELECT org_id, 'shop', '{"name": "Customer"}',
    '{"party": {"name": "Customer"}, "currency": "usd", "automatic": true}', true,
    now() - interval '70 days', now()
FROM orgs;
INSERT INTO local_subscriptions (org_id, subscription_id, plan_id, version, status, interval_months,
    created_at, updated_at, period_start, valid_until, cancel_at_period_end, grace_days)
SELECT org_id, 'lsub_' || org_id, 'basic', 1, 'active', 1, start, start, start, start + interval '1 month',
    false, 60
FROM orgs, LATERAL (SELECT date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
    - interval '1 month' AS start) t;
