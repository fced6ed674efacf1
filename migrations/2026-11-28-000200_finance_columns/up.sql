-- What finance asks of invoices, lines, charges and disputes, and was not kept so far. The end of this file
-- has the daemon read the stored events again, in the background; `coulomb rebuild mirrors` does it at once.
-- Until then these columns are null.

-- As they were when the invoice was issued: the customer may have moved since.
ALTER TABLE invoices ADD COLUMN customer_address jsonb, ADD COLUMN customer_tax_exempt text,
    ADD COLUMN customer_tax_ids jsonb;
COMMENT ON COLUMN invoices.customer_tax_ids IS 'a list of {type, value}';

ALTER TABLE invoice_lines ADD COLUMN taxes jsonb;
ALTER TABLE credit_note_lines ADD COLUMN taxes jsonb;
COMMENT ON COLUMN invoice_lines.taxes
    IS 'a list of {amount, taxable_amount, inclusive, reason, rate_id, percentage}; the percentage is a '
        'text, and null where the line names the rate alone';
COMMENT ON COLUMN credit_note_lines.taxes IS 'as of invoice lines';

-- Webhooks name the balance transaction by its id, mostly; the fee is known where they contain it.
ALTER TABLE charges ADD COLUMN card_brand text, ADD COLUMN last4 text, ADD COLUMN balance_transaction_id text,
    ADD COLUMN fee bigint, ADD COLUMN net bigint, ADD COLUMN net_currency text;
COMMENT ON COLUMN charges.fee IS 'in minor units of net_currency, as net is';

ALTER TABLE disputes ADD COLUMN funds_reinstated bigint;

INSERT INTO stripe_inbox_queue (inbox_id)
SELECT inbox_id FROM stripe_objects WHERE inbox_id IS NOT NULL
    AND object IN ('invoice', 'credit_note', 'charge', 'dispute')
ON CONFLICT DO NOTHING;
