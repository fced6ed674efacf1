-- That an event is recorded once is held by usage_keys. The records' own wide key held it a second time, and was the dearest part of
-- writing them: an index for those who look is enough.
ALTER TABLE usage_records DROP CONSTRAINT usage_records_pkey;
CREATE INDEX usage_records_time ON usage_records (org_id, occurred_at);
