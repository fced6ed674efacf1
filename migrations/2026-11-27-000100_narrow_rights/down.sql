CREATE OR REPLACE VIEW usage_key_times WITH (security_barrier) AS
    SELECT org_id, event_key, occurred_at FROM usage_keys
    WHERE current_user <> 'coulomb_org'
        OR org_id = nullif(current_setting('coulomb.org_id', true), '')::bigint;

CREATE OR REPLACE FUNCTION drop_usage_partition(month date, keep boolean) RETURNS boolean LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, coulomb, pg_temp AS $$
DECLARE
    name text := 'usage_records_' || to_char(date_trunc('month', month)::date, 'YYYY_MM');
BEGIN
    PERFORM pg_advisory_xact_lock(2685663);
    IF to_regclass('usage_partitions.' || quote_ident(name)) IS NULL THEN RETURN false; END IF;
    EXECUTE format('ALTER TABLE coulomb.usage_records DETACH PARTITION usage_partitions.%I', name);
    IF keep THEN
        EXECUTE format('ALTER TABLE usage_partitions.%I RENAME TO %I', name, name || '_detached');
    ELSE
        EXECUTE format('DROP TABLE usage_partitions.%I', name);
    END IF;
    RETURN true;
END $$;

DROP FUNCTION usage_month_is_closed(date);
