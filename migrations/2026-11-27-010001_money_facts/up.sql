-- What decides how much a payment grants and takes back, and was not kept so far.

-- Metered prices are usage, licensed ones are bought. Newer lines name their price alone; items carry it.
ALTER TABLE invoice_lines ADD COLUMN usage_type text;
ALTER TABLE subscription_items ADD COLUMN usage_type text;

-- A credit note reduces what is still due, and gives back of what was settled: to the payment method, to the
-- customer's balance and outside Stripe.
ALTER TABLE credit_notes ADD COLUMN pre_payment_amount bigint, ADD COLUMN post_payment_amount bigint,
    ADD COLUMN refund_amount bigint, ADD COLUMN balance_amount bigint;

-- Whether the money moved outside Stripe.
ALTER TABLE payments ADD COLUMN outside_stripe boolean NOT NULL DEFAULT false;

-- An invoice that is voided after it was paid, or emptied by credit notes before, takes all of it back.
ALTER TABLE battery_returns DROP CONSTRAINT battery_returns_cause_kind_check;
ALTER TABLE battery_returns ADD CONSTRAINT battery_returns_cause_kind_check
    CHECK (cause_kind IN ('refund', 'charge', 'dispute', 'credit_note', 'proration', 'invoice'));
COMMENT ON COLUMN battery_effects.paid_minor
    IS 'what the whole source was settled with, by whatever means: returned money takes back this share';

-- How many were bought, where only an operator can tell.
ALTER TABLE battery_effects_waiting ADD COLUMN assigned_quantity bigint CHECK (assigned_quantity > 0);

-- What another product of the same Stripe account sells: no line and no session of these waits for somebody
-- to place it.
CREATE TABLE battery_effects_ignored (
    kind text NOT NULL CHECK (kind IN ('price', 'product', 'payment_link')),
    id text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (kind, id)
);

-- Previews of invoices are none.
DELETE FROM invoice_lines WHERE invoice_id LIKE 'upcoming\_%';
DELETE FROM invoices WHERE id LIKE 'upcoming\_%';
DELETE FROM stripe_objects WHERE object = 'invoice' AND object_id LIKE 'upcoming\_%';

-- What is known already is read again under these rules: the snapshots that hold the objects concerned, and
-- the effects.
INSERT INTO stripe_inbox_queue (inbox_id)
SELECT inbox_id FROM stripe_objects WHERE inbox_id IS NOT NULL
    AND object IN ('credit_note', 'invoice', 'subscription', 'invoice_payment', 'refund', 'dispute')
ON CONFLICT DO NOTHING;
INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
SELECT DISTINCT account, livemode, source_kind, source_id FROM battery_effects;
