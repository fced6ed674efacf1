//! Orgs that are suspended or archived: what they may still do, who is told, and how they come back.

use serde_json::json;

use crate::support::World;
use crate::support::invoicing::invoice;
use crate::support::requests::{check, plan, reserve, settle, subscribe, usage};

#[tokio::test]
async fn a_suspended_org_uses_nothing_and_reads_everything() {
    let world =
        World::new().daemons(2).org("globex").meter("tokens").quota(900).org("acme").quota(100).start().await;
    let key = world.key_of("acme");
    world.used(usage("acme", "tokens").id("before").quantity(5)).await;
    let held = world.reserved(reserve(10).org("acme")).await;
    let suspended = world.post("/v1/orgs/acme/suspend", json!({ "reason": "unpaid since May" })).await.ok();
    assert_eq!(suspended.at("standing.status"), "suspended");
    assert_eq!(suspended.at("standing.usage"), "refuse");
    for daemon in 0..2 {
        // The daemon that was asked knows at once, the other within a second.
        if daemon == 1 {
            tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
        }
        let by = world.on(daemon);
        let checked = by.check(check().org("acme")).await;
        assert_eq!(checked.at("allowed"), false);
        assert_eq!(checked.at("refused.code"), "org_suspended");
        assert_eq!(checked.at("refused.detail"), "the org is suspended: unpaid since May");
        by.send(reserve(1).org("acme").id(&format!("r{daemon}"))).await.refused(409, "org_suspended");
        let told =
            by.usage([usage("acme", "tokens").id(&format!("u{daemon}")), usage("globex", "tokens")]).await;
        assert!(told[0].contains("org_suspended"), "{told:?}");
        assert_eq!(told[1], "accepted");
    }
    assert!(world.by(&key).uses(usage("acme", "tokens")).await.contains("org_suspended"));
    // What was set aside before may be settled: it was used.
    world.send(settle(&held)).await.ok();
    for path in ["/v1/orgs/acme", "/v1/invoices", "/v1/usage/current", "/v1/messages"] {
        world.by(&key).get(path).await.ok();
    }
    world.post("/v1/orgs/acme/resume", json!({})).await.ok();
    world.used(usage("acme", "tokens").id("after").quantity(1)).await;
    assert_eq!(world.check(check().org("acme")).await.at("allowed"), true);
    let told = world.get("/v1/messages").await.ok();
    assert_eq!(told.column("type"), json!(["org.resumed", "org.suspended"]));
    assert_eq!(told.at("data.1.data"), &json!({ "reason": "unpaid since May", "usage": "refuse" }));
    world.is_sound();
}

/// By the suspension's own word usage is recorded, while checks and reservations say no.
#[tokio::test]
async fn a_suspension_may_record_usage() {
    let world = World::new().org("acme").meter("tokens").quota(100).start().await;
    let suspend = |reason: &str, usage: &str| {
        let body = json!({ "reason": reason, "usage": usage });
        world.post("/v1/orgs/acme/suspend", body)
    };
    suspend("fraud check", "record").await.ok();
    world.used(usage("acme", "tokens").quantity(7)).await;
    assert_eq!(world.check(check()).await.at("refused.code"), "org_suspended");
    world.send(reserve(1)).await.refused(409, "org_suspended");
    assert_eq!(world.counters(), "7/0");
    // Another word changes it, and is no second message.
    let since = suspend("fraud", "refuse").await.ok().text("standing.since");
    assert_eq!(world.get("/v1/orgs/acme").await.at("standing.since"), &json!(since));
    assert!(world.uses(usage("acme", "tokens")).await.contains("org_suspended"));
    assert_eq!(world.get("/v1/messages").await.rows().len(), 1);
    world.post("/v1/orgs/acme/suspend", json!({ "reason": " " })).await.names(400, "reason");
    world.post("/v1/orgs/acme/suspend", json!({ "reason": "x", "usage": "keep" })).await.status(400);
    let own = world.key_of("acme");
    world.by(&own).post("/v1/orgs/acme/resume", json!({})).await.status(403);
    world.post("/v1/orgs/acme/resume", json!({})).await.ok();
    world.post("/v1/orgs/acme/resume", json!({})).await.ok();
    assert_eq!(world.get("/v1/messages").await.rows().len(), 2);
    let log = world.get("/v1/audit?action=org.suspend").await.ok();
    assert_eq!(log.at("data.1.before.suspension_usage"), &json!(null));
    assert_eq!(
        log.at("data.0.before"),
        &json!({ "suspension_usage": "record", "suspension_reason": "fraud check" })
    );
}

#[tokio::test]
async fn an_archived_org_is_left_out_and_comes_back() {
    let world = World::new().org("acme").org("globex").meter("tokens").start().await;
    let key = world.key_of("acme");
    world.used(usage("acme", "tokens").quantity(3)).await;
    let names = async |query: &str| world.get(&format!("/v1/orgs{query}")).await.ok().column("external_id");
    world.post("/v1/orgs/acme/suspend", json!({ "reason": "why" })).await.ok();
    let archived = world.post("/v1/orgs/acme/archive", json!({})).await.ok();
    assert_eq!(archived.at("standing.status"), "archived");
    assert_eq!(names("").await, json!(["globex"]));
    assert_eq!(names("?archived=true").await, json!(["globex", "acme"]));
    assert_eq!(names("?external_id=acme").await, json!([]));
    world.get("/v1/orgs/acme").await.ok();
    world.by(&key).get("/v1/orgs").await.ok();
    assert!(world.uses(usage("acme", "tokens")).await.contains("org_archived"));
    assert_eq!(world.check(check().org("acme").meter("tokens")).await.at("refused.code"), "org_archived");
    let since = archived.text("standing.since");
    let again = world.post("/v1/orgs/acme/archive", json!({})).await.ok();
    assert_eq!(again.text("standing.since"), since, "once more changes nothing");
    let restored = world.post("/v1/orgs/acme/restore", json!({})).await.ok();
    assert_eq!(restored.at("standing.status"), "suspended", "it is as it was before");
    world.post("/v1/orgs/acme/resume", json!({})).await.ok();
    world.used(usage("acme", "tokens").id("later").quantity(4)).await;
    assert_eq!(names("").await, json!(["globex", "acme"]));
    world.get("/v1/orgs?archived=maybe").await.names(400, "archived");
}

/// The clock bills nobody who is archived, and goes on when the org is back.
#[tokio::test]
async fn an_archived_org_is_not_billed() {
    let world = World::new()
        .at("2026-10-01T00:00:00Z")
        .invoiced("acme")
        .with(plan("pro").with("monthly.amount", 1000).with("monthly.currency", "eur"))
        .start()
        .await;
    world.send(subscribe("acme", "pro")).await;
    let draft = world.send(invoice("acme").item("10")).await.status(201).id();
    let drafts = || world.number("SELECT count(*) FROM own_invoices");
    world.post("/v1/orgs/acme/archive", json!({})).await.ok();
    let before = drafts();
    world.send(invoice("acme").item("10")).await.refused(409, "org_archived");
    world.execute("UPDATE own_invoices SET finalize_at = '2026-10-01'");
    world.turn("2026-12-05T00:00:00Z");
    tokio::time::sleep(std::time::Duration::from_secs(12)).await;
    assert_eq!(drafts(), before);
    assert!(world.stands(&draft).await.starts_with("draft"));
    world.post("/v1/orgs/acme/restore", json!({})).await.ok();
    crate::support::world::until("the invoice", async || !world.stands(&draft).await.starts_with("draft"))
        .await;
}
