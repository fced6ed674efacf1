ALTER TABLE battery_accounts DROP COLUMN carried;
