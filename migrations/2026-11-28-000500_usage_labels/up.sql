-- Fields of usage events that are kept with each record, and make no series: they may have any number of
-- values.
ALTER TABLE meter_versions ADD COLUMN labels text[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN meter_versions.labels IS 'fields of the data that are kept with each record';
ALTER TABLE usage_records ADD COLUMN labels jsonb;
COMMENT ON COLUMN usage_records.labels IS 'label to value; NULL: it has none';
