-- Orgs that are suspended for a while, put away, or erased.
ALTER TABLE orgs
    ADD COLUMN suspended_at timestamptz,
    ADD COLUMN suspension_reason text CHECK (length(suspension_reason) BETWEEN 1 AND 500),
    ADD COLUMN suspension_usage text CHECK (suspension_usage IN ('refuse', 'record')),
    ADD COLUMN archived_at timestamptz,
    ADD COLUMN erased_at timestamptz,
    ADD CONSTRAINT orgs_suspension_is_whole
        CHECK ((suspended_at IS NULL) = (suspension_reason IS NULL)
            AND (suspended_at IS NULL) = (suspension_usage IS NULL));
COMMENT ON COLUMN orgs.suspension_usage IS 'what becomes of usage meanwhile: it is refused, or recorded';
COMMENT ON COLUMN orgs.archived_at IS 'since then nothing is counted or billed; null: it is not archived';
COMMENT ON COLUMN orgs.erased_at IS 'when its personal data was erased';
