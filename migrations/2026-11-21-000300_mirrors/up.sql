-- Mirrors of Stripe objects. A row is a pure function of the winning snapshot of its object, so there are no row ids,
-- arrival times or volatile defaults. Objects arrive in any order, so there are no foreign keys between mirrors.
-- Indexes that the writer looks keys up in hold the whole key: without statistics the planner would else prefer the
-- first two columns of a primary key, which are the same for every row of an account.
-- `account` is empty for the platform's own Stripe account. Money is in the minor unit of `currency`.
-- Where the API looks objects up, the primary key starts with the id, as a reader may know no more. Lists are sorted by
-- `created` and id.

CREATE TABLE customers (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    name text,
    email text,
    description text,
    phone text,
    currency text,
    balance bigint,
    delinquent boolean,
    tax_exempt text,
    country text,
    address jsonb,
    default_payment_method_id text COLLATE "C",
    default_source_id text COLLATE "C",
    invoice_prefix text,
    created timestamptz,
    deleted boolean NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (id, account, livemode)
);
CREATE INDEX customers_email ON customers (email);
CREATE INDEX customers_created ON customers (created, id);

CREATE TABLE customer_tax_ids (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    customer_id text COLLATE "C",
    type text,
    value text,
    country text,
    verification_status text,
    created timestamptz,
    deleted boolean NOT NULL,
    PRIMARY KEY (account, livemode, id)
);
CREATE INDEX customer_tax_ids_customer ON customer_tax_ids (customer_id);

CREATE TABLE discounts (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    customer_id text COLLATE "C",
    subscription_id text COLLATE "C",
    invoice_id text COLLATE "C",
    coupon_id text COLLATE "C",
    promotion_code_id text COLLATE "C",
    starts_at timestamptz,
    ends_at timestamptz,
    deleted boolean NOT NULL,
    PRIMARY KEY (account, livemode, id)
);
CREATE INDEX discounts_customer ON discounts (customer_id);

CREATE TABLE subscriptions (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    customer_id text COLLATE "C",
    status text,
    currency text,
    collection_method text,
    current_period_start timestamptz,
    current_period_end timestamptz,
    cancel_at timestamptz,
    cancel_at_period_end boolean,
    canceled_at timestamptz,
    ended_at timestamptz,
    trial_start timestamptz,
    trial_end timestamptz,
    start_date timestamptz,
    billing_cycle_anchor timestamptz,
    latest_invoice_id text COLLATE "C",
    schedule_id text COLLATE "C",
    default_payment_method_id text COLLATE "C",
    pause_collection text,
    pause_resumes_at timestamptz,
    description text,
    items_complete boolean NOT NULL,
    created timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (id, account, livemode)
);
CREATE INDEX subscriptions_customer ON subscriptions (customer_id);
CREATE INDEX subscriptions_status ON subscriptions (status, created, id);
CREATE INDEX subscriptions_created ON subscriptions (created, id);

CREATE TABLE subscription_items (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    subscription_id text COLLATE "C" NOT NULL,
    item_number integer NOT NULL,
    id text COLLATE "C",
    price_id text COLLATE "C",
    product_id text COLLATE "C",
    quantity bigint,
    current_period_start timestamptz,
    current_period_end timestamptz,
    created timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (account, livemode, subscription_id, item_number)
);
CREATE INDEX subscription_items_price ON subscription_items (price_id);

CREATE TABLE invoices (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    customer_id text COLLATE "C",
    subscription_id text COLLATE "C",
    number text,
    status text,
    billing_reason text,
    collection_method text,
    currency text,
    subtotal bigint,
    discount_total bigint,
    tax_total bigint,
    total bigint,
    amount_due bigint,
    amount_paid bigint,
    amount_remaining bigint,
    starting_balance bigint,
    ending_balance bigint,
    pre_payment_credit_notes_amount bigint,
    post_payment_credit_notes_amount bigint,
    period_start timestamptz,
    period_end timestamptz,
    finalized_at timestamptz,
    due_at timestamptz,
    paid_at timestamptz,
    voided_at timestamptz,
    marked_uncollectible_at timestamptz,
    next_payment_attempt timestamptz,
    attempt_count integer,
    payment_intent_id text COLLATE "C",
    charge_id text COLLATE "C",
    paid_out_of_band boolean,
    hosted_invoice_url text,
    invoice_pdf text,
    description text,
    customer_name text,
    customer_email text,
    lines_complete boolean NOT NULL,
    created timestamptz,
    deleted boolean NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (id, account, livemode)
);
CREATE INDEX invoices_customer ON invoices (customer_id, created, id);
CREATE INDEX invoices_subscription ON invoices (subscription_id);
CREATE INDEX invoices_created ON invoices (created, id);
CREATE INDEX invoices_status ON invoices (status, created, id);
CREATE INDEX invoices_number ON invoices (number);
CREATE INDEX invoices_finalized ON invoices (finalized_at, id) WHERE finalized_at IS NOT NULL;
CREATE INDEX invoices_paid ON invoices (paid_at, id) WHERE paid_at IS NOT NULL;
-- The payment that an invoice of the older shapes names.
CREATE INDEX invoices_payment ON invoices ((coalesce(payment_intent_id, charge_id)), account, livemode)
    WHERE coalesce(payment_intent_id, charge_id) IS NOT NULL;

