-- Orgs whose personal data is erased (docs/design/erasure.md).

-- The request, and how far the walk through the Stripe inbox has come.
CREATE TABLE org_erasures (
    org_id bigint PRIMARY KEY,
    requested_at timestamptz NOT NULL,
    customers text[] NOT NULL,
    objects text[] NOT NULL,
    next_inbox_id bigint NOT NULL,
    last_inbox_id bigint NOT NULL,
    events bigint NOT NULL DEFAULT 0,
    finished_at timestamptz
);
COMMENT ON COLUMN org_erasures.customers IS 'ids of its Stripe customers: events that name one are its own';
COMMENT ON COLUMN org_erasures.objects IS 'ids of objects that name no customer: refunds, disputes';
CREATE INDEX org_erasures_unfinished ON org_erasures (requested_at) WHERE finished_at IS NULL;

-- The events whose personal fields were taken out of their body.
CREATE TABLE stripe_inbox_erased (
    inbox_id bigint PRIMARY KEY,
    org_id bigint NOT NULL,
    erased_at timestamptz NOT NULL,
    body_sha256 bytea NOT NULL CHECK (length(body_sha256) = 32)
);
COMMENT ON COLUMN stripe_inbox_erased.body_sha256 IS 'SHA-256 of the body as it was received';

-- The daemon may not change what must not change, but for an erasure that was asked for.
CREATE FUNCTION erase_inbox_body(org bigint, event bigint, redacted bytea, at timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, coulomb, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM coulomb.org_erasures e WHERE e.org_id = org AND e.finished_at IS NULL) THEN
        RAISE EXCEPTION 'no erasure of the org % is under way', org;
    END IF;
    INSERT INTO coulomb.stripe_inbox_erased
    SELECT i.inbox_id, org, at, sha256(i.body) FROM coulomb.stripe_inbox i WHERE i.inbox_id = event
    ON CONFLICT DO NOTHING;
    UPDATE coulomb.stripe_inbox SET body = redacted, user_agent = NULL WHERE inbox_id = event;
    RETURN FOUND;
END $$;

CREATE FUNCTION erased_name(salt text, name text) RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'erased-' || left(encode(sha256(convert_to(salt || name, 'UTF8')), 'hex'), 24)
$$;

-- Of an erased org: what its audit entries tell of people, and the subjects of its usage.
CREATE FUNCTION erase_entries(org bigint, salt text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, coulomb, pg_temp AS $$
DECLARE
    name text;
    entries bigint;
BEGIN
    SELECT o.public_id INTO name FROM coulomb.orgs o WHERE o.org_id = org AND o.erased_at IS NOT NULL;
    IF name IS NULL THEN RAISE EXCEPTION 'the org % is not erased', org; END IF;
    UPDATE coulomb.audit_log a
    SET detail = '{"erased": true}', before = NULL, after = NULL, address = NULL, user_agent = NULL
    WHERE (a.org_id = org OR a.org_id = 0 AND (a.target = name
            OR a.target IN (SELECT k.key_id FROM coulomb.api_keys k WHERE k.org_id = org)))
        AND a.action <> 'org.erase' AND a.detail <> '{"erased": true}';
    GET DIAGNOSTICS entries = ROW_COUNT;
    UPDATE coulomb.usage_records u SET subject = coulomb.erased_name(salt, u.subject)
    WHERE u.org_id = org AND u.subject NOT LIKE 'erased-%';
    RETURN entries;
END $$;
