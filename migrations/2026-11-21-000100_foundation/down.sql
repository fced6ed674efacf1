DROP TABLE idempotency_keys, audit_log, api_keys, org_refs, orgs;
