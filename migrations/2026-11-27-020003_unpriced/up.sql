-- Usage that has no price is seen, and can be priced later.
ALTER TABLE usage_records ADD COLUMN pricing smallint NOT NULL DEFAULT 0;
COMMENT ON COLUMN usage_records.pricing
    IS '0: by its rate card, or there is nothing to be priced; 1: the caller said what it costs; 2: the '
    'meter has prices, and none fits; 3: the meter has no rate card; 4: its card has no rate, so it is '
    'free';
CREATE INDEX usage_records_unpriced ON usage_records (org_id, meter_id, occurred_at) WHERE pricing = 2;
ALTER TABLE meter_versions ADD COLUMN unpriced text NOT NULL DEFAULT 'record'
    CHECK (unpriced IN ('record', 'refuse'));
COMMENT ON COLUMN meter_versions.unpriced IS 'what becomes of usage that no rate fits';

-- Usage that no rate fits, by series. Counted from the records.
CREATE TABLE unpriced_usage (
    org_id bigint NOT NULL,
    series_id bigint NOT NULL,
    events bigint NOT NULL,
    quantity numeric NOT NULL CHECK (scale(quantity) IS NOT NULL),
    first_seen timestamptz,
    last_seen timestamptz,
    PRIMARY KEY (org_id, series_id)
);
COMMENT ON COLUMN unpriced_usage.events IS 'those taken back, or priced since, not counted';
