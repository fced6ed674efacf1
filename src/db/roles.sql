-- The rights of the daemon's roles, applied after every migration (idempotent).
-- The owner migrates. `coulomb_platform` is the daemon: it may not change rows that must never change.
-- `coulomb_org` answers one org: row-level security shows it only rows of the org in `coulomb.org_id`.
GRANT USAGE ON SCHEMA coulomb TO coulomb_platform, coulomb_org;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA coulomb TO coulomb_platform;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA coulomb TO coulomb_platform;
REVOKE UPDATE, DELETE, TRUNCATE ON stripe_inbox, stripe_inbox_redeliveries, audit_log FROM coulomb_platform;
-- Arrivals may be locked and postponed, but not changed.
REVOKE UPDATE, TRUNCATE ON stripe_arrivals FROM coulomb_platform;
GRANT UPDATE (attempts, next_attempt_at) ON stripe_arrivals TO coulomb_platform;
REVOKE UPDATE, DELETE, TRUNCATE ON usage_records, usage_corrections, usage_closings, battery_entries
    FROM coulomb_platform;
-- What was issued and what was booked never changes. Of a payment only what went back may change.
REVOKE UPDATE, DELETE, TRUNCATE ON own_documents, own_credit_notes, own_credit_note_lines, own_payments,
    own_refunds, account_entries, account_allocations, payment_references, issued_numbers, month_manifests,
    debtor_numbers FROM coulomb_platform;
GRANT UPDATE (amount_refunded, amount_reversed) ON own_payments TO coulomb_platform;
REVOKE DELETE, TRUNCATE ON accounts, document_numbers FROM coulomb_platform;
-- Versions never change: a change is a new version.
REVOKE UPDATE, DELETE, TRUNCATE ON meter_versions, rate_cards, plan_versions FROM coulomb_platform;
-- Orgs, keys and grants are not deleted. Of a key only its end, its use, its limit and its name may change,
-- of a grant only what remains of it.
REVOKE UPDATE, TRUNCATE ON imported_keys FROM coulomb_platform;
REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON stripe_inbox_erased FROM coulomb_platform;
REVOKE UPDATE, DELETE, TRUNCATE ON orgs, api_keys, battery_grants FROM coulomb_platform;
GRANT UPDATE (name, external_id, time_zone, currency, metadata, suspended_at, suspension_reason,
    suspension_usage, archived_at, erased_at) ON orgs TO coulomb_platform;
GRANT UPDATE (name, revoked_at, expires_at, last_used_at, replaces, requests_per_minute) ON api_keys
    TO coulomb_platform;
GRANT UPDATE (state, remaining, burned, clawed, lapsed) ON battery_grants TO coulomb_platform;
-- PostgreSQL refuses COPY into a table under row-level security. So usage is copied into the partitions
-- themselves, which only the daemon sees.
REVOKE INSERT ON usage_records FROM coulomb_platform;
GRANT USAGE ON SCHEMA usage_partitions TO coulomb_platform;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA usage_partitions TO coulomb_platform;
REVOKE INSERT ON usage_partitions.usage_records_default FROM coulomb_platform;
-- The audit log is written through its parent alone.
DO $$
DECLARE
    part regclass;
