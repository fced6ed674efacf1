-- Levels: what is there (stored bytes, contacts, seats), not what was used. A level is set, or changed by so
-- much, and stays.
ALTER TABLE meters DROP CONSTRAINT meters_aggregation_check;
ALTER TABLE meters ADD CONSTRAINT meters_aggregation_check
    CHECK (aggregation IN ('sum', 'count', 'max', 'unique', 'latest', 'level'));
ALTER TABLE meter_versions ADD COLUMN change_field text;
COMMENT ON COLUMN meter_versions.change_field
    IS 'field with what a level changes by; value_field has what it is';
COMMENT ON COLUMN usage_records.value
    IS 'what a meter of unique values counts; of a level meter: set or change';

-- A level has no period: its counter says what it is now.
ALTER TABLE quota_slots DROP CONSTRAINT quota_slots_period_check;
ALTER TABLE quota_slots ADD CONSTRAINT quota_slots_period_check
    CHECK (period IN ('day', 'month', 'billing', 'always'));

-- What is level with each series and subject, by all records that stand. Tenant table.
CREATE TABLE usage_levels (
    org_id bigint NOT NULL,
    series_id bigint NOT NULL,
    subject text COLLATE "C" NOT NULL,
    set_at timestamptz,
    set_value numeric NOT NULL CHECK (scale(set_value) IS NOT NULL),
    changes numeric NOT NULL CHECK (scale(changes) IS NOT NULL),
    changed_at timestamptz,
    PRIMARY KEY (org_id, series_id, subject)
) WITH (fillfactor = 50);
COMMENT ON TABLE usage_levels IS 'the level is set_value + changes';
COMMENT ON COLUMN usage_levels.set_at IS 'time of the last set';
COMMENT ON COLUMN usage_levels.changes IS 'sum of the changes at and after set_at';
COMMENT ON COLUMN usage_levels.changed_at IS 'no change is later: a set after it has none to look for';
