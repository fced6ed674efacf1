DROP TABLE local_subscriptions, subscription_moves, subscription_prices, plan_stripe_products;
DELETE FROM plan_quotas q WHERE version < (SELECT max(version) FROM plan_quotas n WHERE n.plan_id = q.plan_id);
ALTER TABLE plan_quotas DROP CONSTRAINT plan_quotas_pkey, ADD PRIMARY KEY (plan_id, slot_id);
ALTER TABLE plan_quotas DROP COLUMN version;
DROP TABLE plan_versions;
