-- What the daemon and the role of an org may do is no more than they need (src/db/roles.sql has the rest).

-- Only a closed month may be lost: whoever has not closed it may still correct what it holds.
CREATE FUNCTION usage_month_is_closed(first_day date) RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, coulomb, pg_temp AS $$
    SELECT NOT EXISTS (
        SELECT FROM (
            SELECT DISTINCT s.org_id FROM daily_summaries s
            WHERE s.day >= first_day AND s.day < first_day + interval '1 month'
        ) AS used
        WHERE NOT EXISTS (
            SELECT FROM usage_closings c
            WHERE c.org_id IN (0, used.org_id) AND c.month >= first_day
        )
    )
$$;
COMMENT ON FUNCTION usage_month_is_closed(date)
    IS 'whether every org that has usage in the month has closed it, or it was closed for all';

CREATE OR REPLACE FUNCTION drop_usage_partition(month date, keep boolean) RETURNS boolean LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, coulomb, pg_temp AS $$
DECLARE
    first_day date := date_trunc('month', month)::date;
    name text := 'usage_records_' || to_char(first_day, 'YYYY_MM');
BEGIN
    PERFORM pg_advisory_xact_lock(2685663);
    IF to_regclass('usage_partitions.' || quote_ident(name)) IS NULL THEN RETURN false; END IF;
    IF (first_day + interval '1 month')::timestamp AT TIME ZONE 'UTC' > now() THEN
        RAISE EXCEPTION 'the month % is not over: its usage records stay', to_char(first_day, 'YYYY-MM');
    END IF;
    IF NOT keep AND NOT coulomb.usage_month_is_closed(first_day) THEN
        RAISE EXCEPTION 'the month % is not closed by every org: its usage records stay',
            to_char(first_day, 'YYYY-MM');
    END IF;
    EXECUTE format('ALTER TABLE coulomb.usage_records DETACH PARTITION usage_partitions.%I', name);
    IF keep THEN
        EXECUTE format('ALTER TABLE usage_partitions.%I RENAME TO %I', name, name || '_detached');
    ELSE
        EXECUTE format('DROP TABLE usage_partitions.%I', name);
    END IF;
    RETURN true;
END $$;

-- Everybody but the daemon and the owner sees the keys of the org that `coulomb.org_id` names, and else none.
CREATE OR REPLACE VIEW usage_key_times WITH (security_barrier) AS
    SELECT k.org_id, k.event_key, k.occurred_at FROM usage_keys k
    WHERE k.org_id = nullif(current_setting('coulomb.org_id', true), '')::bigint
        OR current_user = 'coulomb_platform'
        OR current_user = (
            SELECT pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = 'coulomb.usage_keys'::regclass
        );
