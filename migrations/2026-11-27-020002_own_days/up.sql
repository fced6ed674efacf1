-- What belongs to a closed month is posted to an open one, and rated where it belongs: the record keeps both
-- days.
ALTER TABLE usage_records ADD COLUMN own_day date;
COMMENT ON COLUMN usage_records.own_day
    IS 'the local day that it belongs to, where it was posted to another: its month is that of tiers and '
    'quotas';
COMMENT ON COLUMN usage_records.day IS 'the local day of the org that it was posted to';
COMMENT ON COLUMN usage_records.billing_period
    IS 'first day of the subscription''s period that it belongs to';
CREATE INDEX usage_records_elsewhere ON usage_records (org_id, day) WHERE own_day IS NOT NULL;

-- The tiers of a card go on where the month stands, whichever card priced what came before. Until now each
-- card counted its own.
COMMENT ON COLUMN rating_counters.quantity
    IS 'what was priced in the month, by whatever card, of the usage that this rate fits';
UPDATE rating_counters k SET quantity = t.quantity
FROM (
    SELECT org_id, meter_id, rate_card_id, rate, month, sum(quantity) AS quantity
    FROM (
        SELECT r.org_id, r.meter_id, c.rate_card_id, r.month, r.quantity, (
            SELECT CASE WHEN jsonb_typeof(e.rate -> 'tiers') = 'object' THEN (e.place - 1)::smallint END
            FROM jsonb_array_elements(c.rates) WITH ORDINALITY AS e (rate, place)
            WHERE s.dimensions @> coalesce(e.rate -> 'when', '{}') ORDER BY e.place LIMIT 1) AS rate
        FROM (
            SELECT org_id, series_id, meter_id, date_trunc('month', day::timestamp)::date AS month,
                sum(quantity) AS quantity
            FROM usage_records
            WHERE rate_card_id IS NOT NULL AND meter_id IN (
                SELECT meter_id FROM rate_cards GROUP BY meter_id
                HAVING count(*) > 1 AND bool_or(rates @? '$[*].tiers'))
            GROUP BY 1, 2, 3, 4) r
        JOIN usage_series s ON s.org_id = r.org_id AND s.series_id = r.series_id
        JOIN rate_cards c ON c.meter_id = r.meter_id) r
    WHERE rate IS NOT NULL GROUP BY 1, 2, 3, 4, 5) t
WHERE (k.org_id, k.meter_id, k.rate_card_id, k.rate, k.month)
    = (t.org_id, t.meter_id, t.rate_card_id, t.rate, t.month);
