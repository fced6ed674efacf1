//! The kinds of objects: how Stripe names them, where it lists them and by what it filters.

/// A kind of object.
#[derive(Debug)]
pub struct Kind {
    /// The value of the field `object`.
    pub object: &'static str,
    /// The path below `/v1/`.
    pub path: &'static str,
    /// The beginning of its ids, without the underscore.
    pub prefix: &'static str,
    /// The parameters of its list that must equal a field, beside the cursor and `created`.
    pub filters: &'static [&'static str],
    /// Its list takes `created`.
    pub by_time: bool,
    /// The permission of a restricted key that reads it.
    pub permission: &'static str,
}

macro_rules! kinds {
    ($($object:literal $path:literal $prefix:literal $permission:literal $by_time:literal
        $filters:expr;)*) => {
        /// Every kind, except events.
        pub static KINDS: &[Kind] = &[$(Kind {
            object: $object, path: $path, prefix: $prefix, permission: $permission, by_time: $by_time,
            filters: &$filters,
        }),*];
    };
}

kinds! {
    "product" "products" "prod" "product" true ["active", "url", "shippable", "ids"];
    "price" "prices" "price" "plan" true ["active", "currency", "product", "type", "lookup_keys"];
    "plan" "plans" "plan" "plan" true ["active", "product"];
    "coupon" "coupons" "co" "coupon" true [];
    "promotion_code" "promotion_codes" "promo" "promotion_code" true ["active", "code", "coupon", "customer"];
    "tax_rate" "tax_rates" "txr" "tax_rate" true ["active", "inclusive"];
    "customer" "customers" "cus" "customer" true ["email", "test_clock"];
    "tax_id" "tax_ids" "txi" "customer" false ["customer"];
    "subscription" "subscriptions" "sub" "subscription" true
        ["customer", "price", "status", "test_clock", "collection_method"];
    "subscription_schedule" "subscription_schedules" "sub_sched" "subscription" true ["customer"];
    "invoice" "invoices" "in" "invoice" true ["customer", "subscription", "status", "collection_method"];
    "invoice_payment" "invoice_payments" "inpay" "invoice" true ["invoice", "status", "payment"];
    "invoiceitem" "invoiceitems" "ii" "invoice" true ["customer", "invoice", "pending"];
    "payment_intent" "payment_intents" "pi" "payment_intent" true ["customer"];
    "setup_intent" "setup_intents" "seti" "setup_intent" true ["customer", "payment_method"];
    "payment_method" "payment_methods" "pm" "payment_method" false ["customer", "type"];
    "charge" "charges" "ch" "charge" true ["customer", "payment_intent", "transfer_group"];
    "refund" "refunds" "re" "charge" true ["charge", "payment_intent"];
    "dispute" "disputes" "dp" "dispute" true ["charge", "payment_intent"];
    "credit_note" "credit_notes" "cn" "credit_note" true ["customer", "invoice"];
    "checkout.session" "checkout/sessions" "cs" "checkout_session" true
        ["customer", "payment_intent", "subscription", "status", "payment_link"];
    "billing.meter" "billing/meters" "mtr" "billing_meter" false ["status"];
    "billing.credit_grant" "billing/credit_grants" "credgr" "billing_credit_grant" false ["customer"];
    "test_helpers.test_clock" "test_helpers/test_clocks" "clock" "test_clock" false [];
    "quote" "quotes" "qt" "quote" false ["customer", "status", "test_clock"];
    "radar.early_fraud_warning" "radar/early_fraud_warnings" "issfr" "radar" true
        ["charge", "payment_intent"];
    "entitlements.feature" "entitlements/features" "feat" "entitlements" false ["lookup_key"];
    "account" "accounts" "acct" "connected_account" true [];
}

impl Kind {
    /// The kind whose field `object` has this value.
    pub fn named(object: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.object == object)
    }

    /// The kind that Stripe lists at this path below `/v1/`.
    pub fn at_path(path: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.path == path)
    }

    /// The kind of this id. The longest prefix decides: `sub_sched_1` is no subscription.
    pub fn of_id(id: &str) -> Option<&'static Self> {
        let fits = |kind: &&Self| id.strip_prefix(kind.prefix).is_some_and(|rest| rest.starts_with('_'));
        KINDS.iter().filter(fits).max_by_key(|kind| kind.prefix.len())
    }

    /// The beginning of the types of its events.
    pub fn event_prefix(&self) -> &'static str {
        match self.object {
            "subscription" => "customer.subscription",
            "tax_id" => "customer.tax_id",
            "dispute" => "charge.dispute",
            other => other,
        }
    }
}
