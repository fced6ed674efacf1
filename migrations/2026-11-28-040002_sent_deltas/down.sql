DROP INDEX stripe_charges_customer;
ALTER TABLE stripe_charges DROP COLUMN sent_values;
