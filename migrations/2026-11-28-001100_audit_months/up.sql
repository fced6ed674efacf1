-- The audit log by months, so that old months can be dropped as a whole; and what its rows lacked.

ALTER TABLE audit_log RENAME TO audit_log_whole;
ALTER TABLE audit_log_whole RENAME CONSTRAINT audit_log_pkey TO audit_log_whole_pkey;
ALTER SEQUENCE audit_log_audit_id_seq RENAME TO audit_log_whole_audit_id_seq;

-- A key of a partitioned table has to hold the column that it is partitioned by.
CREATE TABLE audit_log (
    org_id bigint NOT NULL,
    at timestamptz NOT NULL,
    audit_id bigint GENERATED ALWAYS AS IDENTITY,
    actor text NOT NULL,
    action text NOT NULL,
    target text NOT NULL,
    detail jsonb NOT NULL,
    request_id text,
    address text,
    user_agent text CHECK (length(user_agent) <= 300),
    before jsonb,
    after jsonb,
    PRIMARY KEY (org_id, at, audit_id)
) PARTITION BY RANGE (at);
COMMENT ON COLUMN audit_log.address IS 'the client''s; null: the command line, or not known';
COMMENT ON COLUMN audit_log.before
    IS 'what the command changed, as it was; only fields that differ. null: it made the thing';
COMMENT ON COLUMN audit_log.after IS 'the same fields as they are since; null: it deleted the thing';
CREATE INDEX audit_log_time ON audit_log (at, audit_id);

CREATE TABLE usage_partitions.audit_log_default PARTITION OF audit_log DEFAULT;

-- The daemon owns no table, so it makes and drops partitions through these.
CREATE FUNCTION make_audit_partition(month date) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, coulomb, pg_temp AS $$
DECLARE
    start date := date_trunc('month', month)::date;
    name text := 'audit_log_' || to_char(start, 'YYYY_MM');
    first timestamptz := start::timestamp AT TIME ZONE 'UTC';
    next timestamptz := (start + interval '1 month')::timestamp AT TIME ZONE 'UTC';
BEGIN
    -- One at a time: the second finds the partition made.
    PERFORM pg_advisory_xact_lock(2685664);
    IF to_regclass('usage_partitions.' || quote_ident(name)) IS NOT NULL THEN RETURN false; END IF;
    -- Whoever chose the default partition before this one was there would write to it or read it in vain. So
    -- nobody may be about to, unless the month is far away.
    IF first < now() + interval '1 month' OR EXISTS (SELECT FROM usage_partitions.audit_log_default) THEN
        LOCK TABLE coulomb.audit_log IN ACCESS EXCLUSIVE MODE;
    END IF;
    EXECUTE format('CREATE TABLE usage_partitions.%I (LIKE coulomb.audit_log INCLUDING DEFAULTS '
        'INCLUDING CONSTRAINTS INCLUDING INDEXES)', name);
    -- What was written before the month had a partition.
    EXECUTE format('INSERT INTO usage_partitions.%I SELECT * FROM usage_partitions.audit_log_default d '
        'WHERE d.at >= $1 AND d.at < $2', name) USING first, next;
    DELETE FROM usage_partitions.audit_log_default d WHERE d.at >= first AND d.at < next;
    EXECUTE format('ALTER TABLE coulomb.audit_log ATTACH PARTITION usage_partitions.%I '
        'FOR VALUES FROM (%L) TO (%L)', name, first, next);
    RETURN true;
END $$;

-- Only a month that ended four weeks ago may go, whatever the clock of the daemon says.
CREATE FUNCTION drop_audit_partition(month date) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, coulomb, pg_temp AS $$
DECLARE
    start date := date_trunc('month', month)::date;
    name text := 'audit_log_' || to_char(start, 'YYYY_MM');
BEGIN
    PERFORM pg_advisory_xact_lock(2685664);
    IF to_regclass('usage_partitions.' || quote_ident(name)) IS NULL THEN RETURN false; END IF;
    IF (start + interval '1 month' + interval '28 days')::timestamp AT TIME ZONE 'UTC' > now() THEN
        RAISE EXCEPTION 'the month % ended less than four weeks ago: its audit entries stay',
            to_char(start, 'YYYY-MM');
    END IF;
    EXECUTE format('DROP TABLE usage_partitions.%I', name);
    RETURN true;
END $$;

SELECT make_audit_partition(month::date)
FROM (SELECT DISTINCT date_trunc('month', at AT TIME ZONE 'UTC') AS month FROM audit_log_whole) AS months;
INSERT INTO audit_log (org_id, at, audit_id, actor, action, target, detail, request_id)
    OVERRIDING SYSTEM VALUE
SELECT org_id, at, audit_id, actor, action, target, detail, request_id FROM audit_log_whole;
SELECT setval('audit_log_audit_id_seq', coalesce(max(audit_id), 1), max(audit_id) IS NOT NULL)
FROM audit_log_whole;
DROP TABLE audit_log_whole;
