-- Which meter at Stripe a price charges: usage of a meter without a price is charged by nobody.
ALTER TABLE prices ADD COLUMN stripe_meter_id text COLLATE "C";
ALTER TABLE subscription_items ADD COLUMN stripe_meter_id text COLLATE "C";
COMMENT ON COLUMN prices.stripe_meter_id IS 'of a metered price: the meter whose usage it charges';
COMMENT ON COLUMN subscription_items.stripe_meter_id IS 'the meter of its price';

-- What is mirrored already is read again.
INSERT INTO stripe_inbox_queue (inbox_id)
SELECT o.inbox_id FROM stripe_objects o
WHERE o.inbox_id IS NOT NULL AND (
    o.object = 'price' AND EXISTS (SELECT FROM prices p
        WHERE (p.account, p.livemode, p.id) = (o.account, o.livemode, o.object_id)
            AND p.recurring_usage_type = 'metered')
    OR o.object = 'subscription' AND EXISTS (SELECT FROM subscription_items i
        WHERE (i.account, i.livemode, i.subscription_id) = (o.account, o.livemode, o.object_id)
            AND i.usage_type = 'metered'))
ON CONFLICT DO NOTHING;
