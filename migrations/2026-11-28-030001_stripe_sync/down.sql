DROP TABLE stripe_drift, stripe_wanted, stripe_sync_steps, stripe_sync_runs, stripe_accounts;
DROP INDEX stripe_objects_ambiguous, invoices_incomplete, credit_notes_incomplete, subscriptions_incomplete;
DROP INDEX stripe_inbox_fetches;
ALTER TABLE subscription_periods DROP COLUMN estimated, DROP COLUMN shown_at;
ALTER TABLE subscription_prices DROP COLUMN estimated;
ALTER TABLE stripe_inbox DROP CONSTRAINT stripe_inbox_body_of, DROP COLUMN body_of, DROP COLUMN origin;
