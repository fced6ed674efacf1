-- As before: a binary that lacks this migration has its tables in public.
CREATE OR REPLACE FUNCTION make_usage_partition(month date) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
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
