-- Which org a Stripe customer belongs to. Each source writes its own column, so order of arrival does not matter;
-- `ref` names the org and is resolved through org_refs when read, so an org may also be created later.
CREATE TABLE stripe_customer_links (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    customer_id text COLLATE "C" NOT NULL,
    api_ref text COLLATE "C",
    metadata_ref text COLLATE "C",
    session_ref text COLLATE "C",
    session_key text COLLATE "C",
    own_ref text COLLATE "C",
    ref text COLLATE "C" GENERATED ALWAYS AS (coalesce(api_ref, metadata_ref, session_ref, own_ref)) STORED,
    PRIMARY KEY (account, livemode, customer_id)
);
COMMENT ON COLUMN stripe_customer_links.session_key IS 'created and id of the checkout session behind session_ref: the latest one counts';
COMMENT ON COLUMN stripe_customer_links.own_ref IS 'the org made for this customer when it named none';
CREATE INDEX stripe_customer_links_ref ON stripe_customer_links (ref);

CREATE TABLE plans (
    plan_id text COLLATE "C" PRIMARY KEY,
    name text NOT NULL,
    description text,
    active boolean NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL
);

-- Stripe prices that buy a plan.
CREATE TABLE plan_stripe_prices (
    price_id text COLLATE "C" PRIMARY KEY,
    plan_id text COLLATE "C" NOT NULL
);
CREATE INDEX plan_stripe_prices_plan ON plan_stripe_prices (plan_id);
