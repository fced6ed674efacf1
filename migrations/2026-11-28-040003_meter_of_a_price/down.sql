ALTER TABLE subscription_items DROP COLUMN stripe_meter_id;
ALTER TABLE prices DROP COLUMN stripe_meter_id;
