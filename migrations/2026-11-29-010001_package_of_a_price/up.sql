-- A line of such a price counts packages: without the size nobody can compare it with the usage.
ALTER TABLE prices ADD COLUMN transform_divide_by bigint;
COMMENT ON COLUMN prices.transform_divide_by
    IS 'Stripe divides the usage by this, and charges whole packages';

-- What is mirrored already is read again.
INSERT INTO stripe_inbox_queue (inbox_id)
SELECT o.inbox_id FROM stripe_objects o
JOIN prices p ON (p.account, p.livemode, p.id) = (o.account, o.livemode, o.object_id)
WHERE o.inbox_id IS NOT NULL AND o.object = 'price' AND p.recurring_usage_type = 'metered'
ON CONFLICT DO NOTHING;
