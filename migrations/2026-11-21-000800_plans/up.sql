-- Plans in versions, what a subscription bought, and subscriptions that no Stripe knows.
-- `plan_versions` and the rest of the plans are catalogue (reference) tables; `local_subscriptions` is a tenant table; what is
-- said of a Stripe subscription is local, as the mirrors are.

-- What a plan offers. A version never changes, but for the quotas, which an operator may set anew for everybody on it.
CREATE TABLE plan_versions (
    plan_id text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    currency text CHECK (currency ~ '^[a-z]{3}$'),
    monthly_amount bigint CHECK (monthly_amount >= 0),
    annual_amount bigint CHECK (annual_amount >= 0),
    trial_days integer NOT NULL CHECK (trial_days BETWEEN 0 AND 730),
    features jsonb NOT NULL,
    battery_units numeric NOT NULL CHECK (battery_units >= 0 AND battery_units < 'Infinity'),
    annual_battery_units numeric CHECK (annual_battery_units >= 0 AND annual_battery_units < 'Infinity'),
    trial_battery_units numeric CHECK (trial_battery_units >= 0 AND trial_battery_units < 'Infinity'),
    daily_battery numeric NOT NULL CHECK (daily_battery >= 0 AND daily_battery < 'Infinity'),
    battery_debt_limit numeric CHECK (battery_debt_limit >= 0 AND battery_debt_limit < 'Infinity'),
    PRIMARY KEY (plan_id, version)
);
COMMENT ON COLUMN plan_versions.created_at IS 'sold from then on; of the first version also before';
COMMENT ON COLUMN plan_versions.battery_units IS 'granted with each paid period';
COMMENT ON COLUMN plan_versions.annual_battery_units IS 'in their place with each paid year';
COMMENT ON COLUMN plan_versions.trial_battery_units IS 'in their place with a trial';
COMMENT ON COLUMN plan_versions.daily_battery IS 'granted each local day, and gone with it';
COMMENT ON COLUMN plan_versions.battery_debt_limit IS 'how far below zero the battery may be used; null: without limit';
INSERT INTO plan_versions
    SELECT plan_id, 1, created_at, NULL, NULL, NULL, 0, '{}', 0, NULL, NULL, 0, NULL FROM plans;

ALTER TABLE plan_quotas ADD COLUMN version integer NOT NULL DEFAULT 1;
ALTER TABLE plan_quotas ALTER COLUMN version DROP DEFAULT;
ALTER TABLE plan_quotas DROP CONSTRAINT plan_quotas_pkey, ADD PRIMARY KEY (plan_id, version, slot_id);

-- Any price of the product buys the plan.
CREATE TABLE plan_stripe_products (
    product_id text COLLATE "C" PRIMARY KEY,
    plan_id text COLLATE "C" NOT NULL
);
CREATE INDEX plan_stripe_products_plan ON plan_stripe_products (plan_id);

-- Since when a Stripe subscription has had a price: the earliest of its events that show it.
CREATE TABLE subscription_prices (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    subscription_id text COLLATE "C" NOT NULL,
    price_id text COLLATE "C" NOT NULL,
    since timestamptz NOT NULL,
    PRIMARY KEY (account, livemode, subscription_id, price_id)
);
COMMENT ON TABLE subscription_prices IS 'a subscription has the version of a plan that was sold then, unless it was moved';

-- Stripe subscriptions that an operator has moved to another version of a plan.
CREATE TABLE subscription_moves (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    subscription_id text COLLATE "C" NOT NULL,
    plan_id text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    moved_at timestamptz NOT NULL,
    PRIMARY KEY (account, livemode, subscription_id, plan_id)
);

-- Subscriptions of orgs that do not pay through Stripe.
CREATE TABLE local_subscriptions (
    org_id bigint NOT NULL,
    subscription_id text COLLATE "C" NOT NULL,
    plan_id text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    status text NOT NULL CHECK (status IN ('trial', 'active', 'expired', 'cancelled')),
    interval_months integer NOT NULL CHECK (interval_months BETWEEN 1 AND 36),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    trial_end timestamptz,
    period_start timestamptz NOT NULL,
    valid_until timestamptz NOT NULL,
    cancel_at_period_end boolean NOT NULL,
    ended_at timestamptz,
    PRIMARY KEY (org_id, subscription_id),
    CHECK (period_start <= valid_until)
);
COMMENT ON COLUMN local_subscriptions.valid_until IS 'end of the trial or of the last paid period; what is later counts as expired, also before the daily job has said so';
-- At most one is under way.
CREATE UNIQUE INDEX local_subscriptions_running ON local_subscriptions (org_id) WHERE status IN ('trial', 'active');
CREATE INDEX local_subscriptions_due ON local_subscriptions (valid_until) WHERE status IN ('trial', 'active');
