CREATE OR REPLACE FUNCTION drop_usage_partition(month date, keep boolean) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    name text := 'usage_records_' || to_char(date_trunc('month', month)::date, 'YYYY_MM');
BEGIN
    IF to_regclass('usage_partitions.' || quote_ident(name)) IS NULL THEN RETURN false; END IF;
    EXECUTE format('ALTER TABLE public.usage_records DETACH PARTITION usage_partitions.%I', name);
    IF NOT keep THEN EXECUTE format('DROP TABLE usage_partitions.%I', name); END IF;
    RETURN true;
END $$;
DROP INDEX usage_records_moved;
DROP TABLE usage_months_gone;
