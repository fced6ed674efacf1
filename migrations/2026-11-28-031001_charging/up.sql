-- Usage that is charged through Stripe.

-- Which way the usage of a meter goes to Stripe. The key allows a meter one way: with two it would be charged
-- twice.
CREATE TABLE stripe_meters (
    meter_id integer PRIMARY KEY REFERENCES meters,
    way text COLLATE "C" NOT NULL CHECK (way IN ('totals', 'deltas', 'invoice_items')),
    account text COLLATE "C" NOT NULL,
    stripe_meter_id text COLLATE "C",
    event_name text,
    time_window text CHECK (time_window IN ('hour', 'day')),
    value_key text,
    customer_key text,
    since timestamptz NOT NULL,
    set_by text NOT NULL,
    set_at timestamptz NOT NULL,
    scanned_until timestamptz,
    CONSTRAINT stripe_meters_way CHECK (CASE way
        WHEN 'totals' THEN stripe_meter_id IS NOT NULL AND time_window IS NOT NULL
        WHEN 'deltas' THEN stripe_meter_id IS NOT NULL AND time_window IS NULL
        ELSE stripe_meter_id IS NULL AND time_window IS NULL END),
    CONSTRAINT stripe_meters_names CHECK (stripe_meter_id IS NULL
        OR event_name IS NOT NULL AND value_key IS NOT NULL AND customer_key IS NOT NULL)
);
-- Two meters on one of Stripe's would overwrite each other.
CREATE UNIQUE INDEX stripe_meters_stripe ON stripe_meters (account, stripe_meter_id);
COMMENT ON COLUMN stripe_meters.way IS
    'totals: absolute totals of time windows; deltas: what was added; invoice_items: items on drafts';
COMMENT ON COLUMN stripe_meters.since IS 'usage before is not sent';
COMMENT ON COLUMN stripe_meters.scanned_until IS 'usage that was received before has its charges';

-- What is charged: the usage of an org in a bucket of time (totals, deltas), or a priced line of a billing
-- period (invoice_items). What is to be sent is committed here before it is sent.
CREATE TABLE stripe_charges (
    org_id bigint NOT NULL,
    charge_id text COLLATE "C" NOT NULL,
    meter_id integer NOT NULL,
    way text COLLATE "C" NOT NULL CHECK (way IN ('totals', 'deltas', 'invoice_items')),
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    stripe_meter_id text COLLATE "C" NOT NULL DEFAULT '',
    customer_id text COLLATE "C",
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    rate_card_id integer NOT NULL DEFAULT 0,
    rate_place integer NOT NULL DEFAULT 0,
    currency text COLLATE "C" NOT NULL DEFAULT '',
    part integer NOT NULL DEFAULT 0,
    quantity numeric NOT NULL CHECK (quantity NOT IN ('NaN', 'Infinity', '-Infinity')),
    moved numeric NOT NULL DEFAULT 0 CHECK (moved NOT IN ('NaN', 'Infinity', '-Infinity')),
    carried numeric NOT NULL DEFAULT 0 CHECK (carried NOT IN ('NaN', 'Infinity', '-Infinity')),
    delivered numeric NOT NULL DEFAULT 0 CHECK (delivered NOT IN ('NaN', 'Infinity', '-Infinity')),
    sending numeric CHECK (sending >= 0 AND sending NOT IN ('NaN', 'Infinity')),
    sequence integer NOT NULL DEFAULT 0,
    cost numeric CHECK (cost NOT IN ('NaN', 'Infinity', '-Infinity')),
    amount bigint,
    invoice_id text COLLATE "C",
    item_id text COLLATE "C",
    identifier text COLLATE "C",
    state text COLLATE "C" NOT NULL CHECK (state IN ('waiting', 'planned', 'sent', 'confirmed', 'failed')),
    reason text COLLATE "C",
    detail text,
    planned_at timestamptz NOT NULL,
    tried_at timestamptz,
    sent_at timestamptz,
    confirmed_at timestamptz,
    attempts smallint NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, charge_id),
    CONSTRAINT stripe_charges_ends CHECK (period_start < period_end),
    CONSTRAINT stripe_charges_line CHECK ((way = 'invoice_items') = (amount IS NOT NULL)),
    -- A planned row has something to send.
    CONSTRAINT stripe_charges_intent
        CHECK (state <> 'planned' OR way = 'invoice_items' OR sending IS NOT NULL)
);
-- One row for each bucket, and one for each priced line and part of it.
CREATE UNIQUE INDEX stripe_charges_place ON stripe_charges
    (org_id, meter_id, way, account, livemode, stripe_meter_id, period_start, rate_card_id, rate_place,
     currency, part);
