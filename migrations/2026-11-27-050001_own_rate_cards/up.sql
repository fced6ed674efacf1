-- A plan and an org may have prices of their own.
ALTER TABLE rate_cards
    ADD COLUMN plan_id text,
    ADD COLUMN org_id bigint NOT NULL DEFAULT 0,
    ADD COLUMN period text NOT NULL DEFAULT 'month' CHECK (period IN ('month', 'billing')),
    ADD COLUMN price_by text CHECK (price_by IN ('average', 'peak')),
    ADD CHECK (plan_id IS NULL OR org_id = 0);
COMMENT ON TABLE rate_cards IS 'usage is priced by the first of these that has a rate for it: the card of its '
    'org, of the plan that the org had then, of the meter; of the cards of one of them that were valid at its '
    'time the one that starts last counts, of those the newest version';
COMMENT ON COLUMN rate_cards.plan_id IS 'whose usage it prices: of orgs that have this plan';
COMMENT ON COLUMN rate_cards.org_id IS 'whose usage it prices: of this org; 0: of every org, or of a plan''s';
COMMENT ON COLUMN rate_cards.period
    IS 'by what its tiers are counted: the org''s local month or its billing period';
COMMENT ON COLUMN rate_cards.price_by IS 'which figure of a level it prices; NULL: the average';

-- Tiers are counted by the month, or by the billing period.
ALTER TABLE rating_counters RENAME COLUMN month TO period;
ALTER TABLE rating_counters ADD COLUMN began timestamptz NOT NULL DEFAULT 'epoch';
ALTER TABLE rating_counters DROP CONSTRAINT rating_counters_pkey;
ALTER TABLE rating_counters ADD PRIMARY KEY (org_id, meter_id, rate_card_id, rate, period, began);
COMMENT ON COLUMN rating_counters.period
    IS 'first local day of the month; of a billing period the day by UTC on which it began';
COMMENT ON COLUMN rating_counters.began IS 'when the billing period began; epoch: it is a local month';

-- Usage is priced by the plan of its time, also where a local subscription has changed its plan since.
ALTER TABLE local_subscriptions ADD COLUMN earlier_plans jsonb NOT NULL DEFAULT '[]';
COMMENT ON COLUMN local_subscriptions.earlier_plans
    IS 'the plans that it had before, the oldest first: plan, and until when in microseconds since the epoch';
