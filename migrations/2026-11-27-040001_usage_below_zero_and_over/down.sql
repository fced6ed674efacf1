DROP INDEX quota_reservations_lapsed;
ALTER TABLE quota_reservations DROP COLUMN overage, DROP COLUMN debt;
ALTER TABLE meter_versions DROP COLUMN allows_negative;