CREATE TABLE invoice_lines (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    invoice_id text COLLATE "C" NOT NULL,
    line_number integer NOT NULL,
    id text COLLATE "C",
    type text,
    amount bigint,
    currency text,
    quantity bigint,
    description text,
    period_start timestamptz,
    period_end timestamptz,
    price_id text COLLATE "C",
    product_id text COLLATE "C",
    unit_amount_decimal numeric
        CHECK (unit_amount_decimal > '-Infinity' AND unit_amount_decimal < 'Infinity'),
    subscription_id text COLLATE "C",
    subscription_item_id text COLLATE "C",
    invoice_item_id text COLLATE "C",
    proration boolean,
    discount_amount bigint,
    tax_amount bigint,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (account, livemode, invoice_id, line_number)
);

CREATE TABLE payment_intents (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    customer_id text COLLATE "C",
    invoice_id text COLLATE "C",
    latest_charge_id text COLLATE "C",
    status text,
    amount bigint,
    amount_received bigint,
    currency text,
    payment_method_type text,
    failure_code text,
    failure_message text,
    description text,
    canceled_at timestamptz,
    created timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (account, livemode, id)
);

CREATE TABLE charges (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    payment_intent_id text COLLATE "C",
    customer_id text COLLATE "C",
    invoice_id text COLLATE "C",
    status text,
    amount bigint,
    amount_captured bigint,
    amount_refunded bigint,
    currency text,
    captured boolean,
    refunded boolean,
    disputed boolean,
    payment_method_type text,
    failure_code text,
    failure_message text,
    receipt_url text,
    description text,
    created timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (account, livemode, id)
);
CREATE INDEX charges_payment ON charges ((coalesce(payment_intent_id, id)), account, livemode);

CREATE TABLE invoice_payments (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    invoice_id text COLLATE "C",
    type text,
    payment_intent_id text COLLATE "C",
    charge_id text COLLATE "C",
    payment_record_id text COLLATE "C",
    status text,
    amount_requested bigint,
    amount_paid bigint,
    currency text,
    is_default boolean,
    paid_at timestamptz,
    canceled_at timestamptz,
    created timestamptz,
    PRIMARY KEY (account, livemode, id)
);
CREATE INDEX invoice_payments_invoice ON invoice_payments (invoice_id);
CREATE INDEX invoice_payments_payment
    ON invoice_payments ((coalesce(payment_intent_id, charge_id, payment_record_id, id)), account, livemode);

-- One row per money movement, computed from payment_intents, charges, invoice_payments and invoices.
CREATE TABLE payments (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    payment_intent_id text COLLATE "C",
    charge_id text COLLATE "C",
    invoice_payment_id text COLLATE "C",
    invoice_id text COLLATE "C",
    customer_id text COLLATE "C",
    status text,
    amount bigint,
    amount_received bigint NOT NULL,
    amount_refunded bigint NOT NULL,
    currency text,
    payment_method_type text,
    failure_code text,
    failure_message text,
    disputed boolean NOT NULL,
    created timestamptz,
    paid_at timestamptz,
    description text,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (id, account, livemode)
);
CREATE INDEX payments_customer ON payments (customer_id, created, id);
CREATE INDEX payments_invoice ON payments (invoice_id);
CREATE INDEX payments_charge ON payments (charge_id);
CREATE INDEX payments_status ON payments (status, created, id);
-- The customer of such a payment is that of its invoice.
CREATE INDEX payments_nameless ON payments (invoice_id) WHERE customer_id IS NULL;
CREATE INDEX payments_created ON payments (created, id);

CREATE TABLE refunds (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    -- `refund`: read from a refund object. `charge`: read from the list inside a charge, which a refund object replaces.
    source text NOT NULL CHECK (source IN ('refund', 'charge')),
    charge_id text COLLATE "C",
    payment_intent_id text COLLATE "C",
    amount bigint,
    currency text,
    status text,
    reason text,
    failure_reason text,
    created timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (id, account, livemode)
);
CREATE INDEX refunds_charge ON refunds (charge_id, account, livemode);
CREATE INDEX refunds_payment_intent ON refunds (payment_intent_id);
CREATE INDEX refunds_created ON refunds (created, id);

