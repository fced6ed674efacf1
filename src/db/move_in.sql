-- Moves an installation from the schema public into the schema coulomb. Only tables that the applied
-- migrations have created are ours: other programs may have tables in public with the names of our later
-- tables.
CREATE SCHEMA IF NOT EXISTS coulomb;
DO $$
DECLARE
    relation text;
BEGIN
    FOR relation IN
        SELECT unnest(names::text[])
        FROM (VALUES
            ('20261121000100', '{orgs, org_refs, api_keys, audit_log, idempotency_keys}'),
            ('20261121000200', '{
                stripe_inbox, stripe_inbox_redeliveries, stripe_inbox_queue, stripe_objects}'),
            ('20261121000300', '{
                customers, customer_tax_ids, discounts, subscriptions, subscription_items, invoices,
                invoice_lines, payment_intents, charges, invoice_payments, payments, refunds, disputes,
                credit_notes, credit_note_lines, checkout_sessions, products, prices, coupons,
                promotion_codes, tax_rates}'),
            ('20261121000400', '{stripe_customer_links, plans, plan_stripe_prices}'),
            ('20261121000500', '{
                catalog, meters, meter_versions, rate_cards, quota_slots, quota_slot_orgs, usage_keys,
                usage_series, usage_records, daily_summaries, usage_uniques, rating_counters,
                usage_corrections, usage_closings, quota_counters}'),
            ('20261121000600', '{
                quotas, plan_quotas, quota_exemptions, quota_reservations, outbox_messages}'),
            ('20261121000700', '{usage_months_gone}'),
            ('20261121000800', '{
                plan_versions, plan_stripe_products, subscription_prices, subscription_moves,
                local_subscriptions}'),
            ('20261121000900', '{battery_accounts, battery_grants, battery_entries, battery_settings}'),
            ('20261121001000', '{
                battery_effects_queue, battery_effects, battery_returns, battery_effects_waiting,
                battery_packs, battery_pack_stripe_prices, battery_pack_payment_links}'),
            ('20261121001200', '{stripe_arrivals}'),
            ('20261121001300', '{battery_effects_skipped}'),
            ('20261121001400', '{usage_key_times}')
        ) AS made (version, names)
        WHERE version IN (SELECT m.version FROM public.coulomb_migrations m)
    LOOP
        EXECUTE format('ALTER TABLE public.%I SET SCHEMA coulomb', relation);
    END LOOP;
    IF EXISTS (SELECT FROM public.coulomb_migrations WHERE version = '20261121000500') THEN
        ALTER FUNCTION public.make_usage_partition (date) SET SCHEMA coulomb;
        ALTER FUNCTION public.drop_usage_partition (date, boolean) SET SCHEMA coulomb;
    END IF;
    -- Older versions granted the daemon's roles every table in public.
    FOR relation IN
        SELECT format('REVOKE ALL ON public.%I FROM %I', c.relname, r.rolname)
        FROM pg_class c, pg_roles r
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
            AND pg_has_role(c.relowner, 'USAGE') AND r.rolname IN ('coulomb_platform', 'coulomb_org')
    LOOP
        EXECUTE relation;
    END LOOP;
END $$;
-- Another program that uses diesel may list its migrations in the same table.
CREATE TABLE coulomb.__diesel_schema_migrations (LIKE public.__diesel_schema_migrations INCLUDING ALL);
INSERT INTO coulomb.__diesel_schema_migrations
SELECT d.* FROM public.__diesel_schema_migrations d JOIN public.coulomb_migrations USING (version);
DELETE FROM public.__diesel_schema_migrations
            WHERE version IN (SELECT version FROM public.coulomb_migrations);
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM public.__diesel_schema_migrations) THEN
        DROP TABLE public.__diesel_schema_migrations;
    END IF;
END $$;
ALTER TABLE public.coulomb_migrations SET SCHEMA coulomb;
-- An older binary looks here, and sees that the database is newer than itself.
CREATE VIEW public.coulomb_migrations AS SELECT version, sha256 FROM coulomb.coulomb_migrations;
