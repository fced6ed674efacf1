ALTER TABLE quota_reservations DROP COLUMN battery_units;
ALTER TABLE usage_records DROP COLUMN battery_batch;
DROP TABLE battery_settings, battery_entries, battery_grants, battery_accounts;
