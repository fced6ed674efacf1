-- What a checkout session sold. Stripe's events of a session leave its line items out.
CREATE TABLE checkout_line_items (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    line_number integer NOT NULL,
    id text COLLATE "C",
    price_id text COLLATE "C",
    product_id text COLLATE "C",
    quantity bigint,
    amount_subtotal bigint,
    amount_discount bigint,
    amount_tax bigint,
    amount_total bigint,
    currency text,
    description text,
    PRIMARY KEY (account, livemode, session_id, line_number)
);
COMMENT ON COLUMN checkout_line_items.amount_subtotal IS 'before discounts and tax';
COMMENT ON COLUMN checkout_line_items.amount_total IS 'after discounts and tax';

ALTER TABLE checkout_sessions ADD COLUMN line_items_complete boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN checkout_sessions.line_items_complete IS 'all of its line items are stored';
-- Sessions whose line items may have to be read.
CREATE INDEX checkout_sessions_without_items ON checkout_sessions (account, livemode, created)
    WHERE mode = 'payment' AND NOT line_items_complete;
