-- Which of Stripe's realms act here, as the settings said when a daemon started last: one mode, our own
-- account ('') and connected accounts by name. One row at most; without it live mode and our own account.
-- Everything else is mirrored and does nothing.
CREATE TABLE stripe_trust (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    livemode boolean NOT NULL,
    accounts text[] NOT NULL,
    since timestamptz NOT NULL
);

-- A customer of a realm that does not act is linked to nobody, whatever its metadata names.
DROP POLICY IF EXISTS own_org ON stripe_customer_links;
ALTER TABLE stripe_customer_links DROP COLUMN ref;
ALTER TABLE stripe_customer_links ADD COLUMN trusted boolean NOT NULL DEFAULT true;
ALTER TABLE stripe_customer_links ADD COLUMN ref text COLLATE "C"
    GENERATED ALWAYS AS (CASE WHEN trusted THEN coalesce(api_ref, metadata_ref, session_ref, own_ref) END)
        STORED;
CREATE INDEX stripe_customer_links_ref ON stripe_customer_links (ref);
