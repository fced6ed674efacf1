//! A messaging product bills workspaces by invoices of its own, in rupiah: a trial, a month with a coupon and
//! 11 % of tax that is paid by PayPal, a month that lapses with grace and expires, and a reactivation. Every
//! figure is computed by hand:
//!
//! 499,000.00 − 20 % = 399,200.00; + 11 % = 443,112.00. The second month has no coupon:
//! 499,000.00 + 11 % (54,890.00) = 553,890.00.

use serde_json::{Value, json};

use super::product;
use crate::support::World;
use crate::support::world::until;

const TRIAL_BEGINS: &str = "2027-01-05T10:00:00Z";
const TRIAL_ENDS: &str = "2027-01-19T10:00:01Z";
const FIRST_MONTH_ENDS: &str = "2027-02-19T10:00:01Z";
const IN_GRACE: &str = "2027-02-21T10:00:00Z";
const GRACE_ENDS: &str = "2027-02-22T10:00:01Z";
const REMINDED: &str = "2027-03-12T03:00:00Z";
const COMES_BACK: &str = "2027-03-15T04:00:00Z";

/// The seller, its tax and its coupon, the plan, and a workspace that is billed.
async fn shop() -> World {
    let world = product(TRIAL_BEGINS).org("toko").start().await;
    let tax = json!({ "name": "PPN", "category": "S", "percent": "11" });
    world.put("/v1/tax_rates/ppn11", tax).await.ok();
    let seller = json!({
        "party": { "name": "PT Blazz Indonesia", "tax_number": "01.234.567.8-901.000",
            "address": { "line1": "Jl. Sudirman 1", "city": "Jakarta", "country": "ID" } },
        "settings": { "time_zone": "Asia/Jakarta", "invoice_prefix": "BLZ-", "tax_rate": "ppn11",
            "draft_hours": 0, "language": "id" },
        "default": true
    });
    world.put("/v1/sellers/blazz", seller).await.ok();
    let coupon = json!({ "name": "SAVE20", "percent": "20", "first_invoices": 1 });
    world.put("/v1/coupons/SAVE20", coupon).await.ok();
    let plan = json!({
        "name": "Professional", "trial_days": 14, "grace_days": 3,
        "monthly": { "amount": 49_900_000, "currency": "idr" }
    });
    world.put("/v1/plans/pro", plan).await.ok();
    let billing = json!({
        "party": { "name": "Toko Maju", "email": "billing@toko.example",
            "address": { "city": "Bandung", "country": "ID" } },
        "currency": "idr"
    });
    world.put("/v1/orgs/toko/billing", billing).await.ok();
    world.put("/v1/orgs/toko/coupons/SAVE20", json!({})).await.ok();
    world.post("/v1/orgs/toko/subscription", json!({ "plan": "pro" })).await.status(201);
    world
}

impl World {
    /// Waits until the workspace has so many invoices, and returns the newest.
    async fn newest_invoice(&self, count: usize) -> Value {
        let path = "/v1/invoices?org=toko&origin=own";
        until(&format!("{count} invoices, none a draft"), async || {
            let rows = self.get(path).await.ok();
            rows.rows().len() == count && rows.rows().iter().all(|row| row["status"] != "draft")
        })
        .await;
        self.get(path).await.ok().rows()[0].clone()
    }

    async fn pays(&self, amount: i64, processor: &str, reference: &str) -> Value {
        let payment = json!({
            "org": "toko", "amount": amount, "currency": "idr", "processor": processor,
            "reference": reference
        });
        self.post("/v1/payments", payment).await.status(201).body
    }

    async fn subscription_is(&self, status: &str, valid_until: &str) {
        let shown = self.get("/v1/orgs/toko/subscription").await.ok();
        assert_eq!(shown.pick(["status", "valid_until"]), json!([status, valid_until]));
    }

    /// Kind and amount of each entry of the account, and the balance after all.
    async fn statement(&self) -> (Vec<(String, i64)>, i64) {
        let path = "/v1/orgs/toko/account/statement?currency=idr";
        let shown = self.get(path).await.ok();
        let entries = shown.list("entries").iter().map(|entry| {
            (entry["kind"].as_str().unwrap_or_default().to_owned(), entry["amount"].as_i64().unwrap_or(0))
        });
        (entries.collect(), shown.at("closing_balance").as_i64().expect("a balance"))
    }
}

#[tokio::test]
async fn a_workspace_is_billed_in_rupiah_lapses_and_comes_back() {
    let world = shop().await;
    world.has_plan("toko", Some("pro")).await;

    // The trial ends: the first month is invoiced, and the days of grace run.
    world.turn(TRIAL_ENDS);
    let first = world.newest_invoice(1).await;
    assert_eq!(first["number"], "BLZ-2027-000001");
    assert_eq!(
        [&first["subtotal"], &first["discount_total"], &first["tax_total"], &first["total"]],
        [49_900_000, 9_980_000, 4_391_200, 44_311_200]
    );
    world.subscription_is("past_due", "2027-01-19T10:00:00Z").await;

    // It is paid by PayPal: the month is bought, and nothing is owed.
    world.pays(44_311_200, "paypal", "PAYID-1").await;
    world.subscription_is("active", "2027-02-19T10:00:00Z").await;
    let paid = vec![("invoice".to_owned(), 44_311_200), ("payment".to_owned(), -44_311_200)];
    assert_eq!(world.statement().await, (paid.clone(), 0));

    // The next month has no coupon any more. Nobody pays: grace, then the end.
    world.turn(FIRST_MONTH_ENDS);
    let second = world.newest_invoice(2).await;
    assert_eq!(
        [&second["discount_total"], &second["tax_total"], &second["total"]],
        [0, 5_489_000, 55_389_000]
    );
    world.turn(IN_GRACE);
    world.has_plan("toko", Some("pro")).await;
    world.turn(GRACE_ENDS);
    world.has_plan("toko", None).await;
    world.subscription_is("expired", "2027-02-19T10:00:00Z").await;

    // A reminder of what is open and due.
    world.turn(REMINDED);
    until("the first reminder", async || {
        let messages = world.get("/v1/messages").await.ok();
        messages.rows().iter().any(|message| {
            message["type"] == "invoice.reminder" && message["data"]["amount_remaining"] == 55_389_000
        })
    })
    .await;

    // The open invoice is paid after all: a new subscription begins, without a second trial.
    world.turn(COMES_BACK);
    world.pays(55_389_000, "bank_transfer", "TRX-77").await;
    world.has_plan("toko", Some("pro")).await;
    world.subscription_is("active", "2027-04-15T04:00:00Z").await;
    let all = [paid, vec![("invoice".to_owned(), 55_389_000), ("payment".to_owned(), -55_389_000)]].concat();
    assert_eq!(world.statement().await, (all, 0));
    let trial = json!({ "plan": "pro", "trial_days": 14 });
    world.post("/v1/orgs/toko/subscription", trial).await.refused(409, "trial_used");
    world.is_sound();
}