CREATE TABLE disputes (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    charge_id text COLLATE "C",
    payment_intent_id text COLLATE "C",
    amount bigint,
    currency text,
    status text,
    reason text,
    evidence_due_by timestamptz,
    is_charge_refundable boolean,
    -- In `funds_currency`, the currency of settlement, which may differ from the dispute's.
    funds_withdrawn bigint,
    funds_net bigint,
    funds_currency text,
    created timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (id, account, livemode)
);
CREATE INDEX disputes_charge ON disputes (charge_id);
CREATE INDEX disputes_payment_intent ON disputes (payment_intent_id);
CREATE INDEX disputes_created ON disputes (created, id);

CREATE TABLE credit_notes (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    invoice_id text COLLATE "C",
    customer_id text COLLATE "C",
    number text,
    status text,
    type text,
    reason text,
    memo text,
    currency text,
    amount bigint,
    subtotal bigint,
    discount_total bigint,
    tax_total bigint,
    total bigint,
    out_of_band_amount bigint,
    -- Array of refund ids.
    refund_ids jsonb NOT NULL DEFAULT '[]',
    pdf text,
    effective_at timestamptz,
    voided_at timestamptz,
    lines_complete boolean NOT NULL,
    created timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (id, account, livemode)
);
CREATE INDEX credit_notes_invoice ON credit_notes (invoice_id);
CREATE INDEX credit_notes_customer ON credit_notes (customer_id);
CREATE INDEX credit_notes_created ON credit_notes (created, id);

CREATE TABLE credit_note_lines (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    credit_note_id text COLLATE "C" NOT NULL,
    line_number integer NOT NULL,
    id text COLLATE "C",
    type text,
    invoice_line_id text COLLATE "C",
    amount bigint,
    quantity bigint,
    description text,
    unit_amount_decimal numeric
        CHECK (unit_amount_decimal > '-Infinity' AND unit_amount_decimal < 'Infinity'),
    discount_amount bigint,
    tax_amount bigint,
    PRIMARY KEY (account, livemode, credit_note_id, line_number)
);

CREATE TABLE checkout_sessions (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    mode text,
    status text,
    payment_status text,
    customer_id text COLLATE "C",
    customer_email text,
    client_reference_id text,
    payment_intent_id text COLLATE "C",
    subscription_id text COLLATE "C",
    invoice_id text COLLATE "C",
    payment_link_id text COLLATE "C",
    amount_subtotal bigint,
    amount_discount bigint,
    amount_tax bigint,
    amount_total bigint,
    currency text,
    expires_at timestamptz,
    created timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (account, livemode, id)
);
CREATE INDEX checkout_sessions_customer ON checkout_sessions (customer_id);
CREATE INDEX checkout_sessions_payment_intent ON checkout_sessions (payment_intent_id);

CREATE TABLE products (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    name text,
    description text,
    active boolean,
    unit_label text,
    tax_code text,
    default_price_id text COLLATE "C",
    created timestamptz,
    deleted boolean NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (id, account, livemode)
);

CREATE TABLE prices (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    product_id text COLLATE "C",
    active boolean,
    type text,
    billing_scheme text,
    currency text,
    unit_amount bigint,
    unit_amount_decimal numeric
        CHECK (unit_amount_decimal > '-Infinity' AND unit_amount_decimal < 'Infinity'),
    recurring_interval text,
    recurring_interval_count integer,
    recurring_usage_type text,
    tiers_mode text,
    tax_behavior text,
    lookup_key text,
    nickname text,
    created timestamptz,
    deleted boolean NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (id, account, livemode)
);
CREATE INDEX prices_product ON prices (product_id);

CREATE TABLE coupons (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    name text,
    percent_off numeric CHECK (percent_off > '-Infinity' AND percent_off < 'Infinity'),
    amount_off bigint,
    currency text,
    duration text,
    duration_in_months integer,
    max_redemptions bigint,
    times_redeemed bigint,
    redeem_by timestamptz,
    valid boolean,
    created timestamptz,
    deleted boolean NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (account, livemode, id)
);

CREATE TABLE promotion_codes (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    code text,
    coupon_id text COLLATE "C",
    customer_id text COLLATE "C",
    active boolean,
    max_redemptions bigint,
    times_redeemed bigint,
    expires_at timestamptz,
    created timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (account, livemode, id)
);

CREATE TABLE tax_rates (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    display_name text,
    description text,
    percentage numeric CHECK (percentage > '-Infinity' AND percentage < 'Infinity'),
    inclusive boolean,
    active boolean,
    country text,
    state text,
    jurisdiction text,
    tax_type text,
    created timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (account, livemode, id)
);
