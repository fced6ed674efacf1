ALTER TABLE usage_series DROP COLUMN currency;
ALTER TABLE meters DROP COLUMN currency;
ALTER TABLE orgs DROP COLUMN currency;
