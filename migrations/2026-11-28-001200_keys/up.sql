-- Keys: when each was used, which one it takes the place of, how many requests it may send; and keys that
-- other programs made.
ALTER TABLE api_keys
    ADD COLUMN last_used_at timestamptz,
    ADD COLUMN replaces text COLLATE "C",
    ADD COLUMN hint text CHECK (length(hint) BETWEEN 1 AND 16),
    ADD COLUMN requests_per_minute integer CHECK (requests_per_minute > 0);
COMMENT ON COLUMN api_keys.last_used_at IS 'the daemon writes it once a minute at most';
COMMENT ON COLUMN api_keys.replaces IS 'the key that it was made to follow';
COMMENT ON COLUMN api_keys.hint IS 'how a key begins that another program made; null: our own';
COMMENT ON COLUMN api_keys.requests_per_minute IS 'null: as the settings say';
CREATE INDEX api_keys_replaces ON api_keys (replaces) WHERE replaces IS NOT NULL;

-- Keys that other programs made have no id in their text, so they are found by their digest. A table of its
-- own, as it is unique over all orgs.
CREATE TABLE imported_keys (
    key_sha256 bytea PRIMARY KEY CHECK (length(key_sha256) = 32),
    org_id bigint NOT NULL,
    key_id text COLLATE "C" NOT NULL
);
COMMENT ON COLUMN imported_keys.key_sha256 IS 'SHA-256 of the whole key';
