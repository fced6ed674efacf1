-- Of several plans that an org pays for the one of the higher rank counts; an org without any has the default
-- plan.
ALTER TABLE plans ADD COLUMN rank integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN plans.rank IS 'of several plans that an org pays for the one of the highest rank counts';
ALTER TABLE plans ADD COLUMN is_default boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN plans.is_default
    IS 'orgs without a plan have it, in its newest version: new ones, cancelled, expired, never paid';
CREATE UNIQUE INDEX plans_default ON plans (is_default) WHERE is_default;

-- What was paid for may end before the plan does.
ALTER TABLE plan_versions ADD COLUMN grace_days integer NOT NULL DEFAULT 0
    CHECK (grace_days BETWEEN 0 AND 365);
COMMENT ON COLUMN plan_versions.grace_days
    IS 'for so long a local subscription keeps the plan after what was paid for';
ALTER TABLE local_subscriptions ADD COLUMN grace_days integer NOT NULL DEFAULT 0
    CHECK (grace_days BETWEEN 0 AND 365);
COMMENT ON COLUMN local_subscriptions.grace_days IS 'that of its plan, by its version';
ALTER TABLE local_subscriptions ADD COLUMN trial_plan_id text COLLATE "C";
COMMENT ON COLUMN local_subscriptions.trial_plan_id
    IS 'the plan whose trial it began with; it may have been put on another one since';
UPDATE local_subscriptions SET trial_plan_id = plan_id WHERE trial_end IS NOT NULL;
COMMENT ON COLUMN local_subscriptions.valid_until
    IS 'end of the trial or of the last paid period; after it and the days of grace it is over, also before '
    'the daily job has said so';
