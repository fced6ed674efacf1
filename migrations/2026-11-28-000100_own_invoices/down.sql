ALTER TABLE plans DROP COLUMN for_org;
ALTER TABLE plan_versions DROP COLUMN prices;
DROP TABLE account_allocations, account_entries, accounts, own_refunds, own_payments, own_credit_note_lines,
    own_credit_notes, invoice_items, invoiced_periods, own_invoice_lines, own_documents, own_invoices,
    org_coupons, billing_profiles, payment_references, issued_numbers, document_numbers, own_coupons,
    own_tax_rates, payment_accounts, sellers;
