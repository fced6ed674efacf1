ALTER TABLE stripe_arrivals DROP COLUMN last_error;
