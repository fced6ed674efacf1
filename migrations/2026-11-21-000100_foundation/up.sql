-- Who is billed, who may call, what was done.
-- `orgs` and `org_refs` are catalogue (reference) tables; the rest are tenant tables, keyed by org_id first.
-- org_id 0 is the platform itself.

CREATE TABLE orgs (
    org_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id text COLLATE "C" NOT NULL UNIQUE,
    external_id text COLLATE "C" UNIQUE,
    name text NOT NULL,
    time_zone text NOT NULL,
    created_at timestamptz NOT NULL,
    metadata jsonb NOT NULL,
    CONSTRAINT orgs_external_id_is_short CHECK (length(external_id) BETWEEN 1 AND 200)
);
CREATE INDEX orgs_created ON orgs (created_at, org_id);

-- Every name by which Stripe's metadata may call an org: its public id and its external id.
CREATE TABLE org_refs (
    ref text COLLATE "C" PRIMARY KEY,
    org_id bigint NOT NULL
);
CREATE INDEX org_refs_org ON org_refs (org_id);

CREATE TABLE api_keys (
    org_id bigint NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    secret_sha256 bytea NOT NULL,
    name text NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    PRIMARY KEY (org_id, key_id)
);
CREATE INDEX api_keys_key ON api_keys (key_id);

CREATE TABLE audit_log (
    org_id bigint NOT NULL,
    audit_id bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    target text NOT NULL,
    detail jsonb NOT NULL,
    request_id text,
    PRIMARY KEY (org_id, audit_id)
);

CREATE TABLE idempotency_keys (
    org_id bigint NOT NULL,
    idempotency_key text COLLATE "C" NOT NULL,
    request_sha256 bytea NOT NULL,
    status smallint,
    body text,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, idempotency_key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);
