//! The catalogue of kinds: what each message means, with an example of its data.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A kind of message.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its name: parts separated by full stops.
    pub name: &'static str,
    /// When it is written: one sentence or two.
    pub meaning: &'static str,
    /// An example of `data`, as JSON.
    pub example: &'static str,
    /// What endpoints with `with_object` get as `data.object`; `None`: nothing.
    pub object: Option<&'static str>,
}

/// A kind as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct KindView {
    /// Its name, which `kinds` of an endpoint may list.
    pub r#type: &'static str,
    /// When it is written.
    pub meaning: &'static str,
    /// What endpoints with `with_object` get as `data.object`; null: nothing.
    pub object: Option<&'static str>,
    /// An example of `data`.
    #[schema(value_type = Object)]
    pub example: Value,
}

/// Every kind, by name.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "battery.clawed_back",
        meaning: "Units were taken back because money went back, by a refund or a dispute.",
        example: r#"{"entry": 17, "amount": "500", "balance": "500", "source": "refund", "grant":
            "grt_019ac3e2a7f07d4cb2a7c1d2e3f40516", "link": {"object": "refund", "id": "re_1Abc"}}"#,
        object: Some("the grant"),
    },
    Kind {
        name: "battery.granted",
        meaning: "A battery got units: of a subscription, a pack, or by hand. Daily allowances are not \
            told.",
        example: r#"{"entry": 17, "amount": "1000", "balance": "1000", "source": "subscription", "grant":
            "grt_019ac3e2a7f07d4cb2a7c1d2e3f40516", "link": {"object": "invoice", "id": "in_1Abc"}}"#,
        object: Some("the grant"),
    },
    Kind {
        name: "battery.lapsed",
        meaning: "Units of a grant lapsed unused. Daily allowances are not told.",
        example: r#"{"entry": 17, "amount": "120", "balance": "0", "source": "expiry", "grant":
            "grt_019ac3e2a7f07d4cb2a7c1d2e3f40516", "link": null}"#,
        object: Some("the grant"),
    },
    Kind {
        name: "battery.low",
        meaning: "Usage let the battery fall to a fifth of what its grants brought, or less.",
        example: r#"{"entry": 17, "amount": "10", "balance": "195", "source": "usage", "grant": null,
            "link": null}"#,
        object: None,
    },
    Kind {
        name: "battery.spent",
        meaning: "Usage has spent the battery: it holds nothing more, or owes.",
        example: r#"{"entry": 17, "amount": "10", "balance": "-3", "source": "usage", "grant": null,
            "link": null}"#,
        object: None,
    },
    Kind {
        name: "charge.failed",
        meaning: "Stripe refused usage that was to be charged, or could not use it: it is not charged until \
            somebody mends the reason and retries it.",
        example: r#"{"charge": "chg_019ac3e2a7f07d4cb2a7c1d2e3f40516", "reason":
            "meter_event_customer_not_found", "detail": "No customer was found with the id cus_1Abc."}"#,
        object: None,
    },
    Kind {
        name: "dispute.closed",
        meaning: "A dispute of a payment was closed. `status` says how: `won`, `lost`, `prevented`, \
            `charge_refunded` or `warning_closed`.",
        example: r#"{"org": "org_019ac3e2a7f07d4cb2a7c1d2e3f40516", "dispute": "du_1Abc", "payment":
            "pi_1Abc", "origin": "stripe", "invoice": "in_1Abc", "currency": "eur", "amount": 2000,
            "status": "lost", "reason": "fraudulent", "evidence_due_by": null}"#,
        object: Some("the dispute"),
    },
    Kind {
        name: "dispute.created",
        meaning: "A payer disputes a payment.",
        example: r#"{"org": "org_019ac3e2a7f07d4cb2a7c1d2e3f40516", "dispute": "du_1Abc", "payment":
            "pi_1Abc", "origin": "stripe", "invoice": "in_1Abc", "currency": "eur", "amount": 2000,
            "status": "needs_response", "reason": "fraudulent", "evidence_due_by": "2026-12-07T23:59:59Z"}"#,
        object: Some("the dispute"),
    },
    Kind {
        name: "drift.found",
        meaning: "`coulomb verify`, or the check of past days, found derived data that differs from the \
            stored events: once for the same differences. Or the check `stripe` found that a mirror differed \
            from Stripe, as when an event was missed; it is repaired, and `GET /v1/stripe/drift` lists it.",
        example: r#"{"check": "usage", "differences": 1, "first":
            "daily_summaries of org 7 on 2026-11-27: 12 stored, 13 expected"}"#,
        object: None,
    },
    Kind {
        name: "effect.waiting",
        meaning: "A Stripe payment cannot have its effect on a battery: it waits for an org, a price or a \
            pack. Once for each line and reason.",
        example: r#"{"object": "invoice", "id": "in_1Abc", "line": "il_1Abc", "reason": "no_org",
            "detail": "its customer belongs to no org", "customer": "cus_1Abc", "price":
            "price_pro_monthly"}"#,
        object: None,
    },
    Kind {
        name: "endpoint.disabled",
        meaning: "An endpoint was disabled: it answered 410 (`gone`), or every attempt has failed for five \
            days (`failing`). The other endpoints get this.",
        example: r#"{"org": null, "endpoint": "mep_019ac3e2a7f07d4cb2a7c1d2e3f40516", "url":
            "https://example.com/hook", "reason": "gone"}"#,
        object: None,
    },
    Kind {
        name: "endpoint.test",
        meaning: "Somebody asked for a test. Only the endpoint that is tested gets it.",
        example: r#"{"org": null, "endpoint": "mep_019ac3e2a7f07d4cb2a7c1d2e3f40516"}"#,
        object: None,
    },
    Kind {
        name: "invoice.finalized",
        meaning: "An invoice was finalised: it has its number, and is open or already paid.",
        example: r#"{"org": "org_019ac3e2a7f07d4cb2a7c1d2e3f40516", "invoice":
            "inv_019ac3e2a7f07d4cb2a7c1d2e3f40516", "origin": "own", "number": "INV-2026-0007",
            "currency": "eur", "total": 11900, "amount_remaining": 11900, "due_date": "2026-12-12"}"#,
        object: Some("the invoice"),
    },
    Kind {
        name: "invoice.paid",
        meaning: "An invoice was paid. One of our own that is open again after a refund may be paid a \
            second time.",
        example: r#"{"org": "org_019ac3e2a7f07d4cb2a7c1d2e3f40516", "invoice":
            "inv_019ac3e2a7f07d4cb2a7c1d2e3f40516", "origin": "own", "number": "INV-2026-0007",
            "currency": "eur", "total": 11900, "paid_at": "2026-11-28T12:00:00Z"}"#,
        object: Some("the invoice"),
    },
    Kind {
        name: "invoice.reminder",
        meaning: "An invoice of our own is open, and one of its seller's reminder days has come.",
        example: r#"{"org": "org_019ac3e2a7f07d4cb2a7c1d2e3f40516", "invoice":
            "inv_019ac3e2a7f07d4cb2a7c1d2e3f40516", "number": "INV-2026-0007", "currency": "eur",
            "amount_remaining": 11900, "due_date": "2026-12-12", "days_overdue": 3, "step": 1}"#,
        object: Some("the invoice"),
    },
    Kind {
        name: "month.closed",
        meaning: "A month is closed, and its manifest is made.",
        example: r#"{"month": "2026-10", "sha256":
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "signed": true}"#,
        object: None,
    },
    Kind {
        name: "org.resumed",
        meaning: "An org is no longer suspended.",
        example: r#"{"suspended_at": "2026-11-20T12:00:00Z"}"#,
        object: None,
    },
    Kind {
        name: "org.suspended",
        meaning: "An org was suspended. `usage` says what becomes of its usage: `refuse` or `record`.",
        example: r#"{"reason": "unpaid since May", "usage": "refuse"}"#,
        object: None,
    },
    Kind {
        name: "payment.failed",
        meaning: "A payment through Stripe failed.",
        example: r#"{"org": "org_019ac3e2a7f07d4cb2a7c1d2e3f40516", "payment": "pi_1Abc", "charge":
            "ch_1Abc", "origin": "stripe", "invoice": "in_1Abc", "currency": "eur", "amount": 2000,
            "failure_code": "card_declined", "failure_message": "Your card was declined."}"#,
        object: Some("the charge"),
    },
    Kind {
        name: "payment.refunded",
        meaning: "Money of a payment was given back.",
        example: r#"{"org": "org_019ac3e2a7f07d4cb2a7c1d2e3f40516", "refund": "re_1Abc", "payment":
            "pi_1Abc", "origin": "stripe", "invoice": "in_1Abc", "currency": "eur", "amount": 500,
            "reason": "requested_by_customer"}"#,
        object: Some("the refund"),
    },
    Kind {
        name: "payment.reversed",
        meaning: "A payment that was recorded here was taken back by the payer's bank: a bounced debit, a \
            chargeback.",
        example: r#"{"org": "org_019ac3e2a7f07d4cb2a7c1d2e3f40516", "refund":
            "rfd_019ac3e2a7f07d4cb2a7c1d2e3f40516", "payment": "pay_019ac3e2a7f07d4cb2a7c1d2e3f40516",
            "origin": "own", "invoice": null, "currency": "eur", "amount": 2000, "reason": "bounced"}"#,
        object: Some("the reversal"),
    },
    Kind {
        name: "plan.changed",
        meaning: "The org has another plan, or none any more, by a change of a subscription. A move to \
            another version of the same plan is not told, nor that days of grace of a Stripe subscription \
            are over.",
        example: r#"{"plan": "pro", "version": 2, "previous_plan": "free", "by_default": false, "origin":
            "stripe", "subscription": "sub_1Abc"}"#,
        object: None,
    },
    Kind {
        name: "quota.threshold_reached",
        meaning: "Usage has reached a threshold of a quota: once for each threshold and period, of a rolling \
            window each time that usage crosses it upwards. `period_end` is null where there is no period.",
        example: r#"{"org": "org_019ac3e2a7f07d4cb2a7c1d2e3f40516", "meter": "tokens", "filter": {},
            "subject": null, "period": "month", "period_start": "2026-11-01T00:00:00Z", "period_end":
            "2026-12-01T00:00:00Z", "threshold": "80", "limit": "1000000", "used": "800012",
            "enforcement": "hard"}"#,
        object: None,
    },
    Kind {
        name: "subscription.cancelled",
        meaning: "A subscription has ended because it was cancelled. One of Stripe has the fields of \
            `subscription.updated`.",
        example: r#"{"org": "org_019ac3e2a7f07d4cb2a7c1d2e3f40516", "subscription":
            "sub_019ac3e2a7f07d4cb2a7c1d2e3f40516", "origin": "local", "plan": "pro", "version": 2,
            "ended_at": "2026-11-28T12:00:00Z"}"#,
        object: Some("the subscription, of one of Stripe"),
    },
    Kind {
        name: "subscription.created",
        meaning: "A subscription was made. One that is local has `plan` and `version` beside these fields, \
            and no items.",
        example: r#"{"org": "org_019ac3e2a7f07d4cb2a7c1d2e3f40516", "subscription": "sub_1Abc", "origin":
            "stripe", "status": "active", "items": [{"price": "price_pro_monthly", "quantity": 1}],
            "trial_end": null, "cancel_at": null, "cancel_at_period_end": false, "period_end":
            "2026-12-28T12:00:00Z", "ended_at": null}"#,
        object: Some("the subscription"),
    },
    Kind {
        name: "subscription.expired",
        meaning: "A local subscription has ended because nobody paid for another period.",
        example: r#"{"org": "org_019ac3e2a7f07d4cb2a7c1d2e3f40516", "subscription":
            "sub_019ac3e2a7f07d4cb2a7c1d2e3f40516", "origin": "local", "plan": "pro", "version": 2,
            "ended_at": "2026-11-28T12:00:00Z"}"#,
        object: None,
    },
    Kind {
        name: "subscription.trial_ending",
        meaning: "A trial ends within three days.",
        example: r#"{"org": "org_019ac3e2a7f07d4cb2a7c1d2e3f40516", "subscription": "sub_1Abc", "origin":
            "stripe", "plan": null, "trial_end": "2026-12-01T12:00:00Z"}"#,
        object: Some("the subscription"),
    },
    Kind {
        name: "subscription.updated",
        meaning: "A subscription has another status, other items, or another end. One that is local has \
            `plan` and `version` beside these fields, and no items.",
        example: r#"{"org": "org_019ac3e2a7f07d4cb2a7c1d2e3f40516", "subscription": "sub_1Abc", "origin":
            "stripe", "status": "past_due", "items": [{"price": "price_pro_monthly", "quantity": 1}],
            "trial_end": null, "cancel_at": null, "cancel_at_period_end": false, "period_end":
            "2026-12-28T12:00:00Z", "ended_at": null}"#,
        object: Some("the subscription"),
    },
    Kind {
        name: "usage.unpriced",
        meaning: "Usage came that no rate of its meter fits: once for each meter and set of dimensions.",
        example: r#"{"org": "org_019ac3e2a7f07d4cb2a7c1d2e3f40516", "meter": "tokens", "dimensions":
            {"model": "new"}, "event": {"id": "call-1", "source": "chat", "occurred_at":
            "2026-11-28T12:00:00Z"}, "quantity": "1200"}"#,
        object: None,
    },
];

