ALTER TABLE orgs DROP CONSTRAINT orgs_suspension_is_whole;
ALTER TABLE orgs DROP COLUMN suspended_at, DROP COLUMN suspension_reason, DROP COLUMN suspension_usage,
    DROP COLUMN archived_at, DROP COLUMN erased_at;
