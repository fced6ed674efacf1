-- Battery: prepaid credit of orgs in units. Tenant tables, keyed by org_id first, but for what is said of Stripe's payments.

-- One row per org: whoever changes its battery locks it.
CREATE TABLE battery_accounts (
    org_id bigint PRIMARY KEY,
    balance numeric NOT NULL CHECK (scale(balance) IS NOT NULL),
    reserved numeric NOT NULL CHECK (reserved >= 0 AND reserved < 'Infinity'),
    entries bigint NOT NULL,
    grants bigint NOT NULL,
    last_at timestamptz,
    daily date
) WITH (fillfactor = 50);
COMMENT ON COLUMN battery_accounts.balance IS 'of all entries; below zero it is debt';
COMMENT ON COLUMN battery_accounts.reserved IS 'set aside by open reservations';
COMMENT ON COLUMN battery_accounts.entries IS 'number of the last entry';
COMMENT ON COLUMN battery_accounts.grants IS 'number of the last grant';
COMMENT ON COLUMN battery_accounts.last_at IS 'time of the last entry: they never go back';
COMMENT ON COLUMN battery_accounts.daily IS 'last local day whose allowance was granted';

CREATE TABLE battery_grants (
    org_id bigint NOT NULL,
    grant_number bigint NOT NULL,
    grant_id text COLLATE "C" NOT NULL,
    source text NOT NULL CHECK (source IN ('subscription', 'purchase', 'daily_allowance', 'bonus', 'adjustment')),
    source_key text COLLATE "C" NOT NULL,
    state text NOT NULL CHECK (state IN ('scheduled', 'open', 'closed')),
    priority smallint NOT NULL,
    created_at timestamptz NOT NULL,
    effective_at timestamptz NOT NULL,
    expires_at timestamptz,
    amount numeric NOT NULL CHECK (amount > 0 AND amount < 'Infinity'),
    remaining numeric NOT NULL CHECK (remaining >= 0),
    burned numeric NOT NULL CHECK (burned >= 0),
    clawed numeric NOT NULL CHECK (clawed >= 0),
    lapsed numeric NOT NULL CHECK (lapsed >= 0),
    link jsonb,
    reason text,
    PRIMARY KEY (org_id, grant_number),
    UNIQUE (org_id, grant_id),
    UNIQUE (org_id, source_key),
    CHECK (remaining + burned + clawed + lapsed = amount),
    CHECK (state <> 'closed' OR remaining = 0)
) WITH (fillfactor = 70);
COMMENT ON COLUMN battery_grants.source_key IS 'what it is granted for: once an org';
COMMENT ON COLUMN battery_grants.state IS 'scheduled: not effective yet, and in no balance; open: may be used; closed: nothing is left of it';
COMMENT ON COLUMN battery_grants.priority IS 'lower is burned first; then the soonest expiry, then the oldest';
COMMENT ON COLUMN battery_grants.burned IS 'used, or gone into debt that was there before it';
COMMENT ON COLUMN battery_grants.clawed IS 'taken back';
COMMENT ON COLUMN battery_grants.lapsed IS 'expired unused';
CREATE INDEX battery_grants_id ON battery_grants (grant_id);
CREATE INDEX battery_grants_live ON battery_grants (org_id) WHERE state <> 'closed';
CREATE INDEX battery_grants_expiring ON battery_grants (expires_at) WHERE state <> 'closed';
CREATE INDEX battery_grants_scheduled ON battery_grants (effective_at) WHERE state = 'scheduled';

-- The ledger: rows are inserted and never change.
CREATE TABLE battery_entries (
    org_id bigint NOT NULL,
    sequence bigint NOT NULL,
    at timestamptz NOT NULL,
    kind text NOT NULL CHECK (kind IN ('grant', 'usage', 'expiry', 'clawback', 'refund', 'bonus', 'adjustment')),
    amount numeric NOT NULL CHECK (amount <> 0 AND scale(amount) IS NOT NULL),
    balance_after numeric NOT NULL CHECK (scale(balance_after) IS NOT NULL),
    source text NOT NULL,
    grant_number bigint,
    batch bigint,
    draws jsonb NOT NULL,
    link jsonb,
    reason text,
    actor text,
    PRIMARY KEY (org_id, sequence)
);
COMMENT ON COLUMN battery_entries.sequence IS '1, 2, 3, … for each org, without gaps';
COMMENT ON COLUMN battery_entries.grant_number IS 'the grant that it makes, takes from or ends';
COMMENT ON COLUMN battery_entries.batch IS 'the usage that it burns: usage_records.battery_batch';
COMMENT ON COLUMN battery_entries.draws IS '[[grant number, units], …]: what the grants lost by it (below zero: got back); what is missing to the amount is debt';
COMMENT ON COLUMN battery_entries.link IS 'what it comes from: {"object", "id"} of Stripe, or a reservation';
CREATE INDEX battery_entries_at ON battery_entries (org_id, at, sequence);

-- An org's own word in place of its plan's.
CREATE TABLE battery_settings (
    org_id bigint PRIMARY KEY,
    debt_limit numeric CHECK (debt_limit >= 0 AND debt_limit < 'Infinity'),
    updated_at timestamptz NOT NULL
);
COMMENT ON COLUMN battery_settings.debt_limit IS 'how far below zero the battery may be used; null: without limit';

ALTER TABLE usage_records ADD COLUMN battery_batch bigint;
COMMENT ON COLUMN usage_records.battery_batch IS 'the ledger entry that burned its battery units names it too';

ALTER TABLE quota_reservations ADD COLUMN battery_units numeric NOT NULL DEFAULT 0
    CHECK (battery_units >= 0 AND battery_units < 'Infinity');
COMMENT ON COLUMN quota_reservations.battery_units IS 'set aside of the battery';