BEGIN
    FOR part IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'audit_log'::regclass LOOP
        EXECUTE format('REVOKE ALL ON %s FROM coulomb_platform', part);
    END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION make_usage_partition (date), drop_usage_partition (date, boolean),
    make_audit_partition (date), drop_audit_partition (date),
    erase_inbox_body (bigint, bigint, bytea, timestamptz), erase_entries (bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION make_usage_partition (date), drop_usage_partition (date, boolean),
    make_audit_partition (date), drop_audit_partition (date),
    erase_inbox_body (bigint, bigint, bytea, timestamptz), erase_entries (bigint, text) TO coulomb_platform;
REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON __diesel_schema_migrations, coulomb_migrations
    FROM coulomb_platform;
GRANT SELECT ON ALL TABLES IN SCHEMA coulomb TO coulomb_org;
REVOKE ALL ON usage_keys, stripe_arrivals, stripe_inbox, stripe_inbox_queue, stripe_inbox_redeliveries,
    stripe_objects, idempotency_keys,
    rating_counters, quota_slot_orgs, usage_months_gone, battery_effects_queue, battery_effects,
        battery_effects_ignored, battery_effects_skipped, battery_effects_waiting,
    document_numbers, issued_numbers, payment_references, sellers, payment_accounts, own_coupons,
    own_tax_rates, month_manifests, debtor_numbers, imported_keys, org_erasures,
    stripe_accounts, stripe_sync_runs, stripe_sync_steps, stripe_wanted, stripe_drift,
    stripe_meters, stripe_freezes, stripe_meter_reports, stripe_charging,
    stripe_inbox_erased, message_counter, message_secrets, message_lanes,
    coulomb_migrations, __diesel_schema_migrations FROM coulomb_org;
-- An org's list of usage that nobody charges asks which of its meters Stripe charges by invoice items.
GRANT SELECT (meter_id, way, account, since, until, discarded) ON stripe_meters TO coulomb_org;

DO $$
DECLARE
    relation text;
    rule text;
    own_org constant text := 'org_id = current_setting(''coulomb.org_id'')::bigint';
    -- The subqueries of this rule and of the rule of the links do not refer to the row itself. So PostgreSQL
    -- computes each only once a statement.
    own_customer constant text := '(%1$I.account, %1$I.livemode, %1$I.customer_id) IN '
        '(SELECT l.account, l.livemode, l.customer_id FROM stripe_customer_links l)';
    -- A row that names only its charge belongs to the payment of that charge, whatever the payment's id is.
    own_payment constant text :=
        'EXISTS (SELECT FROM payments p WHERE p.account = %1$I.account AND p.livemode = %1$I.livemode '
        'AND (p.id = %1$I.payment_intent_id '
        'OR (%1$I.payment_intent_id IS NULL AND p.charge_id = %1$I.charge_id)))';
    own_invoice constant text := 'EXISTS (SELECT FROM invoices i WHERE (i.account, i.livemode, i.id) = '
        '(%1$I.account, %1$I.livemode, %1$I.invoice_id))';
    own_credit_note constant text :=
        'EXISTS (SELECT FROM credit_notes n WHERE (n.account, n.livemode, n.id) = '
        '(%1$I.account, %1$I.livemode, %1$I.credit_note_id))';
    own_session constant text :=
        'EXISTS (SELECT FROM checkout_sessions c WHERE (c.account, c.livemode, c.id) = '
        '(%1$I.account, %1$I.livemode, %1$I.session_id))';
    own_subscription constant text :=
        'EXISTS (SELECT FROM subscriptions s WHERE (s.account, s.livemode, s.id) = '
        '(%1$I.account, %1$I.livemode, %1$I.subscription_id))';
BEGIN
    FOR relation, rule IN VALUES
        ('orgs', own_org), ('org_refs', own_org), ('api_keys', own_org), ('audit_log', own_org),
        ('idempotency_keys', own_org),
        ('usage_series', own_org), ('unpriced_usage', own_org), ('usage_uniques', own_org),
        ('usage_records', own_org), ('usage_corrections', own_org), ('daily_summaries', own_org),
        ('usage_levels', own_org), ('usage_closings', own_org || ' OR org_id = 0'),
        ('rate_cards', own_org || ' OR org_id = 0'), ('quota_counters', own_org),
        ('quotas', own_org), ('quota_exemptions', own_org), ('quota_reservations', own_org),
        ('outbox_messages', own_org), ('message_endpoints', own_org), ('message_deliveries', own_org),
        ('message_attempts', own_org), ('stripe_charges', own_org),
        ('local_subscriptions', own_org), ('battery_accounts', own_org), ('battery_grants', own_org),
        ('battery_entries', own_org),
        ('battery_settings', own_org), ('battery_returns', own_org),
        ('billing_profiles', own_org), ('org_coupons', own_org), ('own_invoices', own_org),
        ('own_documents', own_org), ('own_invoice_lines', own_org), ('invoiced_periods', own_org),
        ('invoice_items', own_org), ('own_credit_notes', own_org), ('own_credit_note_lines', own_org),
        ('own_payments', own_org), ('own_refunds', own_org), ('accounts', own_org),
        ('account_entries', own_org), ('account_allocations', own_org),
        ('stripe_customer_links', 'ref = ANY (ARRAY(SELECT r.ref FROM org_refs r))'),
        ('customers', replace(own_customer, '%1$I.customer_id', '%1$I.id')),
        ('customer_tax_ids', own_customer), ('discounts', own_customer),
        ('subscriptions', own_customer), ('subscription_items', own_subscription),
        ('subscription_prices', own_subscription), ('subscription_moves', own_subscription),
        ('subscription_periods', own_subscription),
        ('invoices', own_customer), ('invoice_lines', own_invoice),
        ('payment_intents', own_customer), ('charges', own_customer), ('invoice_payments', own_invoice),
        ('payments', own_customer || ' OR (payments.customer_id IS NULL AND ' || own_invoice || ')'),
        ('refunds', own_payment), ('disputes', own_payment),
        ('credit_notes', own_customer), ('credit_note_lines', own_credit_note),
        ('checkout_sessions', own_customer), ('checkout_line_items', own_session),
        ('promotion_codes', 'promotion_codes.customer_id IS NULL OR ' || own_customer)
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', relation);
        EXECUTE format('DROP POLICY IF EXISTS platform ON %I', relation);
        EXECUTE format('DROP POLICY IF EXISTS own_org ON %I', relation);
        EXECUTE format(
            'CREATE POLICY platform ON %I TO coulomb_platform USING (true) WITH CHECK (true)', relation);
        EXECUTE format(
            'CREATE POLICY own_org ON %I FOR SELECT TO coulomb_org USING (' || rule || ')', relation);
    END LOOP;
END $$;
