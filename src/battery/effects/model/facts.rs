//! Facts: what the mirrors, the catalogue and earlier effects say about one source. Money is in minor units.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::Value;

/// The facts of one source.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Facts {
    /// Only where the source is an invoice.
    pub(crate) invoice: Option<Invoice>,
    /// The invoice's lines, in order.
    pub(crate) lines: Vec<Line>,
    /// The checkout session that is the source or paid it. Of several: the first that is paid.
    pub(crate) session: Option<Session>,
    /// The payment intent that is the source or belongs to its session.
    pub(crate) intent: Option<Intent>,
    /// Of a payment: an invoice owns it, and grants. Of an invoice: its payment has granted already.
    pub(crate) owned_elsewhere: bool,
    /// The org that the customer is linked to.
    pub(crate) org_id: Option<i64>,
    /// The realm does not act: the source does nothing new.
    pub(crate) is_inactive_realm: bool,
    /// The rule for money from before the account was first read; `None`: there is none.
    pub(crate) old_money: Option<OldMoney>,
    /// When the money of a payment without an invoice was taken.
    pub(crate) taken_at: Option<DateTime<Utc>>,
    pub(crate) customer_id: Option<String>,
    /// The name that the org of the source must have.
    pub(crate) org_ref: Option<String>,
    /// What the source did before.
    pub(crate) effects: Vec<LineEffect>,
    /// Its lines that wait, or were dismissed.
    pub(crate) waiting: Vec<WaitingLine>,
    /// Invoices that granted, or wait to grant, a period that begins when a period of this one does.
    pub(crate) competing_invoices: Vec<String>,
    /// Refunds, disputes and credit notes.
    #[serde(skip)]
    pub(crate) returned: Vec<ReturnedMoney>,
    /// No marker asked for it: it was read because it competes with a source that a marker asked for.
    #[serde(skip)]
    pub(crate) is_competitor: bool,
}

/// Money that Stripe took before `since` does nothing: whoever brings in years of an account does not want
/// its old payments granted.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct OldMoney {
    pub(crate) since: DateTime<Utc>,
    /// What was paid for a period that still ran at that time grants nevertheless.
    pub(crate) grant_running: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Invoice {
    pub(crate) status: Option<String>,
    pub(crate) billing_reason: Option<String>,
    pub(crate) currency: Option<String>,
    pub(crate) amount_paid: Option<i64>,
    /// After discounts and with taxes.
    pub(crate) total: Option<i64>,
    /// What credit notes took off before the payment, as the invoice says.
    pub(crate) reduced: Option<i64>,
    /// The same, as the mirrored credit notes say.
    pub(crate) reduced_by_notes: Option<i64>,
    pub(crate) created: Option<DateTime<Utc>>,
    /// When it was paid; where Stripe does not say, when it was finalized or created.
    pub(crate) paid_at: Option<DateTime<Utc>>,
    pub(crate) lines_complete: bool,
}

/// A line of an invoice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Line {
    pub(crate) id: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) amount: Option<i64>,
    pub(crate) quantity: Option<i64>,
    pub(crate) description: Option<String>,
    pub(crate) start: Option<DateTime<Utc>>,
    pub(crate) end: Option<DateTime<Utc>>,
    pub(crate) price: Option<String>,
    pub(crate) product: Option<String>,
    pub(crate) subscription: Option<String>,
    pub(crate) item: Option<String>,
    pub(crate) proration: Option<bool>,
    /// Sum of its discounts.
    pub(crate) discount: Option<i64>,
    /// `licensed` or `metered`, as the line itself says.
    pub(crate) usage_type: Option<String>,
    /// The same, as its price says.
    pub(crate) price_usage: Option<String>,
    /// The same, as the subscription's item says.
    pub(crate) item_usage: Option<String>,
    /// Whether its price costs something; `None`: the price is not mirrored.
    pub(crate) costs: Option<bool>,
    /// Another product of the same Stripe account sells it. What buys a plan or a pack is sold here anyway.
    pub(crate) ignored: bool,
    /// The plan that its price or product buys.
    pub(crate) plan: Option<Plan>,
    /// The pack that its price buys.
    pub(crate) pack: Option<Pack>,
    /// Its subscription; `None`: not mirrored yet.
    pub(crate) mirrored: Option<MirroredSubscription>,
    /// Of a proration: the whole period that it is a part of, from any invoice of the subscription, whatever
    /// became of that invoice.
    pub(crate) full_period: Option<Period>,
    /// Of a proration: the grants for what it bought whose period overlaps, the latest first.
    pub(crate) overlapping_grants: Vec<PeriodGrant>,
    /// Of a proration: the interval of its price (`month`, `year`, …) and how many of them.
    pub(crate) interval: Option<(String, i32)>,
}

/// A grant for a period `[start, end)`.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct PeriodGrant {
    /// Number of the grant in its org.
    pub(crate) number: i64,
    pub(crate) start: DateTime<Utc>,
    pub(crate) end: DateTime<Utc>,
}

