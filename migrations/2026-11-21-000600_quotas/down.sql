DROP INDEX quota_counters_age;
DROP TABLE outbox_messages, quota_reservations, quota_exemptions, plan_quotas, quotas;
