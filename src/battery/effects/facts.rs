//! What is known of an economic source: its lines, payments, earlier effects and returns.

mod read;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::Value;

use super::returns::Cause;

pub(super) use self::read::load;

/// Of one source.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The invoice, where the source is one.
    pub invoice: Option<Invoice>,
    /// Its lines in order.
    pub lines: Vec<Line>,
    /// The checkout session that it was paid in, or that is the source: of several the first that is paid.
    pub session: Option<Session>,
    /// The payment intent, where the source is one or its session has one.
    pub intent: Option<Intent>,
    /// An invoice owns the payment, or (of an invoice) the payment has granted already.
    pub owned_elsewhere: bool,
    /// The org that its customer is linked to.
    pub org_id: Option<i64>,
    /// Its realm does not act: nothing comes of it but of what came before.
    pub idle: bool,
    pub customer_id: Option<String>,
    /// The name under which its org is looked for.
    pub org_ref: Option<String>,
    /// What it came to before.
    pub claims: Vec<LineUnits>,
    /// What is known of its lines that wait.
    pub waiting: Vec<Waiting>,
    /// Invoices that granted, or would have granted, what begins when a period of one of its lines does.
    pub others: Vec<String>,
    /// It is read for the sake of another one alone.
    #[serde(skip)]
    pub beside: bool,
    #[serde(skip)]
    pub returned: Vec<Cause>,
}

/// An invoice. Money is in minor units.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Invoice {
    pub status: Option<String>,
    pub billing_reason: Option<String>,
    pub currency: Option<String>,
    pub amount_paid: Option<i64>,
    /// What was asked, after discounts and with taxes.
    pub total: Option<i64>,
    /// What credit notes took off before it was paid, as it says itself.
    pub reduced: Option<i64>,
    /// The same as those credit notes say that are known.
    pub notes: Option<i64>,
    pub created: Option<DateTime<Utc>>,
    /// When it was paid, as far as known.
    pub paid_at: Option<DateTime<Utc>>,
    pub lines_complete: bool,
}

/// A line of an invoice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Line {
    pub id: Option<String>,
    pub kind: Option<String>,
    pub amount: Option<i64>,
    pub quantity: Option<i64>,
    pub description: Option<String>,
    pub start: Option<DateTime<Utc>>,
    pub end: Option<DateTime<Utc>>,
    pub price: Option<String>,
    pub product: Option<String>,
    pub subscription: Option<String>,
    pub item: Option<String>,
    pub proration: Option<bool>,
    /// Sum of its discounts.
    pub discount: Option<i64>,
    /// `licensed` or `metered`: as the line itself says, as the price does, as the item of the subscription
    /// does.
    pub usage_type: Option<String>,
    pub price_usage: Option<String>,
    pub item_usage: Option<String>,
    /// Whether one of its price costs something; none where no one has told.
    pub costs: Option<bool>,
    /// Another product of the same Stripe account sells it, unless its price buys something here.
    pub ignored: bool,
    /// The plan that its price or product buys.
    pub plan: Option<Plan>,
    /// The pack that its price buys.
    pub pack: Option<Pack>,
    /// What the mirror says of its subscription.
    pub mirrored: Option<Mirrored>,
    /// Of a proration: the whole period that it is a part of, whatever became of the invoice that asked for
    /// it.
    pub full: Option<Period>,
    /// Of a proration: the grants that hold units of what it bought and of its time, the latest first.
    pub holders: Vec<Holder>,
    /// Of a proration: the interval of its price, `month`, `year`, … and how many of them.
    pub interval: Option<(String, i32)>,
}

/// A grant that holds units of a time.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Holder {
    pub number: i64,
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
}

/// A plan as a subscription may have it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Plan {
    pub id: String,
    /// It is the price that buys it, not the product.
    pub by_price: bool,
    /// An item of the subscription with a licensed price buys it.
    pub licensed_beside: bool,
    /// The version that an operator has moved the subscription to.
    pub moved: Option<i32>,
    /// Since when the subscription has had the price.
    pub since: Option<DateTime<Utc>>,
    /// Oldest first.
    pub versions: Vec<Version>,
}

/// A version of a plan.
#[derive(Clone, Debug, Deserialize)]
pub struct Version {
    pub version: i32,
    pub created_at: DateTime<Utc>,
    pub units: Decimal,
    pub annual: Option<Decimal>,
    pub trial: Option<Decimal>,
}

/// A pack.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Pack {
    /// None: units that are named without a pack.
    pub id: Option<String>,
    pub units: Decimal,
    pub days: Option<i32>,
    pub priority: Option<i16>,
    /// What one costs, in minor units of the session's currency, by each of its prices that is known.
    #[serde(default)]
    pub prices: Option<Vec<i64>>,
    /// Whether it has prices at all, known or not.
    #[serde(default)]
    pub has_price: bool,
}

/// The trial of a subscription.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Mirrored {
    pub trial_start: Option<DateTime<Utc>>,
    pub trial_end: Option<DateTime<Utc>>,
}

impl Mirrored {
    /// Whether a period that begins then is one of its trial.
    pub(super) fn is_trial(&self, start: DateTime<Utc>) -> bool {
        self.trial_start.is_some_and(|from| from <= start)
            && self.trial_end.is_some_and(|until| start < until)
    }
}

/// `[start, end)`.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Period {
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
}

/// A checkout session.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Session {
    pub mode: Option<String>,
    pub payment_status: Option<String>,
    /// Before discounts and tax.
    pub amount_subtotal: Option<i64>,
    pub amount_total: Option<i64>,
    pub currency: Option<String>,
    pub payment_link: Option<String>,
    /// Another product of the same Stripe account sells by its payment link, or by the price that its
    /// metadata names.
    pub ignored: bool,
    pub named: Named,
}

/// A payment intent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Intent {
    pub status: Option<String>,
    pub amount_received: Option<i64>,
    pub currency: Option<String>,
    pub named: Named,
}

impl Intent {
    /// Whether the money was taken.
    pub(super) fn is_paid(&self) -> bool {
        self.status.as_deref() == Some("succeeded")
    }
}

/// What metadata names, and the packs that are found by that.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Named {
    pub metadata: Value,
    /// By `battery_pack`.
    pub pack: Option<Pack>,
    /// By `price` or `price_id`.
    pub priced: Option<Pack>,
    /// By the payment link.
    pub linked: Option<Pack>,
}

/// What a line came to.
#[derive(Clone, Debug, Deserialize)]
pub struct LineUnits {
    pub line: String,
    pub org_id: i64,
    pub grant: Option<i64>,
    pub units: Decimal,
    pub what: String,
    /// The time that it is for.
    #[serde(default)]
    pub start: Option<DateTime<Utc>>,
    #[serde(default)]
    pub end: Option<DateTime<Utc>>,
    /// What the source was settled with when that was last counted.
    #[serde(default)]
    pub paid: i64,
    #[serde(default)]
    pub quantity: Option<i64>,
}

/// A line that waits.
#[derive(Clone, Debug, Deserialize)]
pub struct Waiting {
    pub line: String,
    pub since: DateTime<Utc>,
    pub dismissed: bool,
    pub org: Option<i64>,
    pub pack: Option<Pack>,
    #[serde(default)]
    pub quantity: Option<i64>,
}
