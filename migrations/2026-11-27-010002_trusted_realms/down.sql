DROP POLICY IF EXISTS own_org ON stripe_customer_links;
ALTER TABLE stripe_customer_links DROP COLUMN ref;
ALTER TABLE stripe_customer_links DROP COLUMN trusted;
ALTER TABLE stripe_customer_links ADD COLUMN ref text COLLATE "C"
    GENERATED ALWAYS AS (coalesce(api_ref, metadata_ref, session_ref, own_ref)) STORED;
CREATE INDEX stripe_customer_links_ref ON stripe_customer_links (ref);
DROP TABLE stripe_trust;
