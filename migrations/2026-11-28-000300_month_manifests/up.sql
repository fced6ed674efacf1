-- Closed months: what they held, and who owes under which number.

-- One row for each closed month, written once: a chain, for each content names the digest of the one before.
CREATE TABLE month_manifests (
    month date PRIMARY KEY CHECK (extract(day FROM month) = 1),
    content text NOT NULL,
    content_sha256 bytea NOT NULL,
    public_key bytea CHECK (length(public_key) = 32),
    signature bytea CHECK (length(signature) = 64),
    created_at timestamptz NOT NULL,
    CHECK ((public_key IS NULL) = (signature IS NULL))
);
COMMENT ON COLUMN month_manifests.content IS 'canonical JSON: keys sorted, no white space';
COMMENT ON COLUMN month_manifests.signature IS 'Ed25519 over content; null: there was no key';

-- Orgs as debtors of bookkeeping with numbered accounts. A number never changes.
CREATE TABLE debtor_numbers (
    org_id bigint PRIMARY KEY,
    number integer NOT NULL UNIQUE CHECK (number > 0)
);

-- Entries without a document show the name on the org's last document until then.
CREATE INDEX own_documents_org_time ON own_documents (org_id, created_at, document_id);