/// A plan that a line buys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Plan {
    pub(crate) id: String,
    /// The price buys it; otherwise the product does.
    pub(crate) by_price: bool,
    /// Another item of the subscription buys the plan too, at a licensed price.
    pub(crate) licensed_beside: bool,
    /// The version that an operator moved the subscription to.
    pub(crate) moved: Option<i32>,
    /// Since when the subscription has the price.
    pub(crate) since: Option<DateTime<Utc>>,
    /// Oldest first.
    pub(crate) versions: Vec<Version>,
}

/// A version of a plan: units for a paid period, a paid year, a trial.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Version {
    pub(crate) version: i32,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) units: Decimal,
    pub(crate) annual: Option<Decimal>,
    pub(crate) trial: Option<Decimal>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Pack {
    /// `None`: metadata names units and no pack.
    pub(crate) id: Option<String>,
    pub(crate) units: Decimal,
    /// Days after which its grants expire.
    pub(crate) days: Option<i32>,
    pub(crate) priority: Option<i16>,
    /// What one pack costs by each known price, in the session's currency.
    #[serde(default)]
    pub(crate) prices: Option<Vec<i64>>,
    /// Whether it has a Stripe price at all, known or not.
    #[serde(default)]
    pub(crate) has_price: bool,
}

/// The trial that the mirror of a subscription shows.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct MirroredSubscription {
    pub(crate) trial_start: Option<DateTime<Utc>>,
    pub(crate) trial_end: Option<DateTime<Utc>>,
}

impl MirroredSubscription {
    /// Whether a period that begins at `start` is part of the trial.
    pub(crate) fn is_trial(&self, start: DateTime<Utc>) -> bool {
        self.trial_start.is_some_and(|from| from <= start)
            && self.trial_end.is_some_and(|until| start < until)
    }
}

/// `[start, end)`.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Period {
    pub(crate) start: DateTime<Utc>,
    pub(crate) end: DateTime<Utc>,
}

impl Period {
    /// Whether all of `part` lies in it.
    pub(crate) fn covers(&self, part: Period) -> bool {
        self.start <= part.start && part.end <= self.end
    }
}

impl Line {
    pub(crate) fn period(&self) -> Option<Period> {
        self.start.zip(self.end).map(|(start, end)| Period { start, end })
    }

    pub(crate) fn quantity_or_one(&self) -> i64 {
        self.quantity.unwrap_or(1)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Session {
    pub(crate) mode: Option<String>,
    pub(crate) payment_status: Option<String>,
    /// Before discounts and tax.
    pub(crate) amount_subtotal: Option<i64>,
    pub(crate) amount_total: Option<i64>,
    pub(crate) currency: Option<String>,
    pub(crate) payment_link: Option<String>,
    /// Another product of the same Stripe account sells by its payment link, or by the price that its
    /// metadata names.
    pub(crate) ignored: bool,
    pub(crate) named: NamedPacks,
    /// Its line items, in order; `None`: not known. Of a session with an invoice they stay unknown, as the
    /// lines of the invoice tell the same.
    pub(crate) items: Option<Vec<SoldItem>>,
}

/// A line item of a session.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SoldItem {
    pub(crate) id: Option<String>,
    pub(crate) price: Option<String>,
    pub(crate) quantity: Option<i64>,
    /// Another product of the same Stripe account sells it.
    pub(crate) ignored: bool,
    /// The pack that its price buys.
    pub(crate) pack: Option<Pack>,
}

impl Session {
    /// Whether the buyer is done, also where a discount left nothing to pay. With manual capture the session
    /// says `unpaid` for ever, and the intent tells
    /// (<https://docs.stripe.com/payments/place-a-hold-on-a-payment-method>).
    pub(crate) fn is_paid(&self) -> bool {
        matches!(self.payment_status.as_deref(), Some("paid" | "no_payment_required"))
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Intent {
    pub(crate) status: Option<String>,
    pub(crate) amount_received: Option<i64>,
    pub(crate) currency: Option<String>,
    pub(crate) named: NamedPacks,
}

impl Intent {
    /// Whether the money was captured.
    pub(crate) fn is_paid(&self) -> bool {
        self.status.as_deref() == Some("succeeded")
    }
}

/// Metadata of a payment, and the packs that it names.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NamedPacks {
    pub(crate) metadata: Value,
    /// By `battery_pack`.
    pub(crate) by_id: Option<Pack>,
    /// By `price` or `price_id`.
    pub(crate) by_price: Option<Pack>,
    /// By the payment link.
    pub(crate) by_link: Option<Pack>,
}

impl NamedPacks {
    /// Whether the metadata asks for a grant. A payment intent alone grants only then: most intents have
    /// nothing to do with batteries.
    pub(crate) fn is_opted_in(&self) -> bool {
        ["battery_pack", "battery_units"].iter().any(|key| self.metadata.get(*key).is_some())
    }
}

/// What a line did to a battery: a row of `battery_effects`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct LineEffect {
    /// Key of the line.
    pub(crate) line: String,
    pub(crate) org_id: i64,
    /// Number of the grant that it made or took from; `None`: it did nothing.
    pub(crate) grant: Option<i64>,
    /// Below zero: clawed back.
    pub(crate) units: Decimal,
    /// See [`super::EffectKind`].
    pub(crate) what: String,
    /// `[start, end)` of the time that it is for.
    #[serde(default)]
    pub(crate) start: Option<DateTime<Utc>>,
    #[serde(default)]
    pub(crate) end: Option<DateTime<Utc>>,
    /// The paid amount of the source when it was last stored.
    #[serde(default)]
    pub(crate) paid: i64,
    #[serde(default)]
    pub(crate) quantity: Option<i64>,
}

impl LineEffect {
    /// Whether it granted units.
    pub(crate) fn is_grant(&self) -> bool {
        self.units > Decimal::ZERO
    }

