-- What the daemon reads from Stripe itself, beside what Stripe sends.

-- A fetch is an input like an event: the object as Stripe's API gave it. One that shows what another row
-- shows names that row and has no body of its own.
ALTER TABLE stripe_inbox
    ADD COLUMN origin text COLLATE "C" NOT NULL DEFAULT 'webhook'
        CHECK (origin IN ('webhook', 'api', 'fetch')),
    ADD COLUMN body_of bigint,
    ADD CONSTRAINT stripe_inbox_body_of CHECK (body_of IS NULL OR body_of < inbox_id AND origin = 'fetch');
COMMENT ON COLUMN stripe_inbox.origin IS
    'webhook: Stripe delivered it; api: read from its list of events; fetch: an object that was read';
COMMENT ON COLUMN stripe_inbox.body_of IS 'the row whose object this fetch confirms; its body is empty';
CREATE INDEX stripe_inbox_fetches ON stripe_inbox (inbox_id) WHERE origin = 'fetch';

-- What only fetches show has no known time. An event that shows it counts before every fetch.
ALTER TABLE subscription_prices ADD COLUMN estimated boolean NOT NULL DEFAULT false;
ALTER TABLE subscription_prices ALTER COLUMN estimated DROP DEFAULT;
COMMENT ON COLUMN subscription_prices.estimated
    IS 'no event shows the price: since is when its item was added';
ALTER TABLE subscription_periods
    ADD COLUMN estimated boolean NOT NULL DEFAULT false,
    ADD COLUMN shown_at timestamptz;
UPDATE subscription_periods SET shown_at = last_seen;
ALTER TABLE subscription_periods
    ALTER COLUMN estimated DROP DEFAULT,
    ALTER COLUMN shown_at SET NOT NULL;
COMMENT ON COLUMN subscription_periods.estimated IS
    'no event shows the period: first_seen and last_seen are its start';
COMMENT ON COLUMN subscription_periods.shown_at IS 'the latest event or fetch that shows the period';

CREATE INDEX invoices_incomplete ON invoices (account, livemode) WHERE NOT lines_complete;
CREATE INDEX credit_notes_incomplete ON credit_notes (account, livemode) WHERE NOT lines_complete;
CREATE INDEX subscriptions_incomplete ON subscriptions (account, livemode) WHERE NOT items_complete;
CREATE INDEX stripe_objects_ambiguous ON stripe_objects (account, livemode) WHERE ambiguous;

-- Accounts that the daemon reads, ours (the empty text) and connected ones. A daemon holds an account while
-- it reads: until a time that it moves on, or until its session at the database ends.
CREATE TABLE stripe_accounts (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    stripe_id text,
    effects_since timestamptz NOT NULL,
    grant_running boolean NOT NULL,
    first_called_at timestamptz NOT NULL,
    pulled_until bigint,
    pulled_at timestamptz,
    compared_on date,
    failing_since timestamptz,
    last_error text,
    forbidden text[] NOT NULL DEFAULT '{}',
    holder text,
    holder_pid integer,
    holder_started bigint,
    held_until timestamptz,
    PRIMARY KEY (account, livemode)
);
COMMENT ON COLUMN stripe_accounts.effects_since IS
    'money that Stripe took before grants nothing and sends no messages';
COMMENT ON COLUMN stripe_accounts.grant_running IS
    'what was paid before, for a period that still runs then, grants nevertheless';
COMMENT ON COLUMN stripe_accounts.pulled_until IS
    'all events up to this unix second of Stripe''s clock are in the inbox';
COMMENT ON COLUMN stripe_accounts.forbidden IS 'kinds of objects that the key may not read';

-- A walk through an account: a backfill, or the nightly comparison.
CREATE TABLE stripe_sync_runs (
    run_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    kind text NOT NULL CHECK (kind IN ('backfill', 'comparison')),
    state text NOT NULL CHECK (state IN ('running', 'done', 'incomplete', 'failed')),
    requested_by text NOT NULL,
    requested_at timestamptz NOT NULL,
    began_at timestamptz,
    stripe_began bigint,
    ended_at timestamptz,
    error text
);
COMMENT ON COLUMN stripe_sync_runs.state IS 'incomplete: it ended without kinds that the key may not read';
COMMENT ON COLUMN stripe_sync_runs.stripe_began IS 'unix second of Stripe''s clock when it began';
CREATE UNIQUE INDEX stripe_sync_runs_running ON stripe_sync_runs (account, livemode) WHERE state = 'running';

CREATE TABLE stripe_sync_steps (
    run_id bigint NOT NULL REFERENCES stripe_sync_runs ON DELETE CASCADE,
    step integer NOT NULL,
    object text COLLATE "C" NOT NULL,
    what text NOT NULL,
    cursor jsonb NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'done', 'forbidden')),
    found bigint NOT NULL DEFAULT 0,
    same bigint NOT NULL DEFAULT 0,
    new bigint NOT NULL DEFAULT 0,
    changed bigint NOT NULL DEFAULT 0,
    requests bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, step)
);
COMMENT ON COLUMN stripe_sync_steps.cursor IS 'where the next page begins; committed with the page before';
COMMENT ON COLUMN stripe_sync_steps.same IS 'objects that were mirrored as Stripe has them';

-- Objects and thin events that must be read one by one.
CREATE TABLE stripe_wanted (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    object text COLLATE "C" NOT NULL,
    object_id text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    path text,
    wanted_at timestamptz NOT NULL,
    next_attempt_at timestamptz NOT NULL,
    attempts smallint NOT NULL DEFAULT 0,
    last_error text,
    done_at timestamptz,
    observed bigint,
    PRIMARY KEY (account, livemode, object, object_id)
);
CREATE INDEX stripe_wanted_due ON stripe_wanted (account, livemode, next_attempt_at) WHERE done_at IS NULL;
COMMENT ON COLUMN stripe_wanted.path IS 'where Stripe has it, if its id does not tell';
COMMENT ON COLUMN stripe_wanted.observed IS 'unix second of Stripe''s clock of the last fetch';

-- Where the mirrors differed from Stripe, and which input repaired it.
CREATE TABLE stripe_drift (
    drift_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    kind text COLLATE "C" NOT NULL,
    object text COLLATE "C" NOT NULL,
    object_id text COLLATE "C" NOT NULL,
    fields text[] NOT NULL,
    ours text,
    theirs text,
    detail text NOT NULL,
    inbox_id bigint,
    run_id bigint,
    found_at timestamptz NOT NULL
);
CREATE INDEX stripe_drift_object ON stripe_drift (object_id);
COMMENT ON COLUMN stripe_drift.ours IS 'SHA-256 of what the mirror showed, or our figure';
COMMENT ON COLUMN stripe_drift.inbox_id IS 'the input that repaired it';