/// The catalogue as the API shows it.
#[must_use]
pub fn shown() -> Vec<KindView> {
    let shown = |kind: &Kind| KindView {
        r#type: kind.name,
        meaning: kind.meaning,
        object: kind.object,
        example: serde_json::from_str(kind.example).expect("examples are JSON: a test reads them"),
    };
    KINDS.iter().map(shown).collect()
}

/// Whether an endpoint may ask for this: the name of a kind, or a beginning that ends in a full stop.
#[must_use]
pub fn is_known(wanted: &str) -> bool {
    KINDS.iter().any(|kind| matches(kind.name, wanted))
}

/// The name of a kind as the catalogue has it.
#[must_use]
pub fn named(name: &str) -> Option<&'static str> {
    KINDS.iter().map(|kind| kind.name).find(|kind| *kind == name)
}

fn matches(kind: &str, wanted: &str) -> bool {
    kind == wanted || wanted.ends_with('.') && kind.starts_with(wanted)
}

/// Whether an endpoint that asked for these gets a kind. Nothing asked for means everything.
pub(super) fn is_wanted<'a>(kind: &str, wanted: impl Iterator<Item = &'a String>) -> bool {
    let mut wanted = wanted.peekable();
    wanted.peek().is_none() || wanted.any(|wanted| matches(kind, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_documented_in_order_and_once() {
        for kind in KINDS {
            let example: Value = serde_json::from_str(kind.example).expect(kind.name);
            assert!(example.is_object(), "{}", kind.name);
            let is_letter = |c: char| c.is_ascii_lowercase() || c == '_' || c == '.';
            assert!(kind.name.chars().all(is_letter), "{}", kind.name);
        }
        assert!(KINDS.is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn an_endpoint_asks_for_kinds_and_for_beginnings() {
        for (wanted, kind, expected) in [
            (&["invoice."][..], "invoice.paid", true),
            (&["invoice."], "invoicer.paid", false),
            (&["invoice"], "invoice.paid", false),
            (&["usage.unpriced", "invoice.paid"], "invoice.paid", true),
            (&["usage.unpriced"], "invoice.paid", false),
            (&[], "invoice.paid", true),
        ] {
            let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(is_wanted(kind, wanted.iter()), expected, "{wanted:?} {kind}");
        }
        assert!(is_known("invoice.") && is_known("invoice.paid"));
        assert!(!is_known("invoice") && !is_known(".") && !is_known("") && !is_known("nothing."));
    }
}
