ALTER TABLE stripe_charges DROP COLUMN discarded;
