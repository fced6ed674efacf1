-- Deliveries as they came, those of one commit in one row, until a projector files them in stripe_inbox: that is all that is written
-- before Stripe is answered. A row goes when its events are in the inbox, in the same transaction.
CREATE TABLE stripe_arrivals (
    arrival_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    deliveries integer NOT NULL,
    received_at timestamptz[] NOT NULL,
    signatures text[] NOT NULL,
    user_agents text[] NOT NULL,
    bodies bytea[] NOT NULL,
    attempts smallint NOT NULL DEFAULT 0,
    next_attempt_at timestamptz
);
COMMENT ON COLUMN stripe_arrivals.deliveries IS 'how many: the length of each of the arrays';
COMMENT ON COLUMN stripe_arrivals.attempts IS 'failed attempts to file it; only a row of one delivery has any';
-- A queue: rows live for moments. Vacuum by count, not by share of the table.
ALTER TABLE stripe_arrivals SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 50000);
DO $$ BEGIN
    IF 'lz4' = ANY ((SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression')::text[]) THEN
        ALTER TABLE stripe_arrivals ALTER COLUMN bodies SET COMPRESSION lz4, ALTER COLUMN signatures SET COMPRESSION lz4,
            ALTER COLUMN user_agents SET COMPRESSION lz4, ALTER COLUMN received_at SET COMPRESSION lz4;
    END IF;
END $$;
