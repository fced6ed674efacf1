//! Subscriptions. Since `2025-03-31.basil` each item has a period of its own.

use chrono::{DateTime, Utc};

use super::ObjectFields;
use super::invoices::{meter, usage_type};
use crate::billing::subscription_periods::{PeriodDetails, SeenPeriod};
use crate::billing::subscriptions::{Subscription, SubscriptionItem, SubscriptionWithItems};

pub(in crate::stripe) fn subscription(from: ObjectFields<'_>) -> SubscriptionWithItems {
    let entries = entries(from);
    let items: Vec<_> = (0..).zip(&entries).map(|(number, entry)| item(from, *entry, number)).collect();
    // Start and end must be of one item, because items may be billed by the month and by the year.
    let periods =
        items.iter().filter_map(|item| Some((item.current_period_end?, item.current_period_start?)));
    let period = periods.min_by_key(|(end, start)| (*end, std::cmp::Reverse(*start)));
    let currency = || entries.iter().find_map(|entry| price(*entry).text("currency"));
    let pause = from.at("pause_collection");
    let subscription = Subscription {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        id: from.object.id.to_owned(),
        customer_id: from.id("customer"),
        status: from.text("status"),
        currency: from.text("currency").or_else(currency),
        collection_method: from.text("collection_method").or_else(|| from.text("billing")),
        current_period_start: from.time("current_period_start").or_else(|| period.map(|(_, start)| start)),
        current_period_end: from.time("current_period_end").or_else(|| period.map(|(end, _)| end)),
        cancel_at: from.time("cancel_at"),
        cancel_at_period_end: from.flag("cancel_at_period_end"),
        canceled_at: from.time("canceled_at"),
        ended_at: from.time("ended_at"),
        trial_start: from.time("trial_start"),
        trial_end: from.time("trial_end"),
        start_date: from.time("start_date").or_else(|| from.time("start")),
        billing_cycle_anchor: from.time("billing_cycle_anchor"),
        latest_invoice_id: from.id("latest_invoice"),
        schedule_id: from.id("schedule"),
        default_payment_method_id: from.id("default_payment_method"),
        pause_collection: pause.text("behavior"),
        pause_resumes_at: pause.time("resumes_at"),
        description: from.text("description"),
        items_complete: from.list_complete("items") || (!from.has("items") && from.has("plan")),
        created: from.time("created"),
        metadata: from.metadata(),
    };
    SubscriptionWithItems { subscription, items }
}

/// The prices of its items, each with the time when the item was added, else when the subscription began.
pub(super) fn prices(from: ObjectFields<'_>) -> Vec<(String, Option<DateTime<Utc>>)> {
    let began = || ["start_date", "start", "created"].into_iter().find_map(|field| from.time(field));
    let priced = |entry: ObjectFields<'_>| Some((price_id(entry)?, entry.time("created").or_else(began)));
    entries(from).into_iter().filter_map(priced).collect()
}

/// The period of each item: its own, or, in shapes before `basil`, that of the subscription.
pub(super) fn periods(from: ObjectFields<'_>, at: DateTime<Utc>, fetched: bool) -> Vec<SeenPeriod> {
    let status = from.text("status");
    if !matches!(status.as_deref(), Some("trialing" | "active" | "past_due" | "canceled")) {
        return Vec::new();
    }
    let seen = |(item_number, entry): (i32, ObjectFields<'_>)| {
        let time = |field| entry.time(field).or_else(|| from.time(field));
        let (start, end) = (time("current_period_start")?, time("current_period_end")?);
        (start < end).then(|| SeenPeriod {
            realm: from.object.realm.clone(),
            subscription_id: from.object.id.to_owned(),
            price_id: price_id(entry).unwrap_or_default(),
            start,
            details: PeriodDetails { end, item_number, product_id: price(entry).id("product") },
            at,
            fetched,
        })
    };
    (0..).zip(entries(from)).filter_map(seen).collect()
}

/// The items. A subscription may name one plan and have no list: then it is its own only item.
fn entries(from: ObjectFields<'_>) -> Vec<ObjectFields<'_>> {
    let listed = from.list("items");
    if listed.is_empty() && from.has("plan") { vec![from] } else { listed }
}

/// The price of an item, or its plan in older shapes.
fn price<'a>(entry: ObjectFields<'a>) -> ObjectFields<'a> {
    entry.at(if entry.has("price") { "price" } else { "plan" })
}

fn price_id(entry: ObjectFields<'_>) -> Option<String> {
    entry.id("price").or_else(|| entry.id("plan"))
}

/// Reads one of [`entries`]: an item, or the subscription itself.
fn item(from: ObjectFields<'_>, entry: ObjectFields<'_>, item_number: i32) -> SubscriptionItem {
    let listed = entry.text("object").as_deref() != Some("subscription");
    SubscriptionItem {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        subscription_id: from.object.id.to_owned(),
        item_number,
        id: entry.own_id().filter(|_| listed),
        price_id: price_id(entry),
        product_id: price(entry).id("product"),
        quantity: entry.integer("quantity"),
        current_period_start: entry.time("current_period_start"),
        current_period_end: entry.time("current_period_end"),
        created: entry.time("created"),
        metadata: if listed { entry.metadata() } else { serde_json::json!({}) },
        usage_type: usage_type(price(entry)),
        stripe_meter_id: meter(price(entry)),
    }
}
