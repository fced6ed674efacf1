DROP INDEX usage_records_elsewhere;
ALTER TABLE usage_records DROP COLUMN own_day;
COMMENT ON COLUMN usage_records.day IS 'the local day of the org that it was counted to';
COMMENT ON COLUMN usage_records.billing_period
    IS 'first day of the subscription''s period that it was counted to';
COMMENT ON COLUMN rating_counters.quantity IS NULL;
