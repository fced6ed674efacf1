-- Messages to the outside: who gets them, and what was sent.

ALTER TABLE outbox_messages
    ADD COLUMN object jsonb,
    ADD COLUMN position bigint,
    ALTER COLUMN payload DROP NOT NULL;
COMMENT ON COLUMN outbox_messages.payload IS 'null: the message is older than the retention; its key stays';
COMMENT ON COLUMN outbox_messages.object IS 'what the message is about, as it was then';
COMMENT ON COLUMN outbox_messages.position IS 'its place in the order of assignment; null: not yet assigned';

-- Messages from before this version are listed, and not sent.
UPDATE outbox_messages m SET position = n.position
FROM (SELECT org_id, message_id, row_number() OVER (ORDER BY message_id) AS position
      FROM outbox_messages) n
WHERE (m.org_id, m.message_id) = (n.org_id, n.message_id);

-- The mark of messages that nobody has assigned yet. Commits have another order than ids, so a cursor over
-- ids would miss some.
CREATE INDEX outbox_messages_new ON outbox_messages (message_id) WHERE position IS NULL;
CREATE INDEX outbox_messages_position ON outbox_messages (position);
CREATE INDEX outbox_messages_written ON outbox_messages (created_at) WHERE payload IS NOT NULL;

-- One row at most: its lock makes one dispatcher assign at a time, so positions appear in their order.
CREATE TABLE message_counter (
    only_row boolean PRIMARY KEY CHECK (only_row),
    last_position bigint NOT NULL
);
INSERT INTO message_counter SELECT true, max(position) FROM outbox_messages HAVING count(*) > 0;

-- An endpoint of org 0 is the platform's and gets messages of every org.
CREATE TABLE message_endpoints (
    org_id bigint NOT NULL,
    endpoint_id text COLLATE "C" NOT NULL,
    url text NOT NULL,
    description text NOT NULL,
    kinds text[] NOT NULL,
    ordered boolean NOT NULL,
    with_object boolean NOT NULL,
    signature text NOT NULL CHECK (signature IN ('v1', 'v1a')),
    enabled boolean NOT NULL,
    disabled_reason text,
    disabled_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, endpoint_id),
    CHECK (enabled = (disabled_at IS NULL))
);
COMMENT ON COLUMN message_endpoints.kinds IS 'kinds, or beginnings that end in a full stop; empty: all';

-- Secrets sign, so they are stored as they are. While one is replaced, both sign.
CREATE TABLE message_secrets (
    org_id bigint NOT NULL,
    endpoint_id text COLLATE "C" NOT NULL,
    number integer NOT NULL,
    secret bytea NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    PRIMARY KEY (org_id, endpoint_id, number),
    FOREIGN KEY (org_id, endpoint_id) REFERENCES message_endpoints ON DELETE CASCADE
);

-- What changes with every message stands apart from what people set. The holder is the daemon that sends. It
-- is a local table, since lanes are claimed over all orgs; so it has no foreign key.
CREATE TABLE message_lanes (
    org_id bigint NOT NULL,
    endpoint_id text COLLATE "C" NOT NULL,
    last_sequence bigint NOT NULL,
    due_at timestamptz NOT NULL,
    failing_since timestamptz,
    holder text,
    holder_pid integer,
    holder_started bigint,
    held_until timestamptz,
    PRIMARY KEY (org_id, endpoint_id),
    CHECK ((holder IS NULL) = (held_until IS NULL))
);
COMMENT ON COLUMN message_lanes.due_at IS 'no delivery is due before; infinity: none waits';
CREATE INDEX message_lanes_due ON message_lanes (due_at) WHERE holder IS NULL;
CREATE INDEX message_lanes_holder ON message_lanes (holder) WHERE holder IS NOT NULL;

CREATE TABLE message_deliveries (
    org_id bigint NOT NULL,
    endpoint_id text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    message_org_id bigint NOT NULL,
    message_id text COLLATE "C" NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'delivered', 'given_up')),
    attempts integer NOT NULL,
    failures integer NOT NULL,
    created_at timestamptz NOT NULL,
    next_attempt_at timestamptz NOT NULL,
    ended_at timestamptz,
    PRIMARY KEY (org_id, endpoint_id, sequence),
    FOREIGN KEY (org_id, endpoint_id) REFERENCES message_endpoints ON DELETE CASCADE,
    CHECK ((state = 'waiting') = (ended_at IS NULL))
);
COMMENT ON COLUMN message_deliveries.failures IS 'failed attempts since it was last made to wait by hand';
CREATE INDEX message_deliveries_due ON message_deliveries (org_id, endpoint_id, next_attempt_at, sequence)
    WHERE state = 'waiting';
CREATE INDEX message_deliveries_ordered ON message_deliveries
    (org_id, endpoint_id, message_org_id, sequence) WHERE state = 'waiting';
CREATE INDEX message_deliveries_age ON message_deliveries (created_at);

CREATE TABLE message_attempts (
    org_id bigint NOT NULL,
    endpoint_id text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    attempt integer NOT NULL,
    at timestamptz NOT NULL,
    status smallint,
    duration_ms integer NOT NULL,
    error text,
    excerpt text,
    PRIMARY KEY (org_id, endpoint_id, sequence, attempt),
    FOREIGN KEY (org_id, endpoint_id) REFERENCES message_endpoints ON DELETE CASCADE
);
COMMENT ON COLUMN message_attempts.status IS 'of the answer; null: there was none, error says why';

-- Failed payments of a customer that gets its org later.
CREATE INDEX charges_failed ON charges (customer_id, created) WHERE status = 'failed';
