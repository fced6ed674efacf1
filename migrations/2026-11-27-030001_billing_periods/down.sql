UPDATE quota_reservations r
SET held = (SELECT jsonb_agg(h.key - 3 ORDER BY h.place)
    FROM jsonb_array_elements(r.held) WITH ORDINALITY AS h (key, place))
WHERE state = 'open' AND jsonb_array_length(held) > 0;
COMMENT ON COLUMN quota_reservations.held
    IS 'the counters that hold the amount: [slot, subject, period] each; never changes';
ALTER TABLE usage_records DROP COLUMN billing_start;
-- Periods that began on one date share a counter again.
CREATE TEMPORARY TABLE shared ON COMMIT DROP AS
SELECT org_id, slot_id, subject, period, sum(used) AS used, sum(reserved) AS reserved FROM quota_counters
GROUP BY org_id, slot_id, subject, period HAVING count(*) > 1;
DELETE FROM quota_counters c USING shared s
WHERE (c.org_id, c.slot_id, c.subject, c.period) = (s.org_id, s.slot_id, s.subject, s.period);
INSERT INTO quota_counters (org_id, slot_id, subject, period, used, reserved) SELECT * FROM shared;
ALTER TABLE quota_counters DROP CONSTRAINT quota_counters_pkey;
ALTER TABLE quota_counters DROP COLUMN began;
ALTER TABLE quota_counters ADD PRIMARY KEY (org_id, slot_id, subject, period);
COMMENT ON COLUMN quota_counters.period IS 'first local day of the period';
DROP TABLE subscription_periods;
