-- Many events may share an instant, as those do that name none. So the index leads on to the event's key: whoever looks for one
-- event, or for what corrects a record, reads that one alone. It takes the place of the index on the time, which it begins with.
--
-- While it is built no usage is written, about a second for a million records. Where that is too long, build it on each partition
-- of usage_records beforehand, for instance
--     CREATE INDEX CONCURRENTLY ON usage_partitions.usage_records_2026_11 (org_id, occurred_at, event_key);
-- and this statement takes over what is there.
CREATE INDEX usage_records_event ON usage_records (org_id, occurred_at, event_key);
DROP INDEX usage_records_time;
