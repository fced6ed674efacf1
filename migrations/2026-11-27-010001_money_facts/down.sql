DROP TABLE battery_effects_ignored;
ALTER TABLE battery_effects_waiting DROP COLUMN assigned_quantity;
COMMENT ON COLUMN battery_effects.paid_minor
    IS 'what was paid for the whole source: returned money takes back this share';
DELETE FROM battery_returns WHERE cause_kind = 'invoice';
ALTER TABLE battery_returns DROP CONSTRAINT battery_returns_cause_kind_check;
ALTER TABLE battery_returns ADD CONSTRAINT battery_returns_cause_kind_check
    CHECK (cause_kind IN ('refund', 'charge', 'dispute', 'credit_note', 'proration'));
ALTER TABLE payments DROP COLUMN outside_stripe;
ALTER TABLE credit_notes DROP COLUMN pre_payment_amount, DROP COLUMN post_payment_amount,
    DROP COLUMN refund_amount, DROP COLUMN balance_amount;
ALTER TABLE subscription_items DROP COLUMN usage_type;
ALTER TABLE invoice_lines DROP COLUMN usage_type;
