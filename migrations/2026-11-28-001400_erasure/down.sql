DROP FUNCTION erase_inbox_body (bigint, bigint, bytea, timestamptz), erased_name (text, text),
    erase_entries (bigint, text);
DROP TABLE org_erasures, stripe_inbox_erased;
