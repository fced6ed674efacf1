DROP TABLE unpriced_usage;
ALTER TABLE meter_versions DROP COLUMN unpriced;
DROP INDEX usage_records_unpriced;
ALTER TABLE usage_records DROP COLUMN pricing;
