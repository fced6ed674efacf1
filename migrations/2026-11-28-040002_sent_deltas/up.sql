-- What each event was, so that one that Stripe could not use is taken off alone.
ALTER TABLE stripe_charges ADD COLUMN sent_values jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN stripe_charges.sent_values IS
    'values that Stripe took, by sequence: all deltas, the last totals';
-- The charges of a customer in a time.
CREATE INDEX stripe_charges_customer ON stripe_charges (customer_id, period_start);
