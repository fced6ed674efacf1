-- Stripe events as received. Rows are inserted, never changed; what is still to be done with them
-- stands in stripe_inbox_queue. Local tables: a Stripe event has no org until it is projected.

CREATE TABLE stripe_inbox (
    inbox_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    event_type text COLLATE "C" NOT NULL,
    api_version text COLLATE "C",
    created bigint NOT NULL,
    object text COLLATE "C",
    object_id text COLLATE "C",
    thin boolean NOT NULL,
    twin_event_id text COLLATE "C",
    signature text NOT NULL,
    user_agent text,
    received_at timestamptz NOT NULL,
    body bytea NOT NULL,
    CONSTRAINT stripe_inbox_event UNIQUE (account, livemode, event_id)
);
COMMENT ON COLUMN stripe_inbox.created IS 'the event''s own time, unix seconds, as Stripe sends it';
COMMENT ON COLUMN stripe_inbox.twin_event_id IS 'snapshot_event of a thin event: the same happening, in full';
-- Bodies of a few kilobytes stay in the row, compressed: one write, one read.
ALTER TABLE stripe_inbox SET (toast_tuple_target = 4080);
DO $$ BEGIN
    IF 'lz4' = ANY ((SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression')::text[]) THEN
        ALTER TABLE stripe_inbox ALTER COLUMN body SET COMPRESSION lz4;
    END IF;
END $$;
CREATE INDEX stripe_inbox_object ON stripe_inbox (object_id, created) WHERE object_id IS NOT NULL;
CREATE INDEX stripe_inbox_thin ON stripe_inbox (inbox_id) WHERE thin;

CREATE TABLE stripe_inbox_redeliveries (
    inbox_id bigint NOT NULL,
    redelivery_id bigint GENERATED ALWAYS AS IDENTITY,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (inbox_id, redelivery_id)
);

CREATE TABLE stripe_inbox_queue (
    inbox_id bigint PRIMARY KEY,
    attempts smallint NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    last_error text,
    quarantined_at timestamptz
);
-- A queue: rows live for moments. Vacuum by count, not by share of the table.
ALTER TABLE stripe_inbox_queue SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);

-- Per object: the order key of the snapshot that wins.
CREATE TABLE stripe_objects (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    object text COLLATE "C" NOT NULL,
    object_id text COLLATE "C" NOT NULL,
    inbox_id bigint,
    standing smallint NOT NULL,
    created bigint NOT NULL,
    ambiguous boolean NOT NULL,
    deleted boolean NOT NULL,
    PRIMARY KEY (account, livemode, object, object_id)
);
COMMENT ON COLUMN stripe_objects.inbox_id IS 'the event whose snapshot wins; null between a claim and its first projection';
