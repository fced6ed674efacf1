// @generated automatically by Diesel CLI.

diesel::table! {
    account_allocations (org_id, currency, allocation) {
        org_id -> Int8,
        currency -> Text,
        allocation -> Int8,
        credit_sequence -> Int8,
        debit_sequence -> Int8,
        amount -> Int8,
        at -> Timestamptz,
    }
}

diesel::table! {
    account_entries (org_id, currency, sequence) {
        org_id -> Int8,
        currency -> Text,
        sequence -> Int8,
        seller_id -> Text,
        kind -> Text,
        document_id -> Text,
        amount -> Int8,
        balance_after -> Int8,
        day -> Date,
        belongs_to -> Nullable<Date>,
        occurred_at -> Timestamptz,
        created_at -> Timestamptz,
        description -> Text,
    }
}

diesel::table! {
    accounts (org_id, currency) {
        org_id -> Int8,
        currency -> Text,
        last_sequence -> Int8,
        balance -> Int8,
    }
}

diesel::table! {
    api_keys (org_id, key_id) {
        org_id -> Int8,
        key_id -> Text,
        secret_sha256 -> Bytea,
        name -> Text,
        scopes -> Array<Nullable<Text>>,
        created_at -> Timestamptz,
        expires_at -> Nullable<Timestamptz>,
        revoked_at -> Nullable<Timestamptz>,
        last_used_at -> Nullable<Timestamptz>,
        replaces -> Nullable<Text>,
        hint -> Nullable<Text>,
        requests_per_minute -> Nullable<Int4>,
    }
}

diesel::table! {
    audit_log (org_id, at, audit_id) {
        org_id -> Int8,
        at -> Timestamptz,
        audit_id -> Int8,
        actor -> Text,
        action -> Text,
        target -> Text,
        detail -> Jsonb,
        request_id -> Nullable<Text>,
        address -> Nullable<Text>,
        user_agent -> Nullable<Text>,
        before -> Nullable<Jsonb>,
        after -> Nullable<Jsonb>,
    }
}

diesel::table! {
    battery_accounts (org_id) {
        org_id -> Int8,
        balance -> Numeric,
        reserved -> Numeric,
        entries -> Int8,
        grants -> Int8,
        last_at -> Nullable<Timestamptz>,
        daily -> Nullable<Date>,
        carried -> Numeric,
    }
}

