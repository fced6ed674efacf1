//! The kinds of objects that a walk through an account reads: where Stripe lists them, and how.
//!
//! Source: <https://docs.stripe.com/api>, the list of each kind. `created` filters all of these lists. What a
//! list leaves out by default is asked for by `variants`.

use serde_json::Value;

/// Query parameters.
pub(super) type Params = &'static [(&'static str, &'static str)];

/// A kind of object.
#[derive(Debug)]
pub(super) struct Listed {
    /// The value of the field `object`.
    pub(super) object: &'static str,
    /// Path of its list. An object is at `path/id`.
    pub(super) path: &'static str,
    /// The list is asked for with each of these.
    pub(super) variants: &'static [Params],
    /// What may still change although it is old, by the parameters that list it.
    pub(super) alive: &'static [Params],
    pub(super) inner: &'static [InnerList],
}

/// A list within an object. The object has its first entries only, or none.
#[derive(Debug)]
pub(super) struct InnerList {
    pub(super) field: &'static str,
    pub(super) place: Place,
    /// Of a list that Stripe leaves out: whether it is read of this object; `None`: Stripe never leaves it
    /// out.
    pub(super) left_out: Option<fn(&Value) -> bool>,
}

impl InnerList {
    const fn shown(field: &'static str, place: Place) -> Self {
        Self { field, place, left_out: None }
    }
}

/// Where Stripe has all entries of a list within an object.
#[derive(Debug)]
pub(super) enum Place {
    /// At this path below the object.
    Below(&'static str),
    /// At this path, with the object's id as this parameter.
    Beside(&'static str, &'static str),
}

/// The list of a customer whose entries are objects of their own.
pub(super) const TAX_IDS: &str = "tax_ids";

const PLAIN: &[Params] = &[&[]];

const fn kind(object: &'static str, path: &'static str) -> Listed {
    Listed { object, path, variants: PLAIN, alive: &[], inner: &[] }
}

/// In the order of a backfill: what others name comes first.
pub(super) const LISTED: &[Listed] = &[
    kind("product", "/v1/products"),
    // Without `active` the list has both. Inline prices are never listed.
    Listed { variants: &[&[("active", "true")], &[("active", "false")]], ..kind("price", "/v1/prices") },
    kind("coupon", "/v1/coupons"),
    kind("promotion_code", "/v1/promotion_codes"),
    kind("tax_rate", "/v1/tax_rates"),
    // A customer's tax ids have no list of their own that names them all.
    Listed {
        variants: &[&[("expand[]", "data.tax_ids")]],
        inner: &[InnerList::shown(TAX_IDS, Place::Below("tax_ids"))],
        ..kind("customer", "/v1/customers")
    },
    Listed {
        variants: &[&[("status", "all")]],
        alive: &[&[]],
        inner: &[InnerList::shown("items", Place::Beside("/v1/subscription_items", "subscription"))],
        ..kind("subscription", "/v1/subscriptions")
    },
    Listed {
        alive: &[&[("status", "draft")], &[("status", "open")]],
        inner: &[InnerList::shown("lines", Place::Below("lines"))],
        ..kind("invoice", "/v1/invoices")
    },
    kind("invoice_payment", "/v1/invoice_payments"),
    kind("payment_intent", "/v1/payment_intents"),
    kind("charge", "/v1/charges"),
    kind("refund", "/v1/refunds"),
    kind("dispute", "/v1/disputes"),
    Listed {
        inner: &[InnerList::shown("lines", Place::Below("lines"))],
        ..kind("credit_note", "/v1/credit_notes")
    },
    Listed {
        inner: &[InnerList {
            left_out: Some(is_sale),
            ..InnerList::shown("line_items", Place::Below("line_items"))
        }],
        ..kind("checkout.session", "/v1/checkout/sessions")
    },
];

/// Whether a checkout session sold something once. Neither its events nor lists have its line items
/// (<https://docs.stripe.com/checkout/fulfillment>). Those of a subscription are on its invoices.
fn is_sale(session: &Value) -> bool {
    session["mode"] == "payment" && session["status"] == "complete"
}

/// Whether no event has this list of the kind.
pub(super) fn is_left_out(object: &str, field: &str) -> bool {
    let inner = find(object).map_or(&[][..], |kind| kind.inner);
    inner.iter().any(|list| list.field == field && list.left_out.is_some())
}

/// A kind by its name.
pub(super) fn find(object: &str) -> Option<&'static Listed> {
    LISTED.iter().find(|kind| kind.object == object)
}

/// Where Stripe has an object of a kind that is not in [`LISTED`].
const OTHER_PATHS: &[(&str, &str)] = &[
    ("billing.meter", "/v1/billing/meters"),
    ("payout", "/v1/payouts"),
    ("plan", "/v1/plans"),
    ("quote", "/v1/quotes"),
    ("setup_intent", "/v1/setup_intents"),
    ("subscription_schedule", "/v1/subscription_schedules"),
    ("tax_id", "/v1/tax_ids"),
    ("topup", "/v1/topups"),
    ("transfer", "/v1/transfers"),
];

/// The path of one object; `None` if its id alone does not tell.
pub(super) fn path_of(object: &str, id: &str) -> Option<String> {
    let other = || OTHER_PATHS.iter().find(|(kind, _)| *kind == object).map(|(_, path)| *path);
    let path = find(object).map(|kind| kind.path).or_else(other)?;
    let id: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
    Some(format!("{path}/{id}"))
}
