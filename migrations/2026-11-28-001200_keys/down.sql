DROP TABLE imported_keys;
DROP INDEX api_keys_replaces;
ALTER TABLE api_keys
    DROP COLUMN last_used_at, DROP COLUMN replaces, DROP COLUMN hint, DROP COLUMN requests_per_minute;
