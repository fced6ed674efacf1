-- Invoices of our own, for orgs that Stripe does not bill: who sells, at which tax and discount, the
-- documents, the money, and the account of each org.

-- Who sells. Reference tables: small, read everywhere.
CREATE TABLE sellers (
    seller_id text COLLATE "C" PRIMARY KEY,
    party jsonb NOT NULL,
    settings jsonb NOT NULL,
    is_default boolean NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX sellers_default ON sellers (is_default) WHERE is_default;
COMMENT ON COLUMN sellers.party IS 'name, address, tax numbers as documents show them';
COMMENT ON COLUMN sellers.settings IS 'zone, prefixes of numbers, days of terms, of grace and of reminders';

CREATE TABLE payment_accounts (
    payment_account_id text COLLATE "C" PRIMARY KEY,
    seller_id text COLLATE "C" NOT NULL,
    currency text,
    processor text,
    shown boolean NOT NULL,
    details jsonb NOT NULL,
    created_at timestamptz NOT NULL
);
COMMENT ON TABLE payment_accounts IS 'accounts of sellers that payments arrive on';
COMMENT ON COLUMN payment_accounts.shown IS 'documents tell the customer to pay there';

CREATE TABLE own_tax_rates (
    tax_rate_id text COLLATE "C" PRIMARY KEY,
    name text NOT NULL,
    category text NOT NULL CHECK (category IN ('S', 'Z', 'E', 'AE', 'K', 'G', 'O')),
    percent numeric NOT NULL CHECK (percent >= 0 AND percent <= 100),
    exemption_reason text,
    exemption_code text,
    active boolean NOT NULL,
    created_at timestamptz NOT NULL,
    CHECK ((category = 'S') = (percent > 0))
);

CREATE TABLE own_coupons (
    code text COLLATE "C" PRIMARY KEY,
    name text NOT NULL,
    percent numeric CHECK (percent > 0 AND percent <= 100),
    amount bigint CHECK (amount > 0),
    currency text,
    max_uses bigint CHECK (max_uses > 0),
    uses bigint NOT NULL DEFAULT 0 CHECK (uses >= 0),
    first_invoices integer CHECK (first_invoices > 0),
    minimum_amount bigint CHECK (minimum_amount > 0),
    plans text[] NOT NULL,
    valid_from timestamptz,
    valid_until timestamptz,
    active boolean NOT NULL,
    created_at timestamptz NOT NULL,
    CHECK ((percent IS NULL) <> (amount IS NULL)),
    CHECK ((amount IS NULL AND minimum_amount IS NULL) OR currency IS NOT NULL),
    CHECK (max_uses IS NULL OR uses <= max_uses)
);
COMMENT ON COLUMN own_coupons.uses IS 'finalised invoices that have the discount and are not void';
COMMENT ON COLUMN own_coupons.first_invoices IS 'of an org; null: all';
COMMENT ON COLUMN own_coupons.plans IS 'only fees of these plans are discounted; empty: every line';

-- The last number of each gapless series. Finalising locks the row, so a number that is not committed is
-- taken by the next document.
CREATE TABLE document_numbers (
    seller_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('invoice', 'credit_note')),
    year integer NOT NULL,
    last bigint NOT NULL CHECK (last > 0),
    PRIMARY KEY (seller_id, kind, year)
);

-- A number of a seller names one document, also one that another system issued.
CREATE TABLE issued_numbers (
    seller_id text COLLATE "C" NOT NULL,
    number text COLLATE "C" NOT NULL,
    org_id bigint NOT NULL,
    document_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (seller_id, number)
);

-- A payment of a processor is recorded once, whatever org it is said to be of.
CREATE TABLE payment_references (
    processor text COLLATE "C" NOT NULL,
    reference text COLLATE "C" NOT NULL,
    org_id bigint NOT NULL,
    own_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (processor, reference)
);
COMMENT ON COLUMN payment_references.own_id IS 'the payment, or the refund';

