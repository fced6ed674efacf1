-- Whose a customer of our own account would be, if its mode acted: its subscriptions give an org without any
-- other their billing periods, and nothing else.
ALTER TABLE stripe_customer_links ADD COLUMN idle_ref text COLLATE "C"
    GENERATED ALWAYS AS (
        CASE WHEN NOT trusted AND account = '' THEN coalesce(api_ref, metadata_ref, session_ref, own_ref) END
    ) STORED;
COMMENT ON COLUMN stripe_customer_links.idle_ref
    IS 'what a customer of the mode that does not act names as its org: only billing periods follow it';
CREATE INDEX stripe_customer_links_idle ON stripe_customer_links (idle_ref) WHERE idle_ref IS NOT NULL;