    /// Whether it clawed units of another grant back.
    pub(crate) fn is_clawback(&self) -> bool {
        self.units < Decimal::ZERO
    }
}

/// A line that waits or was dismissed: a row of `battery_effects_waiting`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct WaitingLine {
    /// Key of the line.
    pub(crate) line: String,
    pub(crate) since: DateTime<Utc>,
    pub(crate) dismissed: bool,
    /// Assigned by an operator, as are the pack and the quantity.
    pub(crate) org: Option<i64>,
    pub(crate) pack: Option<Pack>,
    #[serde(default)]
    pub(crate) quantity: Option<i64>,
}

/// A refund, a dispute, a credit note, or what a charge reports as refunded, as the mirror has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ReturnedMoney {
    /// `refund`, `dispute`, `credit_note` or `charge`.
    pub(crate) cause: String,
    pub(crate) id: String,
    pub(crate) created: Option<DateTime<Utc>>,
    /// Of a charge: what it reports as refunded beyond its mirrored refunds.
    pub(crate) amount: Option<i64>,
    pub(crate) status: Option<String>,
    pub(crate) currency: Option<String>,
    /// Of a dispute: withdrawn and not reinstated.
    pub(crate) funds_withdrawn: Option<i64>,
    pub(crate) funds_currency: Option<String>,
    #[serde(rename = "type")]
    pub(crate) type_: Option<String>,
    /// Of a credit note: returned outside Stripe.
    pub(crate) out_of_band: Option<i64>,
    /// Of a credit note: how many refunds it names.
    pub(crate) refunds: i64,
    /// Of a credit note: what it returned after the payment.
    pub(crate) after: Option<i64>,
    /// Of that, by refunds, as the credit note says.
    pub(crate) refunded: Option<i64>,
    /// Of a credit note: the sum of the refunds that it names and that are mirrored.
    pub(crate) known: i64,
}

/// What the buyer gave for a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PaidAmount {
    pub(crate) minor: i64,
    pub(crate) currency: Option<String>,
}

impl Facts {
    /// The org that the source belongs to: for ever the org of its first effect; before that the org that an
    /// operator assigned, else the org that the customer is linked to.
    #[must_use]
    pub(crate) fn org(&self) -> Option<i64> {
        let of_first_effect = self.effects.first().map(|effect| effect.org_id);
        let assigned = || self.waiting.iter().filter_map(|waiting| waiting.org).min();
        of_first_effect.or_else(assigned).or(self.org_id)
    }

    /// Everything that the buyer gave: by card, from the balance, by credits or outside Stripe. Of an
    /// invoice: its total less what credit notes took off before the payment. Of a payment: what was
    /// captured, else what was asked.
    #[must_use]
    pub(crate) fn paid(&self) -> PaidAmount {
        if let Some(invoice) = &self.invoice {
            let minor = match invoice.total {
                Some(total) => total.saturating_sub(invoice.reduced_before_payment()),
                None => invoice.amount_paid.unwrap_or(0),
            };
            return PaidAmount { minor: minor.max(0), currency: invoice.currency.clone() };
        }
        let (session, intent) = (self.session.as_ref(), self.intent.as_ref());
        let captured = intent.filter(|intent| intent.is_paid()).and_then(|intent| intent.amount_received);
        let asked = session.and_then(|session| session.amount_total);
        let currency = session
            .and_then(|session| session.currency.clone())
            .or(intent.and_then(|intent| intent.currency.clone()));
        PaidAmount { minor: captured.or(asked).unwrap_or(0), currency }
    }

    /// Whether nothing of the sale is left: the invoice was voided after it was paid, or credit notes took
    /// off all of it before.
    #[must_use]
    pub(crate) fn is_reversed(&self) -> bool {
        self.invoice.as_ref().is_some_and(|invoice| {
            let is_emptied =
                invoice.total.is_some_and(|total| total > 0 && invoice.reduced_before_payment() >= total);
            is_emptied || invoice.status.as_deref() != Some("paid")
        })
    }
}

impl Invoice {
    /// What credit notes took off before the payment. The invoice may be older than the notes, or the notes
    /// may be missing: the larger number is the complete one.
    fn reduced_before_payment(&self) -> i64 {
        self.reduced.unwrap_or(0).max(self.reduced_by_notes.unwrap_or(0)).max(0)
    }
}
