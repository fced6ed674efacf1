DROP INDEX usage_records_time;
ALTER TABLE usage_records ADD PRIMARY KEY (org_id, occurred_at, event_key, meter_id, correction);
