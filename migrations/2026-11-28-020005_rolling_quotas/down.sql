-- Refused by the constraint where there are quotas by a rolling window: a binary that lacks this migration
-- cannot count them.
ALTER TABLE quota_slots DROP CONSTRAINT quota_slots_period_check;
ALTER TABLE quota_slots ADD CONSTRAINT quota_slots_period_check
    CHECK (period IN ('hour', 'day', 'week', 'month', 'billing', 'always'));
COMMENT ON COLUMN quota_counters.period
    IS 'first local day of the period; of a billing period or an hour the day by UTC on which it began';
COMMENT ON COLUMN quota_counters.began IS 'when the billing period or hour began; epoch: of another period';
