DROP FUNCTION make_audit_partition (date), drop_audit_partition (date);
ALTER TABLE audit_log RENAME TO audit_log_months;
ALTER TABLE audit_log_months RENAME CONSTRAINT audit_log_pkey TO audit_log_months_pkey;
ALTER SEQUENCE audit_log_audit_id_seq RENAME TO audit_log_months_audit_id_seq;
CREATE TABLE audit_log (
    org_id bigint NOT NULL,
    audit_id bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    target text NOT NULL,
    detail jsonb NOT NULL,
    request_id text,
    PRIMARY KEY (org_id, audit_id)
);
INSERT INTO audit_log OVERRIDING SYSTEM VALUE
SELECT org_id, audit_id, at, actor, action, target, detail, request_id FROM audit_log_months;
SELECT setval('audit_log_audit_id_seq', coalesce(max(audit_id), 1), max(audit_id) IS NOT NULL)
FROM audit_log_months;
DROP TABLE audit_log_months;