CREATE INDEX stripe_charges_newest ON stripe_charges (period_start, charge_id);
CREATE INDEX stripe_charges_due ON stripe_charges (next_attempt_at) WHERE state = 'planned';
CREATE INDEX stripe_charges_open ON stripe_charges (state, meter_id) WHERE state <> 'confirmed';
CREATE INDEX stripe_charges_item ON stripe_charges (item_id) WHERE item_id IS NOT NULL;
CREATE INDEX stripe_charges_identifier ON stripe_charges (identifier) WHERE identifier IS NOT NULL;
COMMENT ON COLUMN stripe_charges.part IS 'of a line: 1 when the period was frozen, 2, 3 … for later usage';
COMMENT ON COLUMN stripe_charges.quantity IS 'what our books say';
COMMENT ON COLUMN stripe_charges.moved IS 'of quantity and carried: what a later bucket charges';
COMMENT ON COLUMN stripe_charges.carried IS 'what earlier buckets moved into this one';
COMMENT ON COLUMN stripe_charges.delivered IS
    'what Stripe took: the last total, or the sum of the deltas';
COMMENT ON COLUMN stripe_charges.sending IS 'the total or delta that is sent under this sequence';
COMMENT ON COLUMN stripe_charges.tried_at IS 'the first attempt under this sequence';
COMMENT ON COLUMN stripe_charges.invoice_id IS
    'the draft for the line; null: the customer''s next invoice';

-- Invoices and ended subscriptions of Stripe whose usage was frozen, or why it was not; and invoices that are
-- made for charges that no other invoice will have, by the first of them.
CREATE TABLE stripe_freezes (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    object text COLLATE "C" NOT NULL CHECK (object IN ('invoice', 'subscription', 'charge')),
    object_id text COLLATE "C" NOT NULL,
    org_id bigint,
    invoice_id text COLLATE "C",
    state text COLLATE "C" NOT NULL CHECK (state IN ('waiting', 'frozen', 'late', 'skipped')),
    reason text COLLATE "C",
    frozen_at timestamptz,
    attempts smallint NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL,
    PRIMARY KEY (account, livemode, object, object_id)
);
COMMENT ON COLUMN stripe_freezes.invoice_id IS
    'the draft that got the lines, or the invoice that was made for them';

-- Reports of Stripe about meter events that it could not use.
CREATE TABLE stripe_meter_reports (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    attempts smallint NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL,
    errors integer,
    failed integer,
    done_at timestamptz,
    PRIMARY KEY (account, livemode, event_id)
);
COMMENT ON COLUMN stripe_meter_reports.errors IS 'how many events Stripe could not use';
COMMENT ON COLUMN stripe_meter_reports.failed IS 'how many charges it named';

-- Which daemon charges an account, as stripe_accounts says it of reading.
CREATE TABLE stripe_charging (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    holder text,
    holder_pid integer,
    holder_started bigint,
    held_until timestamptz,
    compared_on date,
    failing_since timestamptz,
    last_error text,
    PRIMARY KEY (account, livemode)
);
COMMENT ON COLUMN stripe_charging.compared_on IS 'the day of the last nightly comparison';

-- New usage is found by when it came. Records are appended in that order, so a small index is enough.
CREATE INDEX usage_records_received ON usage_records USING brin (received_at) WITH (pages_per_range = 32);
