-- Quotas by a rolling window: `rolling_24h`, `rolling_7d`. The number is from 1 to 744 hours or 1 to 31 days.
ALTER TABLE quota_slots DROP CONSTRAINT quota_slots_period_check;
ALTER TABLE quota_slots ADD CONSTRAINT quota_slots_period_check
    CHECK (period IN ('hour', 'day', 'week', 'month', 'billing', 'always')
        OR period ~ '^rolling_[1-9][0-9]{0,2}[hd]$');
COMMENT ON COLUMN quota_counters.period IS 'first local day of the period; of a billing period, an hour or a '
    'segment of a rolling window the day by UTC on which it began; 2000-01-01: there is no period, or it is '
    'the anchor of a window, which holds what reservations set aside';
COMMENT ON COLUMN quota_counters.began
    IS 'when the billing period, hour or segment began; epoch: of another period';
