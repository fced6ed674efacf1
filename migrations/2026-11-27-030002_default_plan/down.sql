COMMENT ON COLUMN local_subscriptions.valid_until
    IS 'end of the trial or of the last paid period; what is later counts as expired, also before the daily '
    'job has said so';
ALTER TABLE local_subscriptions DROP COLUMN grace_days, DROP COLUMN trial_plan_id;
ALTER TABLE plan_versions DROP COLUMN grace_days;
ALTER TABLE plans DROP COLUMN rank, DROP COLUMN is_default;