-- Tenant tables.
CREATE TABLE billing_profiles (
    org_id bigint PRIMARY KEY,
    seller_id text COLLATE "C" NOT NULL,
    party jsonb NOT NULL,
    terms jsonb NOT NULL,
    automatic boolean NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX billing_profiles_automatic ON billing_profiles (org_id) WHERE automatic;
COMMENT ON COLUMN billing_profiles.terms IS 'currency, language, tax rate, days of terms, references';
COMMENT ON COLUMN billing_profiles.automatic IS 'its local subscription is invoiced by the clock';

CREATE TABLE org_coupons (
    org_id bigint NOT NULL,
    code text COLLATE "C" NOT NULL,
    applied_at timestamptz NOT NULL,
    ended_at timestamptz,
    uses integer NOT NULL DEFAULT 0 CHECK (uses >= 0),
    PRIMARY KEY (org_id, code)
);

CREATE TABLE own_invoices (
    org_id bigint NOT NULL,
    invoice_id text COLLATE "C" NOT NULL,
    seller_id text COLLATE "C" NOT NULL,
    currency text NOT NULL CHECK (currency ~ '^[a-z]{3}$'),
    subscription_id text COLLATE "C",
    reason text NOT NULL,
    created_at timestamptz NOT NULL,
    finalize_at timestamptz,
    waits text,
    draft jsonb NOT NULL,
    number text,
    finalized_at timestamptz,
    issue_date date,
    due_date date,
    period_start timestamptz,
    period_end timestamptz,
    subtotal bigint NOT NULL,
    discount_total bigint NOT NULL,
    net_total bigint NOT NULL,
    tax_total bigint NOT NULL,
    total bigint NOT NULL,
    amount_paid bigint NOT NULL DEFAULT 0,
    amount_credited bigint NOT NULL DEFAULT 0,
    amount_written_off bigint NOT NULL DEFAULT 0,
    paid_at timestamptz,
    voided_at timestamptz,
    reminders integer NOT NULL DEFAULT 0,
    status text NOT NULL GENERATED ALWAYS AS (CASE
        WHEN finalized_at IS NULL THEN 'draft'
        WHEN voided_at IS NOT NULL THEN 'void'
        WHEN amount_paid + amount_credited + amount_written_off < total THEN 'open'
        WHEN amount_written_off > 0 THEN 'uncollectible'
        ELSE 'paid' END) STORED,
    PRIMARY KEY (org_id, invoice_id),
    CHECK ((finalized_at IS NULL) = (number IS NULL)),
    CHECK (net_total + tax_total = total)
);
CREATE INDEX own_invoices_created ON own_invoices (created_at, invoice_id);
CREATE INDEX own_invoices_id ON own_invoices (invoice_id);
CREATE INDEX own_invoices_due ON own_invoices (finalize_at) WHERE finalized_at IS NULL;
CREATE INDEX own_invoices_open ON own_invoices (org_id, currency, due_date) WHERE status = 'open';
CREATE INDEX own_invoices_overdue ON own_invoices (due_date) WHERE status = 'open';
COMMENT ON COLUMN own_invoices.reason IS 'why it was made: subscription, manual, import';
COMMENT ON COLUMN own_invoices.finalize_at IS 'when the clock finalises the draft; null: by hand';
COMMENT ON COLUMN own_invoices.waits IS 'why the draft cannot be finalised, as a code';
COMMENT ON COLUMN own_invoices.draft IS 'what people changed about it: note, terms, reference';
COMMENT ON COLUMN own_invoices.amount_paid IS 'by payments and earlier credit: a function of the allocations';

-- What was issued, word for word. Rows never change.
CREATE TABLE own_documents (
    org_id bigint NOT NULL,
    document_id text COLLATE "C" NOT NULL,
    kind text NOT NULL CHECK (kind IN ('invoice', 'credit_note')),
    seller_id text COLLATE "C" NOT NULL,
    series_year integer NOT NULL,
    series_number bigint NOT NULL CHECK (series_number >= 0),
    number text NOT NULL,
    issue_date date NOT NULL,
    content text NOT NULL,
    content_sha256 bytea NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, document_id)
);
CREATE INDEX own_documents_series ON own_documents (seller_id, kind, series_year, series_number);
CREATE INDEX own_documents_number ON own_documents (number);
COMMENT ON COLUMN own_documents.series_number IS '0: imported with a number of its own';
COMMENT ON COLUMN own_documents.content IS 'the document as JSON';

