ALTER TABLE stripe_customer_links DROP COLUMN idle_ref;
