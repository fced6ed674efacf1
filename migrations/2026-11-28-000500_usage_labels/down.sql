ALTER TABLE usage_records DROP COLUMN labels;
ALTER TABLE meter_versions DROP COLUMN labels;
