-- Usage that Stripe took and never invoices, because its subscription ended without a last invoice.
ALTER TABLE stripe_charges ADD COLUMN discarded numeric NOT NULL DEFAULT 0
    CHECK (discarded NOT IN ('NaN', 'Infinity', '-Infinity'));
COMMENT ON COLUMN stripe_charges.discarded IS 'of delivered: what Stripe never invoices';
