DELETE FROM stripe_meters WHERE until IS NOT NULL;
DROP INDEX stripe_meters_stripe;
DROP INDEX stripe_meters_running;
ALTER TABLE stripe_meters DROP COLUMN discarded, DROP COLUMN until, DROP COLUMN way_id;
ALTER TABLE stripe_meters ADD PRIMARY KEY (meter_id);
CREATE UNIQUE INDEX stripe_meters_stripe ON stripe_meters (account, stripe_meter_id);
