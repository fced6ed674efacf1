-- Why a delivery could not be filed, for whoever looks.
ALTER TABLE stripe_arrivals ADD COLUMN last_error text;
