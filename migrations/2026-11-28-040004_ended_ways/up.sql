-- A way that is removed still sends what was used before: usage that came last, or comes late.
ALTER TABLE stripe_meters
    DROP CONSTRAINT stripe_meters_pkey,
    ADD COLUMN way_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ADD COLUMN until timestamptz CHECK (until > since),
    ADD COLUMN discarded boolean NOT NULL DEFAULT false CHECK (NOT discarded OR until IS NOT NULL);
COMMENT ON COLUMN stripe_meters.discarded IS 'it was a mistake: what was used before is not sent, either';
COMMENT ON COLUMN stripe_meters.until IS 'usage from then on is not sent this way; null: it goes on';
-- A meter goes one way at a time: with two it would be charged twice.
CREATE UNIQUE INDEX stripe_meters_running ON stripe_meters (meter_id) WHERE until IS NULL;
DROP INDEX stripe_meters_stripe;
CREATE UNIQUE INDEX stripe_meters_stripe ON stripe_meters (account, stripe_meter_id) WHERE until IS NULL;