diesel::table! {
    battery_effects (source_id, source_kind, account, livemode, line) {
        account -> Text,
        livemode -> Bool,
        source_kind -> Text,
        source_id -> Text,
        line -> Text,
        org_id -> Int8,
        what -> Text,
        grant_number -> Nullable<Int8>,
        units -> Numeric,
        paid_minor -> Int8,
        currency -> Nullable<Text>,
        plan_id -> Nullable<Text>,
        plan_version -> Nullable<Int4>,
        pack_id -> Nullable<Text>,
        subscription_id -> Nullable<Text>,
        price_id -> Nullable<Text>,
        quantity -> Nullable<Int8>,
        period_start -> Nullable<Timestamptz>,
        period_end -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    battery_effects_ignored (kind, id) {
        kind -> Text,
        id -> Text,
        reason -> Text,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    battery_effects_queue (effect_id) {
        effect_id -> Int8,
        account -> Text,
        livemode -> Bool,
        kind -> Text,
        object_id -> Text,
        attempts -> Int2,
        next_attempt_at -> Nullable<Timestamptz>,
        last_error -> Nullable<Text>,
    }
}

diesel::table! {
    battery_effects_skipped (kind) {
        kind -> Text,
        since -> Timestamptz,
    }
}

diesel::table! {
    battery_effects_waiting (waiting_id) {
        waiting_id -> Int8,
        account -> Text,
        livemode -> Bool,
        source_kind -> Text,
        source_id -> Text,
        line -> Text,
        reason -> Text,
        detail -> Text,
        since -> Timestamptz,
        next_try -> Nullable<Timestamptz>,
        customer_id -> Nullable<Text>,
        org_ref -> Nullable<Text>,
        subscription_id -> Nullable<Text>,
        price_id -> Nullable<Text>,
        product_id -> Nullable<Text>,
        assigned_org -> Nullable<Int8>,
        assigned_pack -> Nullable<Text>,
        dismissed_at -> Nullable<Timestamptz>,
        dismissed_reason -> Nullable<Text>,
        assigned_quantity -> Nullable<Int8>,
    }
}

diesel::table! {
    battery_entries (org_id, sequence) {
        org_id -> Int8,
        sequence -> Int8,
        at -> Timestamptz,
        kind -> Text,
        amount -> Numeric,
        balance_after -> Numeric,
        source -> Text,
        grant_number -> Nullable<Int8>,
        batch -> Nullable<Int8>,
        draws -> Jsonb,
        link -> Nullable<Jsonb>,
        reason -> Nullable<Text>,
        actor -> Nullable<Text>,
    }
}

diesel::table! {
    battery_grants (org_id, grant_number) {
        org_id -> Int8,
        grant_number -> Int8,
        grant_id -> Text,
        source -> Text,
        source_key -> Text,
        state -> Text,
        priority -> Int2,
        created_at -> Timestamptz,
        effective_at -> Timestamptz,
        expires_at -> Nullable<Timestamptz>,
        amount -> Numeric,
        remaining -> Numeric,
        burned -> Numeric,
        clawed -> Numeric,
        lapsed -> Numeric,
        link -> Nullable<Jsonb>,
        reason -> Nullable<Text>,
    }
}

diesel::table! {
    battery_pack_payment_links (payment_link_id) {
        payment_link_id -> Text,
        pack_id -> Text,
    }
}

diesel::table! {
    battery_pack_stripe_prices (price_id) {
        price_id -> Text,
        pack_id -> Text,
    }
}

diesel::table! {
    battery_packs (pack_id) {
        pack_id -> Text,
        name -> Text,
        units -> Numeric,
        expires_after_days -> Nullable<Int4>,
        priority -> Nullable<Int2>,
        active -> Bool,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    battery_returns (org_id, grant_number, cause_kind, cause_id) {
        org_id -> Int8,
        grant_number -> Int8,
        cause_kind -> Text,
        cause_id -> Text,
        minor -> Int8,
        units -> Numeric,
    }
}

diesel::table! {
    battery_settings (org_id) {
        org_id -> Int8,
        debt_limit -> Nullable<Numeric>,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    billing_profiles (org_id) {
        org_id -> Int8,
        seller_id -> Text,
        party -> Jsonb,
        terms -> Jsonb,
        automatic -> Bool,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    catalog (name) {
        name -> Text,
        version -> Int8,
    }
}

diesel::table! {
    charges (account, livemode, id) {
        account -> Text,
        livemode -> Bool,
        id -> Text,
        payment_intent_id -> Nullable<Text>,
        customer_id -> Nullable<Text>,
        invoice_id -> Nullable<Text>,
        status -> Nullable<Text>,
        amount -> Nullable<Int8>,
        amount_captured -> Nullable<Int8>,
        amount_refunded -> Nullable<Int8>,
        currency -> Nullable<Text>,
        captured -> Nullable<Bool>,
        refunded -> Nullable<Bool>,
        disputed -> Nullable<Bool>,
        payment_method_type -> Nullable<Text>,
        failure_code -> Nullable<Text>,
        failure_message -> Nullable<Text>,
        receipt_url -> Nullable<Text>,
        description -> Nullable<Text>,
        created -> Nullable<Timestamptz>,
        metadata -> Jsonb,
        card_brand -> Nullable<Text>,
        last4 -> Nullable<Text>,
        balance_transaction_id -> Nullable<Text>,
        fee -> Nullable<Int8>,
        net -> Nullable<Int8>,
        net_currency -> Nullable<Text>,
    }
}

diesel::table! {
    checkout_line_items (account, livemode, session_id, line_number) {
        account -> Text,
        livemode -> Bool,
        session_id -> Text,
        line_number -> Int4,
        id -> Nullable<Text>,
        price_id -> Nullable<Text>,
        product_id -> Nullable<Text>,
        quantity -> Nullable<Int8>,
        amount_subtotal -> Nullable<Int8>,
        amount_discount -> Nullable<Int8>,
        amount_tax -> Nullable<Int8>,
        amount_total -> Nullable<Int8>,
        currency -> Nullable<Text>,
        description -> Nullable<Text>,
    }
}

diesel::table! {
    checkout_sessions (account, livemode, id) {
        account -> Text,
        livemode -> Bool,
        id -> Text,
        mode -> Nullable<Text>,
        status -> Nullable<Text>,
        payment_status -> Nullable<Text>,
        customer_id -> Nullable<Text>,
        customer_email -> Nullable<Text>,
        client_reference_id -> Nullable<Text>,
        payment_intent_id -> Nullable<Text>,
        subscription_id -> Nullable<Text>,
        invoice_id -> Nullable<Text>,
        payment_link_id -> Nullable<Text>,
        amount_subtotal -> Nullable<Int8>,
        amount_discount -> Nullable<Int8>,
        amount_tax -> Nullable<Int8>,
        amount_total -> Nullable<Int8>,
        currency -> Nullable<Text>,
        expires_at -> Nullable<Timestamptz>,
        created -> Nullable<Timestamptz>,
        metadata -> Jsonb,
        line_items_complete -> Bool,
    }
}

diesel::table! {
    coupons (account, livemode, id) {
        account -> Text,
        livemode -> Bool,
        id -> Text,
        name -> Nullable<Text>,
        percent_off -> Nullable<Numeric>,
        amount_off -> Nullable<Int8>,
        currency -> Nullable<Text>,
        duration -> Nullable<Text>,
        duration_in_months -> Nullable<Int4>,
        max_redemptions -> Nullable<Int8>,
        times_redeemed -> Nullable<Int8>,
        redeem_by -> Nullable<Timestamptz>,
        valid -> Nullable<Bool>,
        created -> Nullable<Timestamptz>,
        deleted -> Bool,
        metadata -> Jsonb,
    }
}

diesel::table! {
    credit_note_lines (account, livemode, credit_note_id, line_number) {
        account -> Text,
        livemode -> Bool,
        credit_note_id -> Text,
        line_number -> Int4,
        id -> Nullable<Text>,
        #[sql_name = "type"]
        type_ -> Nullable<Text>,
        invoice_line_id -> Nullable<Text>,
        amount -> Nullable<Int8>,
        quantity -> Nullable<Int8>,
        description -> Nullable<Text>,
        unit_amount_decimal -> Nullable<Numeric>,
        discount_amount -> Nullable<Int8>,
        tax_amount -> Nullable<Int8>,
        taxes -> Nullable<Jsonb>,
    }
}

diesel::table! {
    credit_notes (id, account, livemode) {
        account -> Text,
        livemode -> Bool,
        id -> Text,
        invoice_id -> Nullable<Text>,
        customer_id -> Nullable<Text>,
        number -> Nullable<Text>,
        status -> Nullable<Text>,
        #[sql_name = "type"]
        type_ -> Nullable<Text>,
        reason -> Nullable<Text>,
        memo -> Nullable<Text>,
        currency -> Nullable<Text>,
        amount -> Nullable<Int8>,
        subtotal -> Nullable<Int8>,
        discount_total -> Nullable<Int8>,
        tax_total -> Nullable<Int8>,
        total -> Nullable<Int8>,
        out_of_band_amount -> Nullable<Int8>,
        refund_ids -> Jsonb,
        pdf -> Nullable<Text>,
        effective_at -> Nullable<Timestamptz>,
        voided_at -> Nullable<Timestamptz>,
        lines_complete -> Bool,
        created -> Nullable<Timestamptz>,
        metadata -> Jsonb,
        pre_payment_amount -> Nullable<Int8>,
        post_payment_amount -> Nullable<Int8>,
        refund_amount -> Nullable<Int8>,
        balance_amount -> Nullable<Int8>,
    }
}

diesel::table! {
    customer_tax_ids (account, livemode, id) {
        account -> Text,
        livemode -> Bool,
        id -> Text,
        customer_id -> Nullable<Text>,
        #[sql_name = "type"]
        type_ -> Nullable<Text>,
        value -> Nullable<Text>,
        country -> Nullable<Text>,
        verification_status -> Nullable<Text>,
        created -> Nullable<Timestamptz>,
        deleted -> Bool,
    }
}

diesel::table! {
    customers (id, account, livemode) {
        account -> Text,
        livemode -> Bool,
        id -> Text,
        name -> Nullable<Text>,
        email -> Nullable<Text>,
        description -> Nullable<Text>,
        phone -> Nullable<Text>,
        currency -> Nullable<Text>,
        balance -> Nullable<Int8>,
        delinquent -> Nullable<Bool>,
        tax_exempt -> Nullable<Text>,
        country -> Nullable<Text>,
        address -> Nullable<Jsonb>,
        default_payment_method_id -> Nullable<Text>,
        default_source_id -> Nullable<Text>,
        invoice_prefix -> Nullable<Text>,
        created -> Nullable<Timestamptz>,
        deleted -> Bool,
        metadata -> Jsonb,
    }
}

diesel::table! {
    daily_summaries (org_id, series_id, day) {
        org_id -> Int8,
        series_id -> Int8,
        day -> Date,
        quantity -> Numeric,
        count -> Int8,
        cost -> Numeric,
        battery_units -> Numeric,
        latest_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    debtor_numbers (org_id) {
        org_id -> Int8,
        number -> Int4,
    }
}

diesel::table! {
    discounts (account, livemode, id) {
        account -> Text,
        livemode -> Bool,
        id -> Text,
        customer_id -> Nullable<Text>,
        subscription_id -> Nullable<Text>,
        invoice_id -> Nullable<Text>,
        coupon_id -> Nullable<Text>,
        promotion_code_id -> Nullable<Text>,
        starts_at -> Nullable<Timestamptz>,
        ends_at -> Nullable<Timestamptz>,
        deleted -> Bool,
    }
}

diesel::table! {
    disputes (id, account, livemode) {
        account -> Text,
        livemode -> Bool,
        id -> Text,
        charge_id -> Nullable<Text>,
        payment_intent_id -> Nullable<Text>,
        amount -> Nullable<Int8>,
        currency -> Nullable<Text>,
        status -> Nullable<Text>,
        reason -> Nullable<Text>,
        evidence_due_by -> Nullable<Timestamptz>,
        is_charge_refundable -> Nullable<Bool>,
        funds_withdrawn -> Nullable<Int8>,
        funds_net -> Nullable<Int8>,
        funds_currency -> Nullable<Text>,
        created -> Nullable<Timestamptz>,
        metadata -> Jsonb,
        funds_reinstated -> Nullable<Int8>,
    }
}

diesel::table! {
    document_numbers (seller_id, kind, year) {
        seller_id -> Text,
        kind -> Text,
        year -> Int4,
        last -> Int8,
    }
}

diesel::table! {
    idempotency_keys (org_id, idempotency_key) {
        org_id -> Int8,
        idempotency_key -> Text,
        request_sha256 -> Bytea,
        status -> Nullable<Int2>,
        body -> Nullable<Text>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    imported_keys (key_sha256) {
        key_sha256 -> Bytea,
        org_id -> Int8,
        key_id -> Text,
    }
}

diesel::table! {
    invoice_items (org_id, item_id) {
        org_id -> Int8,
        item_id -> Text,
        currency -> Text,
        line -> Jsonb,
        created_at -> Timestamptz,
        invoice_id -> Nullable<Text>,
    }
}

diesel::table! {
    invoice_lines (account, livemode, invoice_id, line_number) {
        account -> Text,
        livemode -> Bool,
        invoice_id -> Text,
        line_number -> Int4,
        id -> Nullable<Text>,
        #[sql_name = "type"]
        type_ -> Nullable<Text>,
        amount -> Nullable<Int8>,
        currency -> Nullable<Text>,
        quantity -> Nullable<Int8>,
        description -> Nullable<Text>,
        period_start -> Nullable<Timestamptz>,
        period_end -> Nullable<Timestamptz>,
        price_id -> Nullable<Text>,
        product_id -> Nullable<Text>,
        unit_amount_decimal -> Nullable<Numeric>,
        subscription_id -> Nullable<Text>,
        subscription_item_id -> Nullable<Text>,
        invoice_item_id -> Nullable<Text>,
        proration -> Nullable<Bool>,
        discount_amount -> Nullable<Int8>,
        tax_amount -> Nullable<Int8>,
        metadata -> Jsonb,
        usage_type -> Nullable<Text>,
        taxes -> Nullable<Jsonb>,
    }
}

diesel::table! {
    invoice_payments (account, livemode, id) {
        account -> Text,
        livemode -> Bool,
        id -> Text,
        invoice_id -> Nullable<Text>,
        #[sql_name = "type"]
        type_ -> Nullable<Text>,
        payment_intent_id -> Nullable<Text>,
        charge_id -> Nullable<Text>,
        payment_record_id -> Nullable<Text>,
        status -> Nullable<Text>,
        amount_requested -> Nullable<Int8>,
        amount_paid -> Nullable<Int8>,
        currency -> Nullable<Text>,
        is_default -> Nullable<Bool>,
        paid_at -> Nullable<Timestamptz>,
        canceled_at -> Nullable<Timestamptz>,
        created -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    invoiced_periods (org_id, subscription_id, what, currency, period_start) {
        org_id -> Int8,
        subscription_id -> Text,
        what -> Text,
        currency -> Text,
        period_start -> Timestamptz,
        period_end -> Timestamptz,
        invoice_id -> Text,
        paid_for_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    invoices (id, account, livemode) {
        account -> Text,
        livemode -> Bool,
        id -> Text,
        customer_id -> Nullable<Text>,
        subscription_id -> Nullable<Text>,
        number -> Nullable<Text>,
        status -> Nullable<Text>,
        billing_reason -> Nullable<Text>,
        collection_method -> Nullable<Text>,
        currency -> Nullable<Text>,
        subtotal -> Nullable<Int8>,
        discount_total -> Nullable<Int8>,
        tax_total -> Nullable<Int8>,
        total -> Nullable<Int8>,
        amount_due -> Nullable<Int8>,
        amount_paid -> Nullable<Int8>,
        amount_remaining -> Nullable<Int8>,
        starting_balance -> Nullable<Int8>,
        ending_balance -> Nullable<Int8>,
        pre_payment_credit_notes_amount -> Nullable<Int8>,
        post_payment_credit_notes_amount -> Nullable<Int8>,
        period_start -> Nullable<Timestamptz>,
        period_end -> Nullable<Timestamptz>,
        finalized_at -> Nullable<Timestamptz>,
        due_at -> Nullable<Timestamptz>,
        paid_at -> Nullable<Timestamptz>,
        voided_at -> Nullable<Timestamptz>,
        marked_uncollectible_at -> Nullable<Timestamptz>,
        next_payment_attempt -> Nullable<Timestamptz>,
        attempt_count -> Nullable<Int4>,
        payment_intent_id -> Nullable<Text>,
        charge_id -> Nullable<Text>,
        paid_out_of_band -> Nullable<Bool>,
        hosted_invoice_url -> Nullable<Text>,
        invoice_pdf -> Nullable<Text>,
        description -> Nullable<Text>,
        customer_name -> Nullable<Text>,
        customer_email -> Nullable<Text>,
        lines_complete -> Bool,
        created -> Nullable<Timestamptz>,
        deleted -> Bool,
        metadata -> Jsonb,
        customer_address -> Nullable<Jsonb>,
        customer_tax_exempt -> Nullable<Text>,
        customer_tax_ids -> Nullable<Jsonb>,
    }
}

diesel::table! {
    issued_numbers (seller_id, number) {
        seller_id -> Text,
        number -> Text,
        org_id -> Int8,
        document_id -> Text,
    }
}

diesel::table! {
    local_subscriptions (org_id, subscription_id) {
        org_id -> Int8,
        subscription_id -> Text,
        plan_id -> Text,
        version -> Int4,
        status -> Text,
        interval_months -> Int4,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        trial_end -> Nullable<Timestamptz>,
        period_start -> Timestamptz,
        valid_until -> Timestamptz,
        cancel_at_period_end -> Bool,
        ended_at -> Nullable<Timestamptz>,
        grace_days -> Int4,
        trial_plan_id -> Nullable<Text>,
        earlier_plans -> Jsonb,
    }
}

diesel::table! {
    message_attempts (org_id, endpoint_id, sequence, attempt) {
        org_id -> Int8,
        endpoint_id -> Text,
        sequence -> Int8,
        attempt -> Int4,
        at -> Timestamptz,
        status -> Nullable<Int2>,
        duration_ms -> Int4,
        error -> Nullable<Text>,
        excerpt -> Nullable<Text>,
    }
}

diesel::table! {
    message_counter (only_row) {
        only_row -> Bool,
        last_position -> Int8,
    }
}

diesel::table! {
    message_deliveries (org_id, endpoint_id, sequence) {
        org_id -> Int8,
        endpoint_id -> Text,
        sequence -> Int8,
        message_org_id -> Int8,
        message_id -> Text,
        state -> Text,
        attempts -> Int4,
        failures -> Int4,
        created_at -> Timestamptz,
        next_attempt_at -> Timestamptz,
        ended_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    message_endpoints (org_id, endpoint_id) {
        org_id -> Int8,
        endpoint_id -> Text,
        url -> Text,
        description -> Text,
        kinds -> Array<Nullable<Text>>,
        ordered -> Bool,
        with_object -> Bool,
        signature -> Text,
        enabled -> Bool,
        disabled_reason -> Nullable<Text>,
        disabled_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    message_lanes (org_id, endpoint_id) {
        org_id -> Int8,
        endpoint_id -> Text,
        last_sequence -> Int8,
        due_at -> Timestamptz,
        failing_since -> Nullable<Timestamptz>,
        holder -> Nullable<Text>,
        holder_pid -> Nullable<Int4>,
        holder_started -> Nullable<Int8>,
        held_until -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    message_secrets (org_id, endpoint_id, number) {
        org_id -> Int8,
        endpoint_id -> Text,
        number -> Int4,
        secret -> Bytea,
        created_at -> Timestamptz,
        expires_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    meter_versions (meter_id, version) {
        meter_id -> Int4,
        version -> Int4,
        name -> Text,
        event_name -> Text,
        value_field -> Nullable<Text>,
        dimensions -> Array<Nullable<Text>>,
        created_at -> Timestamptz,
        unpriced -> Text,
        allows_negative -> Bool,
        change_field -> Nullable<Text>,
        labels -> Array<Nullable<Text>>,
    }
}

diesel::table! {
    meters (meter_id) {
        meter_id -> Int4,
        key -> Text,
        aggregation -> Text,
        unit -> Text,
        created_at -> Timestamptz,
        archived_at -> Nullable<Timestamptz>,
        currency -> Nullable<Text>,
    }
}

diesel::table! {
    month_manifests (month) {
        month -> Date,
        content -> Text,
        content_sha256 -> Bytea,
        public_key -> Nullable<Bytea>,
        signature -> Nullable<Bytea>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    org_coupons (org_id, code) {
        org_id -> Int8,
        code -> Text,
        applied_at -> Timestamptz,
        ended_at -> Nullable<Timestamptz>,
        uses -> Int4,
    }
}

diesel::table! {
    org_erasures (org_id) {
        org_id -> Int8,
        requested_at -> Timestamptz,
        customers -> Array<Nullable<Text>>,
        objects -> Array<Nullable<Text>>,
        next_inbox_id -> Int8,
        last_inbox_id -> Int8,
        events -> Int8,
        finished_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    org_refs (ref_) {
        #[sql_name = "ref"]
        ref_ -> Text,
        org_id -> Int8,
    }
}

diesel::table! {
    orgs (org_id) {
        org_id -> Int8,
        public_id -> Text,
        external_id -> Nullable<Text>,
        name -> Text,
        time_zone -> Text,
        created_at -> Timestamptz,
        metadata -> Jsonb,
        currency -> Nullable<Text>,
        suspended_at -> Nullable<Timestamptz>,
        suspension_reason -> Nullable<Text>,
        suspension_usage -> Nullable<Text>,
        archived_at -> Nullable<Timestamptz>,
        erased_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    outbox_messages (org_id, message_id) {
        org_id -> Int8,
        message_id -> Text,
        #[sql_name = "type"]
        type_ -> Text,
        dedupe_key -> Text,
        payload -> Nullable<Jsonb>,
        created_at -> Timestamptz,
        object -> Nullable<Jsonb>,
        position -> Nullable<Int8>,
    }
}

diesel::table! {
    own_coupons (code) {
        code -> Text,
        name -> Text,
        percent -> Nullable<Numeric>,
        amount -> Nullable<Int8>,
        currency -> Nullable<Text>,
        max_uses -> Nullable<Int8>,
        uses -> Int8,
        first_invoices -> Nullable<Int4>,
        minimum_amount -> Nullable<Int8>,
        plans -> Array<Nullable<Text>>,
        valid_from -> Nullable<Timestamptz>,
        valid_until -> Nullable<Timestamptz>,
        active -> Bool,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    own_credit_note_lines (org_id, credit_note_id, line_number) {
        org_id -> Int8,
        credit_note_id -> Text,
        line_number -> Int4,
        invoice_id -> Text,
        amount -> Int8,
        net -> Int8,
        tax -> Int8,
    }
}

diesel::table! {
    own_credit_notes (org_id, credit_note_id) {
        org_id -> Int8,
        credit_note_id -> Text,
        invoice_id -> Text,
        seller_id -> Text,
        currency -> Text,
        number -> Text,
        reason -> Text,
        created_at -> Timestamptz,
        issue_date -> Date,
        net_total -> Int8,
        tax_total -> Int8,
        total -> Int8,
    }
}

diesel::table! {
    own_documents (org_id, document_id) {
        org_id -> Int8,
        document_id -> Text,
        kind -> Text,
        seller_id -> Text,
        series_year -> Int4,
        series_number -> Int8,
        number -> Text,
        issue_date -> Date,
        content -> Text,
        content_sha256 -> Bytea,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    own_invoice_lines (org_id, invoice_id, line_number) {
        org_id -> Int8,
        invoice_id -> Text,
        line_number -> Int4,
        kind -> Text,
        description -> Text,
        quantity -> Numeric,
        unit -> Nullable<Text>,
        unit_price -> Numeric,
        base_quantity -> Numeric,
        amount -> Int8,
        discount -> Int8,
        net -> Int8,
        tax -> Int8,
        tax_rate_id -> Text,
        tax_category -> Text,
        tax_percent -> Numeric,
        plan_id -> Nullable<Text>,
        period_start -> Nullable<Timestamptz>,
        period_end -> Nullable<Timestamptz>,
        meter_id -> Nullable<Int4>,
        rate_card_id -> Nullable<Int4>,
        rate_place -> Nullable<Int4>,
        cost -> Nullable<Numeric>,
        computed_at -> Timestamptz,
    }
}

diesel::table! {
    own_invoices (org_id, invoice_id) {
        org_id -> Int8,
        invoice_id -> Text,
        seller_id -> Text,
        currency -> Text,
        subscription_id -> Nullable<Text>,
        reason -> Text,
        created_at -> Timestamptz,
        finalize_at -> Nullable<Timestamptz>,
        waits -> Nullable<Text>,
        draft -> Jsonb,
        number -> Nullable<Text>,
        finalized_at -> Nullable<Timestamptz>,
        issue_date -> Nullable<Date>,
        due_date -> Nullable<Date>,
        period_start -> Nullable<Timestamptz>,
        period_end -> Nullable<Timestamptz>,
        subtotal -> Int8,
        discount_total -> Int8,
        net_total -> Int8,
        tax_total -> Int8,
        total -> Int8,
        amount_paid -> Int8,
        amount_credited -> Int8,
        amount_written_off -> Int8,
        paid_at -> Nullable<Timestamptz>,
        voided_at -> Nullable<Timestamptz>,
        reminders -> Int4,
        status -> Text,
    }
}

diesel::table! {
    own_payments (org_id, payment_id) {
        org_id -> Int8,
        payment_id -> Text,
        seller_id -> Text,
        processor -> Text,
        reference -> Text,
        currency -> Text,
        amount -> Int8,
        fee -> Nullable<Int8>,
        method -> Nullable<Text>,
        card_brand -> Nullable<Text>,
        card_last4 -> Nullable<Text>,
        payment_account_id -> Nullable<Text>,
        paid_at -> Timestamptz,
        created_at -> Timestamptz,
        details -> Jsonb,
        amount_refunded -> Int8,
        amount_reversed -> Int8,
    }
}

diesel::table! {
    own_refunds (org_id, refund_id) {
        org_id -> Int8,
        refund_id -> Text,
        payment_id -> Text,
        kind -> Text,
        reference -> Nullable<Text>,
        currency -> Text,
        amount -> Int8,
        reason -> Text,
        refunded_at -> Timestamptz,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    own_tax_rates (tax_rate_id) {
        tax_rate_id -> Text,
        name -> Text,
        category -> Text,
        percent -> Numeric,
        exemption_reason -> Nullable<Text>,
        exemption_code -> Nullable<Text>,
        active -> Bool,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    payment_accounts (payment_account_id) {
        payment_account_id -> Text,
        seller_id -> Text,
        currency -> Nullable<Text>,
        processor -> Nullable<Text>,
        shown -> Bool,
        details -> Jsonb,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    payment_intents (account, livemode, id) {
        account -> Text,
        livemode -> Bool,
        id -> Text,
        customer_id -> Nullable<Text>,
        invoice_id -> Nullable<Text>,
        latest_charge_id -> Nullable<Text>,
        status -> Nullable<Text>,
        amount -> Nullable<Int8>,
        amount_received -> Nullable<Int8>,
        currency -> Nullable<Text>,
        payment_method_type -> Nullable<Text>,
        failure_code -> Nullable<Text>,
        failure_message -> Nullable<Text>,
        description -> Nullable<Text>,
        canceled_at -> Nullable<Timestamptz>,
        created -> Nullable<Timestamptz>,
        metadata -> Jsonb,
    }
}

diesel::table! {
    payment_references (processor, reference) {
        processor -> Text,
        reference -> Text,
        org_id -> Int8,
        own_id -> Text,
    }
}

diesel::table! {
    payments (id, account, livemode) {
        account -> Text,
        livemode -> Bool,
        id -> Text,
        payment_intent_id -> Nullable<Text>,
        charge_id -> Nullable<Text>,
        invoice_payment_id -> Nullable<Text>,
        invoice_id -> Nullable<Text>,
        customer_id -> Nullable<Text>,
        status -> Nullable<Text>,
        amount -> Nullable<Int8>,
        amount_received -> Int8,
        amount_refunded -> Int8,
        currency -> Nullable<Text>,
        payment_method_type -> Nullable<Text>,
        failure_code -> Nullable<Text>,
        failure_message -> Nullable<Text>,
        disputed -> Bool,
        created -> Nullable<Timestamptz>,
        paid_at -> Nullable<Timestamptz>,
        description -> Nullable<Text>,
        metadata -> Jsonb,
        outside_stripe -> Bool,
    }
}

diesel::table! {
    plan_quotas (plan_id, version, slot_id) {
        plan_id -> Text,
        slot_id -> Int4,
        limit_quantity -> Nullable<Numeric>,
        enforcement -> Text,
        refuse_usage -> Bool,
        thresholds -> Array<Nullable<Numeric>>,
        version -> Int4,
    }
}

diesel::table! {
    plan_stripe_prices (price_id) {
        price_id -> Text,
        plan_id -> Text,
    }
}

diesel::table! {
    plan_stripe_products (product_id) {
        product_id -> Text,
        plan_id -> Text,
    }
}

diesel::table! {
    plan_versions (plan_id, version) {
        plan_id -> Text,
        version -> Int4,
        created_at -> Timestamptz,
        currency -> Nullable<Text>,
        monthly_amount -> Nullable<Int8>,
        annual_amount -> Nullable<Int8>,
        trial_days -> Int4,
        features -> Jsonb,
        battery_units -> Numeric,
        annual_battery_units -> Nullable<Numeric>,
        trial_battery_units -> Nullable<Numeric>,
        daily_battery -> Numeric,
        battery_debt_limit -> Nullable<Numeric>,
        grace_days -> Int4,
        prices -> Jsonb,
    }
}

diesel::table! {
    plans (plan_id) {
        plan_id -> Text,
        name -> Text,
        description -> Nullable<Text>,
        active -> Bool,
        metadata -> Jsonb,
        created_at -> Timestamptz,
        rank -> Int4,
        is_default -> Bool,
        for_org -> Nullable<Text>,
    }
}

diesel::table! {
    prices (id, account, livemode) {
        account -> Text,
        livemode -> Bool,
        id -> Text,
        product_id -> Nullable<Text>,
        active -> Nullable<Bool>,
        #[sql_name = "type"]
        type_ -> Nullable<Text>,
        billing_scheme -> Nullable<Text>,
        currency -> Nullable<Text>,
        unit_amount -> Nullable<Int8>,
        unit_amount_decimal -> Nullable<Numeric>,
        recurring_interval -> Nullable<Text>,
        recurring_interval_count -> Nullable<Int4>,
        recurring_usage_type -> Nullable<Text>,
        tiers_mode -> Nullable<Text>,
        tax_behavior -> Nullable<Text>,
        lookup_key -> Nullable<Text>,
        nickname -> Nullable<Text>,
        created -> Nullable<Timestamptz>,
        deleted -> Bool,
        metadata -> Jsonb,
        stripe_meter_id -> Nullable<Text>,
        transform_divide_by -> Nullable<Int8>,
    }
}

diesel::table! {
    products (id, account, livemode) {
        account -> Text,
        livemode -> Bool,
        id -> Text,
        name -> Nullable<Text>,
        description -> Nullable<Text>,
        active -> Nullable<Bool>,
        unit_label -> Nullable<Text>,
        tax_code -> Nullable<Text>,
        default_price_id -> Nullable<Text>,
        created -> Nullable<Timestamptz>,
        deleted -> Bool,
        metadata -> Jsonb,
    }
}

diesel::table! {
    promotion_codes (account, livemode, id) {
        account -> Text,
        livemode -> Bool,
        id -> Text,
        code -> Nullable<Text>,
        coupon_id -> Nullable<Text>,
        customer_id -> Nullable<Text>,
        active -> Nullable<Bool>,
        max_redemptions -> Nullable<Int8>,
        times_redeemed -> Nullable<Int8>,
        expires_at -> Nullable<Timestamptz>,
        created -> Nullable<Timestamptz>,
        metadata -> Jsonb,
    }
}

diesel::table! {
    quota_counters (org_id, slot_id, subject, period, began) {
        org_id -> Int8,
        slot_id -> Int4,
        subject -> Text,
        period -> Date,
        used -> Numeric,
        reserved -> Numeric,
        began -> Timestamptz,
    }
}

diesel::table! {
    quota_exemptions (org_id, exemption_id) {
        org_id -> Int8,
        exemption_id -> Text,
        slot_id -> Int4,
        subject -> Text,
        reason -> Text,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    quota_reservations (org_id, reservation_id) {
        org_id -> Int8,
        reservation_id -> Text,
        meter_id -> Int4,
        amount -> Numeric,
        dimensions -> Jsonb,
        subject -> Nullable<Text>,
        member -> Nullable<Text>,
        held -> Jsonb,
        state -> Text,
        made_at -> Timestamptz,
        expires_at -> Timestamptz,
        ended_at -> Nullable<Timestamptz>,
        settled_quantity -> Nullable<Numeric>,
        battery_units -> Numeric,
        overage -> Nullable<Numeric>,
        debt -> Nullable<Numeric>,
    }
}

diesel::table! {
    quota_slot_orgs (slot_id, org_id) {
        slot_id -> Int4,
        org_id -> Int8,
    }
}

diesel::table! {
    quota_slots (slot_id) {
        slot_id -> Int4,
        meter_id -> Int4,
        filter -> Jsonb,
        per_subject -> Bool,
        period -> Text,
        everywhere -> Bool,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    quotas (org_id, quota_id) {
        org_id -> Int8,
        quota_id -> Text,
        slot_id -> Int4,
        limit_quantity -> Nullable<Numeric>,
        enforcement -> Text,
        refuse_usage -> Bool,
        thresholds -> Array<Nullable<Numeric>>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    rate_cards (rate_card_id) {
        rate_card_id -> Int4,
        meter_id -> Int4,
        version -> Int4,
        valid_from -> Timestamptz,
        currency -> Text,
        rates -> Jsonb,
        created_at -> Timestamptz,
        plan_id -> Nullable<Text>,
        org_id -> Int8,
        period -> Text,
        price_by -> Nullable<Text>,
    }
}

diesel::table! {
    rating_counters (org_id, meter_id, rate_card_id, rate, period, began) {
        org_id -> Int8,
        meter_id -> Int4,
        rate_card_id -> Int4,
        rate -> Int2,
        period -> Date,
        quantity -> Numeric,
        began -> Timestamptz,
    }
}

diesel::table! {
    refunds (id, account, livemode) {
        account -> Text,
        livemode -> Bool,
        id -> Text,
        source -> Text,
        charge_id -> Nullable<Text>,
        payment_intent_id -> Nullable<Text>,
        amount -> Nullable<Int8>,
        currency -> Nullable<Text>,
        status -> Nullable<Text>,
        reason -> Nullable<Text>,
        failure_reason -> Nullable<Text>,
        created -> Nullable<Timestamptz>,
        metadata -> Jsonb,
    }
}

diesel::table! {
    sellers (seller_id) {
        seller_id -> Text,
        party -> Jsonb,
        settings -> Jsonb,
        is_default -> Bool,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    stripe_accounts (account, livemode) {
        account -> Text,
        livemode -> Bool,
        stripe_id -> Nullable<Text>,
        effects_since -> Timestamptz,
        grant_running -> Bool,
        first_called_at -> Timestamptz,
        pulled_until -> Nullable<Int8>,
        pulled_at -> Nullable<Timestamptz>,
        compared_on -> Nullable<Date>,
        failing_since -> Nullable<Timestamptz>,
        last_error -> Nullable<Text>,
        forbidden -> Array<Nullable<Text>>,
        holder -> Nullable<Text>,
        holder_pid -> Nullable<Int4>,
        holder_started -> Nullable<Int8>,
        held_until -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    stripe_arrivals (arrival_id) {
        arrival_id -> Int8,
        deliveries -> Int4,
        received_at -> Array<Nullable<Timestamptz>>,
        signatures -> Array<Nullable<Text>>,
        user_agents -> Array<Nullable<Text>>,
        bodies -> Array<Nullable<Bytea>>,
        attempts -> Int2,
        next_attempt_at -> Nullable<Timestamptz>,
        last_error -> Nullable<Text>,
    }
}

diesel::table! {
    stripe_charges (org_id, charge_id) {
        org_id -> Int8,
        charge_id -> Text,
        meter_id -> Int4,
        way -> Text,
        account -> Text,
        livemode -> Bool,
        stripe_meter_id -> Text,
        customer_id -> Nullable<Text>,
        period_start -> Timestamptz,
        period_end -> Timestamptz,
        rate_card_id -> Int4,
        rate_place -> Int4,
        currency -> Text,
        part -> Int4,
        quantity -> Numeric,
        moved -> Numeric,
        carried -> Numeric,
        delivered -> Numeric,
        sending -> Nullable<Numeric>,
        sequence -> Int4,
        cost -> Nullable<Numeric>,
        amount -> Nullable<Int8>,
        invoice_id -> Nullable<Text>,
        item_id -> Nullable<Text>,
        identifier -> Nullable<Text>,
        state -> Text,
        reason -> Nullable<Text>,
        detail -> Nullable<Text>,
        planned_at -> Timestamptz,
        tried_at -> Nullable<Timestamptz>,
        sent_at -> Nullable<Timestamptz>,
        confirmed_at -> Nullable<Timestamptz>,
        attempts -> Int2,
        next_attempt_at -> Timestamptz,
        discarded -> Numeric,
        sent_values -> Jsonb,
    }
}

diesel::table! {
    stripe_charging (account, livemode) {
        account -> Text,
        livemode -> Bool,
        holder -> Nullable<Text>,
        holder_pid -> Nullable<Int4>,
        holder_started -> Nullable<Int8>,
        held_until -> Nullable<Timestamptz>,
        compared_on -> Nullable<Date>,
        failing_since -> Nullable<Timestamptz>,
        last_error -> Nullable<Text>,
    }
}

diesel::table! {
    stripe_customer_links (account, livemode, customer_id) {
        account -> Text,
        livemode -> Bool,
        customer_id -> Text,
        api_ref -> Nullable<Text>,
        metadata_ref -> Nullable<Text>,
        session_ref -> Nullable<Text>,
        session_key -> Nullable<Text>,
        own_ref -> Nullable<Text>,
        trusted -> Bool,
        #[sql_name = "ref"]
        ref_ -> Nullable<Text>,
        idle_ref -> Nullable<Text>,
    }
}

diesel::table! {
    stripe_drift (drift_id) {
        drift_id -> Int8,
        account -> Text,
        livemode -> Bool,
        kind -> Text,
        object -> Text,
        object_id -> Text,
        fields -> Array<Nullable<Text>>,
        ours -> Nullable<Text>,
        theirs -> Nullable<Text>,
        detail -> Text,
        inbox_id -> Nullable<Int8>,
        run_id -> Nullable<Int8>,
        found_at -> Timestamptz,
    }
}

diesel::table! {
    stripe_freezes (account, livemode, object, object_id) {
        account -> Text,
        livemode -> Bool,
        object -> Text,
        object_id -> Text,
        org_id -> Nullable<Int8>,
        invoice_id -> Nullable<Text>,
        state -> Text,
        reason -> Nullable<Text>,
        frozen_at -> Nullable<Timestamptz>,
        attempts -> Int2,
        next_attempt_at -> Timestamptz,
    }
}

diesel::table! {
    stripe_inbox (inbox_id) {
        inbox_id -> Int8,
        account -> Text,
        livemode -> Bool,
        event_id -> Text,
        event_type -> Text,
        api_version -> Nullable<Text>,
        created -> Int8,
        object -> Nullable<Text>,
        object_id -> Nullable<Text>,
        thin -> Bool,
        twin_event_id -> Nullable<Text>,
        signature -> Text,
        user_agent -> Nullable<Text>,
        received_at -> Timestamptz,
        body -> Bytea,
        origin -> Text,
        body_of -> Nullable<Int8>,
    }
}

diesel::table! {
    stripe_inbox_erased (inbox_id) {
        inbox_id -> Int8,
        org_id -> Int8,
        erased_at -> Timestamptz,
        body_sha256 -> Bytea,
    }
}

diesel::table! {
    stripe_inbox_queue (inbox_id) {
        inbox_id -> Int8,
        attempts -> Int2,
        next_attempt_at -> Nullable<Timestamptz>,
        last_error -> Nullable<Text>,
        quarantined_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    stripe_inbox_redeliveries (inbox_id, redelivery_id) {
        inbox_id -> Int8,
        redelivery_id -> Int8,
        received_at -> Timestamptz,
    }
}

diesel::table! {
    stripe_meter_reports (account, livemode, event_id) {
        account -> Text,
        livemode -> Bool,
        event_id -> Text,
        attempts -> Int2,
        next_attempt_at -> Timestamptz,
        errors -> Nullable<Int4>,
        failed -> Nullable<Int4>,
        done_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    stripe_meters (way_id) {
        meter_id -> Int4,
        way -> Text,
        account -> Text,
        stripe_meter_id -> Nullable<Text>,
        event_name -> Nullable<Text>,
        time_window -> Nullable<Text>,
        value_key -> Nullable<Text>,
        customer_key -> Nullable<Text>,
        since -> Timestamptz,
        set_by -> Text,
        set_at -> Timestamptz,
        scanned_until -> Nullable<Timestamptz>,
        way_id -> Int4,
        until -> Nullable<Timestamptz>,
        discarded -> Bool,
    }
}

diesel::table! {
    stripe_objects (account, livemode, object, object_id) {
        account -> Text,
        livemode -> Bool,
        object -> Text,
        object_id -> Text,
        inbox_id -> Nullable<Int8>,
        standing -> Int2,
        created -> Int8,
        ambiguous -> Bool,
        deleted -> Bool,
    }
}

diesel::table! {
    stripe_sync_runs (run_id) {
        run_id -> Int8,
        account -> Text,
        livemode -> Bool,
        kind -> Text,
        state -> Text,
        requested_by -> Text,
        requested_at -> Timestamptz,
        began_at -> Nullable<Timestamptz>,
        stripe_began -> Nullable<Int8>,
        ended_at -> Nullable<Timestamptz>,
        error -> Nullable<Text>,
    }
}

diesel::table! {
    stripe_sync_steps (run_id, step) {
        run_id -> Int8,
        step -> Int4,
        object -> Text,
        what -> Text,
        cursor -> Jsonb,
        state -> Text,
        found -> Int8,
        same -> Int8,
        new -> Int8,
        changed -> Int8,
        requests -> Int8,
    }
}

diesel::table! {
    stripe_trust (one) {
        one -> Bool,
        livemode -> Bool,
        accounts -> Array<Nullable<Text>>,
        since -> Timestamptz,
    }
}

diesel::table! {
    stripe_wanted (account, livemode, object, object_id) {
        account -> Text,
        livemode -> Bool,
        object -> Text,
        object_id -> Text,
        reason -> Text,
        path -> Nullable<Text>,
        wanted_at -> Timestamptz,
        next_attempt_at -> Timestamptz,
        attempts -> Int2,
        last_error -> Nullable<Text>,
        done_at -> Nullable<Timestamptz>,
        observed -> Nullable<Int8>,
    }
}

diesel::table! {
    subscription_items (account, livemode, subscription_id, item_number) {
        account -> Text,
        livemode -> Bool,
        subscription_id -> Text,
        item_number -> Int4,
        id -> Nullable<Text>,
        price_id -> Nullable<Text>,
        product_id -> Nullable<Text>,
        quantity -> Nullable<Int8>,
        current_period_start -> Nullable<Timestamptz>,
        current_period_end -> Nullable<Timestamptz>,
        created -> Nullable<Timestamptz>,
        metadata -> Jsonb,
        usage_type -> Nullable<Text>,
        stripe_meter_id -> Nullable<Text>,
    }
}

diesel::table! {
    subscription_moves (account, livemode, subscription_id, plan_id) {
        account -> Text,
        livemode -> Bool,
        subscription_id -> Text,
        plan_id -> Text,
        version -> Int4,
        moved_at -> Timestamptz,
    }
}

diesel::table! {
    subscription_periods (account, livemode, subscription_id, price_id, period_start) {
        account -> Text,
        livemode -> Bool,
        subscription_id -> Text,
        price_id -> Text,
        period_start -> Timestamptz,
        period_end -> Timestamptz,
        product_id -> Nullable<Text>,
        item_number -> Int4,
        first_seen -> Timestamptz,
        last_seen -> Timestamptz,
        estimated -> Bool,
        shown_at -> Timestamptz,
    }
}

diesel::table! {
    subscription_prices (account, livemode, subscription_id, price_id) {
        account -> Text,
        livemode -> Bool,
        subscription_id -> Text,
        price_id -> Text,
        since -> Timestamptz,
        estimated -> Bool,
    }
}

diesel::table! {
    subscriptions (id, account, livemode) {
        account -> Text,
        livemode -> Bool,
        id -> Text,
        customer_id -> Nullable<Text>,
        status -> Nullable<Text>,
        currency -> Nullable<Text>,
        collection_method -> Nullable<Text>,
        current_period_start -> Nullable<Timestamptz>,
        current_period_end -> Nullable<Timestamptz>,
        cancel_at -> Nullable<Timestamptz>,
        cancel_at_period_end -> Nullable<Bool>,
        canceled_at -> Nullable<Timestamptz>,
        ended_at -> Nullable<Timestamptz>,
        trial_start -> Nullable<Timestamptz>,
        trial_end -> Nullable<Timestamptz>,
        start_date -> Nullable<Timestamptz>,
        billing_cycle_anchor -> Nullable<Timestamptz>,
        latest_invoice_id -> Nullable<Text>,
        schedule_id -> Nullable<Text>,
        default_payment_method_id -> Nullable<Text>,
        pause_collection -> Nullable<Text>,
        pause_resumes_at -> Nullable<Timestamptz>,
        description -> Nullable<Text>,
        items_complete -> Bool,
        created -> Nullable<Timestamptz>,
        metadata -> Jsonb,
    }
}

diesel::table! {
    tax_rates (account, livemode, id) {
        account -> Text,
        livemode -> Bool,
        id -> Text,
        display_name -> Nullable<Text>,
        description -> Nullable<Text>,
        percentage -> Nullable<Numeric>,
        inclusive -> Nullable<Bool>,
        active -> Nullable<Bool>,
        country -> Nullable<Text>,
        state -> Nullable<Text>,
        jurisdiction -> Nullable<Text>,
        tax_type -> Nullable<Text>,
        created -> Nullable<Timestamptz>,
        metadata -> Jsonb,
    }
}

diesel::table! {
    unpriced_usage (org_id, series_id) {
        org_id -> Int8,
        series_id -> Int8,
        events -> Int8,
        quantity -> Numeric,
        first_seen -> Nullable<Timestamptz>,
        last_seen -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    usage_closings (org_id, month) {
        org_id -> Int8,
        month -> Date,
        closed_at -> Timestamptz,
        actor -> Text,
    }
}

diesel::table! {
    usage_corrections (org_id, event_key, correction) {
        org_id -> Int8,
        event_key -> Uuid,
        correction -> Int2,
        at -> Timestamptz,
        actor -> Text,
        reason -> Text,
    }
}

diesel::table! {
    usage_keys (org_id, event_key) {
        org_id -> Int8,
        event_key -> Uuid,
        occurred_at -> Timestamptz,
        content -> Int8,
    }
}

diesel::table! {
    usage_levels (org_id, series_id, subject) {
        org_id -> Int8,
        series_id -> Int8,
        subject -> Text,
        set_at -> Nullable<Timestamptz>,
        set_value -> Numeric,
        changes -> Numeric,
        changed_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    usage_months_gone (month) {
        month -> Date,
        mode -> Text,
        records -> Int8,
        last_day -> Nullable<Date>,
        gone_at -> Timestamptz,
    }
}

diesel::table! {
    usage_records (org_id, occurred_at, event_key, meter_id, correction) {
        org_id -> Int8,
        series_id -> Int8,
        occurred_at -> Timestamptz,
        received_at -> Timestamptz,
        event_key -> Uuid,
        meter_id -> Int4,
        rate_card_id -> Nullable<Int4>,
        day -> Date,
        billing_period -> Nullable<Date>,
        correction -> Int2,
        quantity -> Numeric,
        cost -> Numeric,
        battery_units -> Numeric,
        event_id -> Text,
        source -> Text,
        subject -> Nullable<Text>,
        value -> Nullable<Text>,
        moved -> Bool,
        battery_batch -> Nullable<Int8>,
        own_day -> Nullable<Date>,
        pricing -> Int2,
        billing_start -> Nullable<Timestamptz>,
        labels -> Nullable<Jsonb>,
    }
}

diesel::table! {
    usage_series (org_id, series_id) {
        org_id -> Int8,
        series_id -> Int8,
        meter_id -> Int4,
        member -> Nullable<Text>,
        dimensions -> Jsonb,
        currency -> Nullable<Text>,
    }
}

diesel::table! {
    usage_uniques (org_id, series_id, day, value_digest) {
        org_id -> Int8,
        series_id -> Int8,
        day -> Date,
        value_digest -> Uuid,
    }
}

diesel::allow_tables_to_appear_in_same_query!(
    account_allocations,
    account_entries,
    accounts,
    api_keys,
    audit_log,
    battery_accounts,
    battery_effects,
    battery_effects_ignored,
    battery_effects_queue,
    battery_effects_skipped,
    battery_effects_waiting,
    battery_entries,
    battery_grants,
    battery_pack_payment_links,
    battery_pack_stripe_prices,
    battery_packs,
    battery_returns,
    battery_settings,
    billing_profiles,
    catalog,
    charges,
    checkout_line_items,
    checkout_sessions,
    coupons,
    credit_note_lines,
    credit_notes,
    customer_tax_ids,
    customers,
    daily_summaries,
    debtor_numbers,
    discounts,
    disputes,
    document_numbers,
    idempotency_keys,
    imported_keys,
    invoice_items,
    invoice_lines,
    invoice_payments,
    invoiced_periods,
    invoices,
    issued_numbers,
    local_subscriptions,
    message_attempts,
    message_counter,
    message_deliveries,
    message_endpoints,
    message_lanes,
    message_secrets,
    meter_versions,
    meters,
    month_manifests,
    org_coupons,
    org_erasures,
    org_refs,
    orgs,
    outbox_messages,
    own_coupons,
    own_credit_note_lines,
    own_credit_notes,
    own_documents,
    own_invoice_lines,
    own_invoices,
    own_payments,
    own_refunds,
    own_tax_rates,
    payment_accounts,
    payment_intents,
    payment_references,
    payments,
    plan_quotas,
    plan_stripe_prices,
    plan_stripe_products,
    plan_versions,
    plans,
    prices,
    products,
    promotion_codes,
    quota_counters,
    quota_exemptions,
    quota_reservations,
    quota_slot_orgs,
    quota_slots,
    quotas,
    rate_cards,
    rating_counters,
    refunds,
    sellers,
    stripe_accounts,
    stripe_arrivals,
    stripe_charges,
    stripe_charging,
    stripe_customer_links,
    stripe_drift,
    stripe_freezes,
    stripe_inbox,
    stripe_inbox_erased,
    stripe_inbox_queue,
    stripe_inbox_redeliveries,
    stripe_meter_reports,
    stripe_meters,
    stripe_objects,
    stripe_sync_runs,
    stripe_sync_steps,
    stripe_trust,
    stripe_wanted,
    subscription_items,
    subscription_moves,
    subscription_periods,
    subscription_prices,
    subscriptions,
    tax_rates,
    unpriced_usage,
    usage_closings,
    usage_corrections,
    usage_keys,
    usage_levels,
    usage_months_gone,
    usage_records,
    usage_series,
    usage_uniques,
);
