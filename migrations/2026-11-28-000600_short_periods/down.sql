-- Refused by the constraint where there are quotas by the hour or week: a binary that lacks this migration
-- cannot count them.
ALTER TABLE quota_slots DROP CONSTRAINT quota_slots_period_check;
ALTER TABLE quota_slots ADD CONSTRAINT quota_slots_period_check
    CHECK (period IN ('day', 'month', 'billing', 'always'));
