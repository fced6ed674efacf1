-- What keeps the records of usage in order: which months are gone, and what was counted to another day than its own.

-- Months whose records a retention setting took away. What was counted from them can no longer be checked against records.
CREATE TABLE usage_months_gone (
    month date PRIMARY KEY,
    mode text NOT NULL CHECK (mode IN ('detach', 'drop')),
    records bigint NOT NULL,
    last_day date,
    gone_at timestamptz NOT NULL
);
COMMENT ON COLUMN usage_months_gone.last_day IS 'the last local day that a record of the month was counted to; none: there was no record';

-- A record lies within a day of the local day that it was counted to, whatever the zone, unless its own month was closed. Only those
-- moved ones are here: the records of a day are then found by their times and by this.
CREATE INDEX usage_records_moved ON usage_records (org_id, day) WHERE moved;

-- A partition that is kept gets another name: under its own, usage would go on being copied into it, where nobody looks.
CREATE OR REPLACE FUNCTION drop_usage_partition(month date, keep boolean) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    name text := 'usage_records_' || to_char(date_trunc('month', month)::date, 'YYYY_MM');
BEGIN
    PERFORM pg_advisory_xact_lock(2685663);
    IF to_regclass('usage_partitions.' || quote_ident(name)) IS NULL THEN RETURN false; END IF;
    EXECUTE format('ALTER TABLE public.usage_records DETACH PARTITION usage_partitions.%I', name);
    IF keep THEN
        EXECUTE format('ALTER TABLE usage_partitions.%I RENAME TO %I', name, name || '_detached');
    ELSE
        EXECUTE format('DROP TABLE usage_partitions.%I', name);
    END IF;
    RETURN true;
END $$;
