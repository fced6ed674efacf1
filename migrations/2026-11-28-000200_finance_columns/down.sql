ALTER TABLE disputes DROP COLUMN funds_reinstated;
ALTER TABLE charges DROP COLUMN card_brand, DROP COLUMN last4, DROP COLUMN balance_transaction_id,
    DROP COLUMN fee, DROP COLUMN net, DROP COLUMN net_currency;
ALTER TABLE credit_note_lines DROP COLUMN taxes;
ALTER TABLE invoice_lines DROP COLUMN taxes;
ALTER TABLE invoices DROP COLUMN customer_address, DROP COLUMN customer_tax_exempt,
    DROP COLUMN customer_tax_ids;