CREATE TABLE own_invoice_lines (
    org_id bigint NOT NULL,
    invoice_id text COLLATE "C" NOT NULL,
    line_number integer NOT NULL CHECK (line_number > 0),
    kind text NOT NULL CHECK (kind IN ('fee', 'usage', 'minimum', 'proration', 'item')),
    description text NOT NULL,
    quantity numeric NOT NULL CHECK (scale(quantity) IS NOT NULL),
    unit text,
    unit_price numeric NOT NULL CHECK (scale(unit_price) IS NOT NULL),
    base_quantity numeric NOT NULL CHECK (base_quantity > 0 AND base_quantity < 'Infinity'),
    amount bigint NOT NULL,
    discount bigint NOT NULL,
    net bigint NOT NULL,
    tax bigint NOT NULL,
    tax_rate_id text COLLATE "C" NOT NULL,
    tax_category text NOT NULL,
    tax_percent numeric NOT NULL CHECK (scale(tax_percent) IS NOT NULL),
    plan_id text COLLATE "C",
    period_start timestamptz,
    period_end timestamptz,
    meter_id integer,
    rate_card_id integer,
    rate_place integer,
    cost numeric CHECK (cost IS NULL OR scale(cost) IS NOT NULL),
    computed_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, invoice_id, line_number)
);
CREATE INDEX own_invoice_lines_usage ON own_invoice_lines (org_id, meter_id, period_start)
    WHERE kind = 'usage';
COMMENT ON COLUMN own_invoice_lines.rate_place
    IS 'which rate of the card, from 1; 0: a level, or a price that came with the usage';
COMMENT ON COLUMN own_invoice_lines.cost IS 'of a usage line: what the records cost, not rounded';

-- What was invoiced of each period of a local subscription: a period is invoiced once.
CREATE TABLE invoiced_periods (
    org_id bigint NOT NULL,
    subscription_id text COLLATE "C" NOT NULL,
    what text COLLATE "C" NOT NULL CHECK (what IN ('fee', 'usage')),
    currency text NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    invoice_id text COLLATE "C" NOT NULL,
    paid_for_at timestamptz,
    PRIMARY KEY (org_id, subscription_id, what, currency, period_start),
    CHECK (period_start < period_end)
);
CREATE INDEX invoiced_periods_invoice ON invoiced_periods (org_id, invoice_id);
COMMENT ON COLUMN invoiced_periods.invoice_id IS 'empty: there was nothing to charge';
COMMENT ON COLUMN invoiced_periods.paid_for_at
    IS 'when the payment of the invoice extended the subscription by the period; once';

-- Lines that somebody added. Those without an invoice are taken by the next draft of the org.
CREATE TABLE invoice_items (
    org_id bigint NOT NULL,
    item_id text COLLATE "C" NOT NULL,
    currency text NOT NULL,
    line jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    invoice_id text COLLATE "C",
    PRIMARY KEY (org_id, item_id)
);
CREATE INDEX invoice_items_invoice ON invoice_items (org_id, currency, invoice_id);

CREATE TABLE own_credit_notes (
    org_id bigint NOT NULL,
    credit_note_id text COLLATE "C" NOT NULL,
    invoice_id text COLLATE "C" NOT NULL,
    seller_id text COLLATE "C" NOT NULL,
    currency text NOT NULL,
    number text NOT NULL,
    reason text NOT NULL,
    created_at timestamptz NOT NULL,
    issue_date date NOT NULL,
    net_total bigint NOT NULL,
    tax_total bigint NOT NULL,
    total bigint NOT NULL,
    PRIMARY KEY (org_id, credit_note_id),
    CHECK (net_total + tax_total = total)
);
CREATE INDEX own_credit_notes_created ON own_credit_notes (created_at, credit_note_id);
CREATE INDEX own_credit_notes_id ON own_credit_notes (credit_note_id);
CREATE INDEX own_credit_notes_invoice ON own_credit_notes (org_id, invoice_id);

CREATE TABLE own_credit_note_lines (
    org_id bigint NOT NULL,
    credit_note_id text COLLATE "C" NOT NULL,
    line_number integer NOT NULL,
    invoice_id text COLLATE "C" NOT NULL,
    amount bigint NOT NULL,
    net bigint NOT NULL,
    tax bigint NOT NULL,
    PRIMARY KEY (org_id, credit_note_id, line_number)
);
CREATE INDEX own_credit_note_lines_invoice ON own_credit_note_lines (org_id, invoice_id);
COMMENT ON COLUMN own_credit_note_lines.line_number IS 'that of the line of the invoice';
COMMENT ON COLUMN own_credit_note_lines.amount IS 'as priced, after discounts';

