-- scale(numeric) is null for NaN and infinity alone, and cheaper to ask than two comparisons: so the checks of what is written often.
-- Usage: what is metered, at which price, how much of it there was.
-- Meters, rate cards and slots are catalogue (reference) tables: small, held in memory by every daemon under the version in
-- `catalog`. The rest are tenant tables, keyed by org_id first.

-- The version of all that decides how a usage event is counted. Whoever changes any of it takes the catalogue's lock and
-- adds one here; whoever writes usage holds the lock shared and checks that it knows this version.
CREATE TABLE catalog (
    name text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL
);
INSERT INTO catalog VALUES ('metering', 1);

CREATE TABLE meters (
    meter_id integer PRIMARY KEY,
    key text COLLATE "C" NOT NULL UNIQUE,
    aggregation text NOT NULL CHECK (aggregation IN ('sum', 'count', 'max', 'unique', 'latest')),
    unit text NOT NULL,
    created_at timestamptz NOT NULL,
    archived_at timestamptz
);
COMMENT ON TABLE meters IS 'what never changes about a meter; the rest stands in meter_versions';

CREATE TABLE meter_versions (
    meter_id integer NOT NULL,
    version integer NOT NULL,
    name text NOT NULL,
    event_name text COLLATE "C" NOT NULL,
    value_field text,
    dimensions text[] NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (meter_id, version)
);
COMMENT ON TABLE meter_versions IS 'the newest version counts, for usage that comes after it';

CREATE TABLE rate_cards (
    rate_card_id integer PRIMARY KEY,
    meter_id integer NOT NULL,
    version integer NOT NULL,
    valid_from timestamptz NOT NULL,
    currency text NOT NULL CHECK (currency ~ '^[a-z]{3}$'),
    rates jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (meter_id, version)
);
COMMENT ON TABLE rate_cards IS 'of the cards valid at an event''s time the one that starts last counts, of those the newest version';

-- What of the usage is counted for quotas: a meter, a filter, a period. A limit on it is something else.
CREATE TABLE quota_slots (
    slot_id integer PRIMARY KEY,
    meter_id integer NOT NULL,
    filter jsonb NOT NULL,
    per_subject boolean NOT NULL,
    period text NOT NULL CHECK (period IN ('day', 'month', 'billing')),
    everywhere boolean NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (meter_id, filter, per_subject, period)
);
COMMENT ON COLUMN quota_slots.filter IS 'dimension to value; only usage that has them all is counted';
COMMENT ON COLUMN quota_slots.everywhere IS 'counted for every org, as a plan limits it; else for the orgs in quota_slot_orgs';

CREATE TABLE quota_slot_orgs (
    slot_id integer NOT NULL,
    org_id bigint NOT NULL,
    PRIMARY KEY (slot_id, org_id)
);

-- The claim of a usage event's key, in a table that is not partitioned by time: (org, source, event id) counts once,
-- whatever its timestamp.
CREATE TABLE usage_keys (
    org_id bigint NOT NULL,
    event_key uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    content bigint NOT NULL,
    PRIMARY KEY (org_id, event_key)
);
COMMENT ON COLUMN usage_keys.event_key IS 'digest of source and event id; of a version 7 UUID it keeps the time in front';
COMMENT ON COLUMN usage_keys.content IS 'digest of what the event says: another one under the same key is a conflict';

-- (org, meter, member, dimensions) as one number.
CREATE TABLE usage_series (
    org_id bigint NOT NULL,
    series_id bigint NOT NULL,
    meter_id integer NOT NULL,
    member text COLLATE "C",
    dimensions jsonb NOT NULL,
    PRIMARY KEY (org_id, series_id)
);
COMMENT ON COLUMN usage_series.series_id IS 'digest of the other columns, the same in every database';

CREATE TABLE usage_records (
    org_id bigint NOT NULL,
    series_id bigint NOT NULL,
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    event_key uuid NOT NULL,
    meter_id integer NOT NULL,
    rate_card_id integer,
    day date NOT NULL,
    billing_period date,
    correction smallint NOT NULL,
    quantity numeric NOT NULL CHECK (scale(quantity) IS NOT NULL),
    cost numeric NOT NULL CHECK (scale(cost) IS NOT NULL),
    battery_units numeric NOT NULL CHECK (scale(battery_units) IS NOT NULL),
    event_id text NOT NULL,
    source text NOT NULL,
    subject text COLLATE "C",
    value text,
    moved boolean NOT NULL DEFAULT false,
    PRIMARY KEY (org_id, occurred_at, event_key, meter_id, correction)
) PARTITION BY RANGE (occurred_at);
COMMENT ON COLUMN usage_records.day IS 'the local day of the org that it was counted to';
COMMENT ON COLUMN usage_records.billing_period IS 'first day of the subscription''s period that it was counted to';
COMMENT ON COLUMN usage_records.correction IS '0: as reported; 1, 3, …: takes back the one before; 2, 4, …: takes its place';
COMMENT ON COLUMN usage_records.moved IS 'counted to a day more than one after its own, as its month was closed';
COMMENT ON COLUMN usage_records.value IS 'what a meter of unique values counts';

