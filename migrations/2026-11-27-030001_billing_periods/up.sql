-- Billing periods are facts that are kept: usage that comes late is counted to the period that contained it,
-- whatever became of the subscription since.

-- The billing periods that Stripe's events show subscriptions with, a row for each price and start: a
-- function of the set of events. Periods of local subscriptions follow from their own rows. Local, as the
-- mirrors are.
CREATE TABLE subscription_periods (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    subscription_id text COLLATE "C" NOT NULL,
    price_id text COLLATE "C" NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    product_id text COLLATE "C",
    item_number integer NOT NULL,
    first_seen timestamptz NOT NULL,
    last_seen timestamptz NOT NULL,
    PRIMARY KEY (account, livemode, subscription_id, price_id, period_start),
    CHECK (period_start < period_end)
);
COMMENT ON COLUMN subscription_periods.price_id IS 'that of the item; empty: the item names none';
COMMENT ON COLUMN subscription_periods.period_end
    IS 'as the latest event says, whose time is last_seen; so are product and item_number';
COMMENT ON COLUMN subscription_periods.item_number IS 'place of the item in the subscription''s list, from 0';

-- What is known of the present periods; `coulomb rebuild mirrors` fills in the past ones.
INSERT INTO subscription_periods
SELECT DISTINCT ON (s.account, s.livemode, s.id, coalesce(i.price_id, ''), p.start)
    s.account, s.livemode, s.id, coalesce(i.price_id, ''), p.start, p.until, i.product_id, i.item_number,
    to_timestamp(o.created), to_timestamp(o.created)
FROM subscriptions s
JOIN subscription_items i ON (i.account, i.livemode, i.subscription_id) = (s.account, s.livemode, s.id)
JOIN stripe_objects o ON (o.account, o.livemode, o.object, o.object_id)
    = (s.account, s.livemode, 'subscription', s.id)
CROSS JOIN LATERAL (SELECT coalesce(i.current_period_start, s.current_period_start) AS start,
                           coalesce(i.current_period_end, s.current_period_end) AS until) p
WHERE s.status IN ('trialing', 'active', 'past_due', 'canceled') AND p.start < p.until
ORDER BY s.account, s.livemode, s.id, coalesce(i.price_id, ''), p.start, i.item_number;

-- Counters are told apart by the instant at which their period began: two may begin on one date.
ALTER TABLE quota_counters ADD COLUMN began timestamptz NOT NULL DEFAULT 'epoch';
COMMENT ON COLUMN quota_counters.period
    IS 'first day of the period: local; of a subscription''s period by UTC';
COMMENT ON COLUMN quota_counters.began
    IS 'when the subscription''s period began; the epoch: it is a local day or month, which begins where '
    'the org''s zone says';
ALTER TABLE quota_counters DROP CONSTRAINT quota_counters_pkey,
    ADD PRIMARY KEY (org_id, slot_id, subject, period, began);

ALTER TABLE usage_records ADD COLUMN billing_start timestamptz;
COMMENT ON COLUMN usage_records.billing_start
    IS 'when the subscription''s period began that it was counted to; billing_period is its date by UTC';

-- What was counted so far is known by its date alone: to the present period of that date, else to one that
-- begins with the date.
CREATE TEMPORARY TABLE begun ON COMMIT DROP AS
SELECT DISTINCT ON (org_id, day) org_id, start, (start AT TIME ZONE 'UTC')::date AS day
FROM (SELECT r.org_id, p.period_start AS start
      FROM subscription_periods p JOIN subscriptions s
          ON (s.account, s.livemode, s.id) = (p.account, p.livemode, p.subscription_id)
      JOIN stripe_customer_links l ON (l.account, l.livemode, l.customer_id)
          = (s.account, s.livemode, s.customer_id)
      JOIN org_refs r USING (ref)
      UNION ALL
      SELECT org_id, period_start + make_interval(months => interval_months * n)
          FROM local_subscriptions, generate_series(0, 240) n
      WHERE period_start + make_interval(months => interval_months * n) < valid_until) k
ORDER BY org_id, day, start DESC;
UPDATE usage_records r
SET billing_start = coalesce(
    (SELECT b.start FROM begun b WHERE (b.org_id, b.day) = (r.org_id, r.billing_period)),
    r.billing_period::timestamp AT TIME ZONE 'UTC')
WHERE billing_period IS NOT NULL;
UPDATE quota_counters c SET began = k.start
FROM (SELECT DISTINCT org_id, billing_period AS day, billing_start AS start FROM usage_records
    WHERE billing_start IS NOT NULL
      UNION SELECT org_id, day, start FROM begun) k, quota_slots s
WHERE s.slot_id = c.slot_id AND s.period = 'billing' AND (k.org_id, k.day) = (c.org_id, c.period);
COMMENT ON COLUMN quota_reservations.held
    IS 'the counters that hold the amount: [slot, subject, period, began] each (began null: the epoch); '
    'never changes';
UPDATE quota_reservations r
SET held = (SELECT jsonb_agg(h.key || jsonb_build_array(to_jsonb(nullif(c.began, 'epoch'))) ORDER BY h.place)
            FROM jsonb_array_elements(r.held) WITH ORDINALITY AS h (key, place)
            LEFT JOIN quota_counters c ON (c.org_id, c.slot_id, c.subject, c.period)
                = (r.org_id, (h.key ->> 0)::integer, h.key ->> 1, (h.key ->> 2)::date))
WHERE state = 'open' AND jsonb_array_length(held) > 0;