CREATE TABLE own_payments (
    org_id bigint NOT NULL,
    payment_id text COLLATE "C" NOT NULL,
    seller_id text COLLATE "C" NOT NULL,
    processor text COLLATE "C" NOT NULL,
    reference text COLLATE "C" NOT NULL,
    currency text NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    fee bigint CHECK (fee >= 0),
    method text,
    card_brand text,
    card_last4 text,
    payment_account_id text COLLATE "C",
    paid_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    details jsonb NOT NULL,
    amount_refunded bigint NOT NULL DEFAULT 0,
    amount_reversed bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (org_id, payment_id),
    CHECK (amount_refunded >= 0 AND amount_reversed >= 0 AND amount_refunded + amount_reversed <= amount)
);
CREATE INDEX own_payments_created ON own_payments (created_at, payment_id);
CREATE INDEX own_payments_id ON own_payments (payment_id);
COMMENT ON COLUMN own_payments.amount_refunded IS 'a function of own_refunds';

CREATE TABLE own_refunds (
    org_id bigint NOT NULL,
    refund_id text COLLATE "C" NOT NULL,
    payment_id text COLLATE "C" NOT NULL,
    kind text NOT NULL CHECK (kind IN ('refund', 'reversal')),
    reference text COLLATE "C",
    currency text NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    reason text NOT NULL,
    refunded_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, refund_id)
);
CREATE INDEX own_refunds_created ON own_refunds (created_at, refund_id);
CREATE INDEX own_refunds_payment ON own_refunds (org_id, payment_id);
COMMENT ON COLUMN own_refunds.kind
    IS 'refund: we gave it back; reversal: it was taken back (a bounced debit, a chargeback)';

-- The account of an org in a currency: what it owes.
CREATE TABLE accounts (
    org_id bigint NOT NULL,
    currency text NOT NULL,
    last_sequence bigint NOT NULL,
    balance bigint NOT NULL,
    PRIMARY KEY (org_id, currency)
);
COMMENT ON COLUMN accounts.balance IS 'what the org owes; below 0: what it has to its credit';

CREATE TABLE account_entries (
    org_id bigint NOT NULL,
    currency text NOT NULL,
    sequence bigint NOT NULL CHECK (sequence > 0),
    seller_id text COLLATE "C" NOT NULL,
    kind text NOT NULL CHECK (kind IN ('invoice', 'void', 'credit_note', 'write_off', 'recovery', 'payment',
        'refund', 'reversal', 'adjustment', 'opening_balance')),
    document_id text COLLATE "C" NOT NULL,
    amount bigint NOT NULL,
    balance_after bigint NOT NULL,
    day date NOT NULL,
    belongs_to date,
    occurred_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    description text NOT NULL,
    PRIMARY KEY (org_id, currency, sequence)
);
CREATE INDEX account_entries_document ON account_entries (org_id, document_id);
CREATE INDEX account_entries_day ON account_entries (day);
COMMENT ON COLUMN account_entries.amount IS 'above 0: the org owes more';
COMMENT ON COLUMN account_entries.day IS 'day of the books, in the seller''s zone; in an open month';
COMMENT ON COLUMN account_entries.belongs_to IS 'first day of the closed month that it corrects';

-- Which credit pays which debt. A change is a new row; what stands is the sum.
CREATE TABLE account_allocations (
    org_id bigint NOT NULL,
    currency text NOT NULL,
    allocation bigint NOT NULL,
    credit_sequence bigint NOT NULL,
    debit_sequence bigint NOT NULL,
    amount bigint NOT NULL CHECK (amount <> 0),
    at timestamptz NOT NULL,
    PRIMARY KEY (org_id, currency, allocation)
);
CREATE INDEX account_allocations_debit ON account_allocations (org_id, currency, debit_sequence);
CREATE INDEX account_allocations_credit ON account_allocations (org_id, currency, credit_sequence);

-- Prices of a plan in further currencies, and the least that usage of a period costs.
ALTER TABLE plan_versions ADD COLUMN prices jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN plan_versions.prices IS 'by currency: monthly, annual, usage_minimum, in minor units';
ALTER TABLE plans ADD COLUMN for_org text COLLATE "C";
COMMENT ON COLUMN plans.for_org IS 'public id of the only org that may have it; null: every org may';
