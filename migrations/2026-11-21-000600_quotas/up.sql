-- Quotas: limits on what slots count, and what was set aside under them.
-- `plan_quotas` is a catalogue (reference) table; the rest are tenant tables, keyed by org_id first.

-- An org's own limit on a slot. It stands in place of its plan's.
CREATE TABLE quotas (
    org_id bigint NOT NULL,
    quota_id text COLLATE "C" NOT NULL,
    slot_id integer NOT NULL,
    limit_quantity numeric CHECK (limit_quantity >= 0 AND limit_quantity < 'Infinity'),
    enforcement text NOT NULL CHECK (enforcement IN ('hard', 'soft')),
    refuse_usage boolean NOT NULL CHECK (enforcement = 'hard' OR NOT refuse_usage),
    thresholds numeric[] NOT NULL CHECK (0 < ALL (thresholds) AND 1000 >= ALL (thresholds)),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, quota_id),
    UNIQUE (org_id, slot_id)
);
COMMENT ON COLUMN quotas.limit_quantity IS 'null: no limit; 0 is a limit of nothing';
COMMENT ON COLUMN quotas.refuse_usage IS 'usage over the limit is refused when it is reported; else it is recorded as overage';
COMMENT ON COLUMN quotas.thresholds IS 'percent of the limit; reaching one sends a message';
CREATE INDEX quotas_id ON quotas (quota_id);

-- What orgs on a plan have, unless they have a quota of their own on the slot.
CREATE TABLE plan_quotas (
    plan_id text COLLATE "C" NOT NULL,
    slot_id integer NOT NULL,
    limit_quantity numeric CHECK (limit_quantity >= 0 AND limit_quantity < 'Infinity'),
    enforcement text NOT NULL CHECK (enforcement IN ('hard', 'soft')),
    refuse_usage boolean NOT NULL CHECK (enforcement = 'hard' OR NOT refuse_usage),
    thresholds numeric[] NOT NULL CHECK (0 < ALL (thresholds) AND 1000 >= ALL (thresholds)),
    PRIMARY KEY (plan_id, slot_id)
);

-- Subjects that no limit of the slot holds; their usage is counted like any other.
CREATE TABLE quota_exemptions (
    org_id bigint NOT NULL,
    exemption_id text COLLATE "C" NOT NULL,
    slot_id integer NOT NULL,
    subject text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, exemption_id),
    UNIQUE (org_id, slot_id, subject)
);
CREATE INDEX quota_exemptions_id ON quota_exemptions (exemption_id);

-- Amounts set aside until a deadline. Whoever ends one takes its amount out of its counters in the same transaction, with the
-- counters locked before the reservation.
CREATE TABLE quota_reservations (
    org_id bigint NOT NULL,
    reservation_id text COLLATE "C" NOT NULL,
    meter_id integer NOT NULL,
    amount numeric NOT NULL CHECK (amount > 0 AND amount < 'Infinity'),
    dimensions jsonb NOT NULL,
    subject text COLLATE "C",
    member text COLLATE "C",
    held jsonb NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'settled', 'released', 'expired')),
    made_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    settled_quantity numeric CHECK (settled_quantity > '-Infinity' AND settled_quantity < 'Infinity'),
    PRIMARY KEY (org_id, reservation_id)
) WITH (fillfactor = 80);
COMMENT ON COLUMN quota_reservations.held IS 'the counters that hold the amount: [slot, subject, period] each; never changes';
CREATE INDEX quota_reservations_open ON quota_reservations (org_id, expires_at) WHERE state = 'open';
CREATE INDEX quota_reservations_id ON quota_reservations (reservation_id);
CREATE INDEX quota_reservations_age ON quota_reservations USING brin (made_at);

-- What is to be told to the outside, written with what it tells of. Once per dedupe key.
CREATE TABLE outbox_messages (
    org_id bigint NOT NULL,
    message_id text COLLATE "C" NOT NULL,
    type text NOT NULL,
    dedupe_key text COLLATE "C" NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, message_id),
    UNIQUE (org_id, dedupe_key)
);
CREATE INDEX outbox_messages_age ON outbox_messages (message_id);

-- Counters older than the retention are found by it.
CREATE INDEX quota_counters_age ON quota_counters USING brin (period);
