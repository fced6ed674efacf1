DROP INDEX own_documents_org_time;
DROP TABLE debtor_numbers, month_manifests;
