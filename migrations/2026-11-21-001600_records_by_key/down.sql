CREATE INDEX usage_records_time ON usage_records (org_id, occurred_at);
DROP INDEX usage_records_event;
