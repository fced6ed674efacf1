-- Costs and battery units of usage keep all that a quantity times a price has: up to 24 decimal places, below
-- 10^15. Their columns are numeric without a scale and take that. Ledgers have 12 places, so a battery
-- carries what is below the last one.
ALTER TABLE battery_accounts ADD COLUMN carried numeric NOT NULL DEFAULT 0
    CHECK (carried >= 0 AND carried < 0.000000000001);
COMMENT ON COLUMN battery_accounts.carried
    IS 'units used and not yet burned: less than the last place of the ledger';
