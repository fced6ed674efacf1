DROP INDEX usage_records_received;
DROP TABLE stripe_charging, stripe_meter_reports, stripe_freezes, stripe_charges, stripe_meters;
