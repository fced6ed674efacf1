-- A meter may have prices in several currencies, and an org pays in its own.
ALTER TABLE orgs ADD COLUMN currency text CHECK (currency ~ '^[a-z]{3}$');
COMMENT ON COLUMN orgs.currency IS 'of an owner''s rate cards those in this currency price its usage; '
    'NULL: those in the meter''s currency';
UPDATE orgs o SET currency = p.terms ->> 'currency' FROM billing_profiles p WHERE p.org_id = o.org_id;

ALTER TABLE meters ADD COLUMN currency text CHECK (currency ~ '^[a-z]{3}$');
COMMENT ON COLUMN meters.currency IS 'of its first rate card; NULL: it has none';
UPDATE meters m SET currency = c.currency FROM rate_cards c WHERE c.meter_id = m.meter_id;

COMMENT ON COLUMN own_invoices.reason IS 'why it was made: subscription, manual, late_usage, import';

-- Costs of one series are in one currency, so that they can be summed up.
ALTER TABLE usage_series ADD COLUMN currency text CHECK (currency ~ '^[a-z]{3}$');
COMMENT ON COLUMN usage_series.currency IS 'of its costs; NULL: the currency of the meter';
