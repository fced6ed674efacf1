-- Cards of plans and orgs cannot be told from the meters' without these columns: the reverse is refused while
-- there are any, or usage would be priced by them for everybody.
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM rate_cards
        WHERE plan_id IS NOT NULL OR org_id <> 0 OR period <> 'month' OR price_by = 'peak') THEN
        RAISE EXCEPTION 'there are rate cards of plans, of orgs, by billing period or by the peak: they would '
            'price everybody''s usage';
    END IF;
END $$;
DELETE FROM rating_counters WHERE began <> 'epoch';
ALTER TABLE rating_counters DROP CONSTRAINT rating_counters_pkey;
ALTER TABLE rating_counters DROP COLUMN began;
ALTER TABLE rating_counters RENAME COLUMN period TO month;
ALTER TABLE rating_counters ADD PRIMARY KEY (org_id, meter_id, rate_card_id, rate, month);
COMMENT ON TABLE rate_cards IS 'of the cards valid at an event''s time the one that starts last counts, of '
    'those the newest version';
DROP POLICY IF EXISTS platform ON rate_cards;
DROP POLICY IF EXISTS own_org ON rate_cards;
ALTER TABLE rate_cards DISABLE ROW LEVEL SECURITY;
ALTER TABLE rate_cards DROP COLUMN price_by, DROP COLUMN period, DROP COLUMN org_id, DROP COLUMN plan_id;
ALTER TABLE local_subscriptions DROP COLUMN earlier_plans;