-- Partitions live in a schema of their own, where no org's role may look: they are read through their parent alone.
CREATE SCHEMA usage_partitions;
CREATE TABLE usage_partitions.usage_records_default PARTITION OF usage_records DEFAULT;

-- The daemon owns no table, so it makes and drops partitions through these.
CREATE FUNCTION make_usage_partition(month date) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    start date := date_trunc('month', month)::date;
    name text := 'usage_records_' || to_char(start, 'YYYY_MM');
BEGIN
    -- One at a time: the second finds the partition made.
    PERFORM pg_advisory_xact_lock(2685663);
    IF to_regclass('usage_partitions.' || quote_ident(name)) IS NOT NULL THEN RETURN false; END IF;
    EXECUTE format('CREATE TABLE usage_partitions.%I (LIKE public.usage_records INCLUDING ALL)', name);
    EXECUTE format('ALTER TABLE public.usage_records ATTACH PARTITION usage_partitions.%I FOR VALUES FROM (%L) TO (%L)',
        name, start::timestamp AT TIME ZONE 'UTC', (start + interval '1 month')::timestamp AT TIME ZONE 'UTC');
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'coulomb_platform') THEN
        EXECUTE format('GRANT SELECT, INSERT ON usage_partitions.%I TO coulomb_platform', name);
    END IF;
    RETURN true;
END $$;

CREATE FUNCTION drop_usage_partition(month date, keep boolean) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    name text := 'usage_records_' || to_char(date_trunc('month', month)::date, 'YYYY_MM');
BEGIN
    IF to_regclass('usage_partitions.' || quote_ident(name)) IS NULL THEN RETURN false; END IF;
    EXECUTE format('ALTER TABLE public.usage_records DETACH PARTITION usage_partitions.%I', name);
    IF NOT keep THEN EXECUTE format('DROP TABLE usage_partitions.%I', name); END IF;
    RETURN true;
END $$;

-- Per series and local day, true as of the last acknowledged usage.
CREATE TABLE daily_summaries (
    org_id bigint NOT NULL,
    series_id bigint NOT NULL,
    day date NOT NULL,
    quantity numeric NOT NULL CHECK (scale(quantity) IS NOT NULL),
    count bigint NOT NULL,
    cost numeric NOT NULL CHECK (scale(cost) IS NOT NULL),
    battery_units numeric NOT NULL CHECK (scale(battery_units) IS NOT NULL),
    latest_at timestamptz,
    PRIMARY KEY (org_id, series_id, day)
) WITH (fillfactor = 50);
COMMENT ON COLUMN daily_summaries.count IS 'usage events, those taken back not counted';
COMMENT ON COLUMN daily_summaries.latest_at IS 'when what a latest meter shows was measured';
CREATE INDEX daily_summaries_day ON daily_summaries (org_id, day);

-- Values that a unique meter has seen on a day.
CREATE TABLE usage_uniques (
    org_id bigint NOT NULL,
    series_id bigint NOT NULL,
    day date NOT NULL,
    value_digest uuid NOT NULL,
    PRIMARY KEY (org_id, series_id, day, value_digest)
);

-- Quantity of a local month that tiers of a rate card are counted by.
CREATE TABLE rating_counters (
    org_id bigint NOT NULL,
    meter_id integer NOT NULL,
    rate_card_id integer NOT NULL,
    rate smallint NOT NULL,
    month date NOT NULL,
    quantity numeric NOT NULL CHECK (scale(quantity) IS NOT NULL),
    PRIMARY KEY (org_id, meter_id, rate_card_id, rate, month)
) WITH (fillfactor = 50);

-- What was taken back or replaced, and why.
CREATE TABLE usage_corrections (
    org_id bigint NOT NULL,
    event_key uuid NOT NULL,
    correction smallint NOT NULL,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (org_id, event_key, correction)
);

-- Months that finance has closed: what comes later is counted to the open one. org_id 0: every org.
CREATE TABLE usage_closings (
    org_id bigint NOT NULL,
    month date NOT NULL,
    closed_at timestamptz NOT NULL,
    actor text NOT NULL,
    PRIMARY KEY (org_id, month)
);

-- How much of a slot an org (or one subject of it) has used in a period.
CREATE TABLE quota_counters (
    org_id bigint NOT NULL,
    slot_id integer NOT NULL,
    subject text COLLATE "C" NOT NULL,
    period date NOT NULL,
    used numeric NOT NULL CHECK (scale(used) IS NOT NULL),
    reserved numeric NOT NULL CHECK (reserved >= 0 AND reserved < 'Infinity'),
    PRIMARY KEY (org_id, slot_id, subject, period)
) WITH (fillfactor = 50);
COMMENT ON COLUMN quota_counters.subject IS 'empty: the org as a whole';
COMMENT ON COLUMN quota_counters.period IS 'first local day of the period';
