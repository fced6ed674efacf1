-- What Stripe's payments do to batteries. The queue, the claims and what waits are local, as the mirrors are: an economic source is
-- found before its org. `battery_returns` is a tenant table. Packs are catalogue (reference) tables.

-- What changed and may have effects, written with the mirrors and taken once that is committed.
CREATE TABLE battery_effects_queue (
    effect_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    kind text NOT NULL,
    object_id text COLLATE "C" NOT NULL,
    attempts smallint NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    last_error text
);
COMMENT ON COLUMN battery_effects_queue.kind IS 'a Stripe object, or what lets waiting effects happen: customer, org, mapping';

-- What an economic source came to: once, whatever org it would belong to later.
CREATE TABLE battery_effects (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    source_kind text NOT NULL CHECK (source_kind IN ('invoice', 'payment_intent', 'checkout_session')),
    source_id text COLLATE "C" NOT NULL,
    line text COLLATE "C" NOT NULL,
    org_id bigint NOT NULL,
    what text NOT NULL CHECK (what IN ('subscription', 'trial', 'pack', 'proration', 'proration_back')),
    grant_number bigint,
    units numeric NOT NULL CHECK (scale(units) IS NOT NULL),
    paid_minor bigint NOT NULL,
    currency text,
    plan_id text COLLATE "C",
    plan_version integer,
    pack_id text COLLATE "C",
    subscription_id text COLLATE "C",
    price_id text COLLATE "C",
    quantity bigint,
    period_start timestamptz,
    period_end timestamptz,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (source_id, source_kind, account, livemode, line)
);
COMMENT ON COLUMN battery_effects.line IS 'line of the invoice; empty: the source as a whole';
COMMENT ON COLUMN battery_effects.grant_number IS 'the grant that it made, or (proration_back) takes from; null: it came to nothing';
COMMENT ON COLUMN battery_effects.units IS 'below zero: taken back';
COMMENT ON COLUMN battery_effects.paid_minor IS 'what was paid for the whole source: returned money takes back this share';
CREATE INDEX battery_effects_grant ON battery_effects (org_id, grant_number);
CREATE INDEX battery_effects_subscription ON battery_effects (subscription_id) WHERE subscription_id IS NOT NULL;

-- What has been counted against a grant: of returned money, and of the plan it was left for.
CREATE TABLE battery_returns (
    org_id bigint NOT NULL,
    grant_number bigint NOT NULL,
    cause_kind text NOT NULL CHECK (cause_kind IN ('refund', 'charge', 'dispute', 'credit_note', 'proration')),
    cause_id text COLLATE "C" NOT NULL,
    minor bigint NOT NULL,
    units numeric NOT NULL CHECK (units >= 0 AND units < 'Infinity'),
    PRIMARY KEY (org_id, grant_number, cause_kind, cause_id)
);
COMMENT ON COLUMN battery_returns.minor IS 'money returned, in minor units';
COMMENT ON COLUMN battery_returns.units IS 'units taken back without money: unused time of a plan';

-- Effects that cannot happen yet, and those that an operator has dismissed.
CREATE TABLE battery_effects_waiting (
    waiting_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    source_kind text NOT NULL,
    source_id text COLLATE "C" NOT NULL,
    line text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    since timestamptz NOT NULL,
    next_try timestamptz,
    customer_id text COLLATE "C",
    org_ref text COLLATE "C",
    subscription_id text COLLATE "C",
    price_id text COLLATE "C",
    product_id text COLLATE "C",
    assigned_org bigint,
    assigned_pack text COLLATE "C",
    dismissed_at timestamptz,
    dismissed_reason text,
    UNIQUE (source_id, source_kind, account, livemode, line)
);
CREATE INDEX battery_effects_waiting_customer ON battery_effects_waiting (customer_id) WHERE customer_id IS NOT NULL;
CREATE INDEX battery_effects_waiting_ref ON battery_effects_waiting (org_ref) WHERE org_ref IS NOT NULL;
CREATE INDEX battery_effects_waiting_subscription ON battery_effects_waiting (subscription_id) WHERE subscription_id IS NOT NULL;
CREATE INDEX battery_effects_waiting_due ON battery_effects_waiting (next_try) WHERE next_try IS NOT NULL;
CREATE INDEX battery_effects_waiting_reason ON battery_effects_waiting (reason, waiting_id);

CREATE TABLE battery_packs (
    pack_id text COLLATE "C" PRIMARY KEY,
    name text NOT NULL,
    units numeric NOT NULL CHECK (units > 0 AND units < 'Infinity'),
    expires_after_days integer CHECK (expires_after_days > 0),
    priority smallint,
    active boolean NOT NULL,
    created_at timestamptz NOT NULL
);
COMMENT ON COLUMN battery_packs.expires_after_days IS 'counted from the grant; null: never';
COMMENT ON COLUMN battery_packs.priority IS 'of its grants: lower is burned first; null: that of purchases';

CREATE TABLE battery_pack_stripe_prices (
    price_id text COLLATE "C" PRIMARY KEY,
    pack_id text COLLATE "C" NOT NULL
);
CREATE INDEX battery_pack_stripe_prices_pack ON battery_pack_stripe_prices (pack_id);

CREATE TABLE battery_pack_payment_links (
    payment_link_id text COLLATE "C" PRIMARY KEY,
    pack_id text COLLATE "C" NOT NULL
);
CREATE INDEX battery_pack_payment_links_pack ON battery_pack_payment_links (pack_id);

-- How the effects of an invoice find the session that it was paid in.
CREATE INDEX checkout_sessions_invoice ON checkout_sessions (invoice_id) WHERE invoice_id IS NOT NULL;
