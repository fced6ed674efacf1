//! Reservations: settled, released, expired.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use expect_test::expect;
use reqwest::Method;
use serde_json::{Value, json};

use super::{exceeded, platform};
use crate::support::World;
use crate::support::daemon::answer;
use crate::support::requests::{check, quota, release, reserve, settle};

/// A world in which `tokens` are limited to 100 a day.
async fn limited() -> World {
    platform().with(quota(100)).start().await
}

#[tokio::test]
async fn a_reservation_is_settled_by_what_was_used() {
    let world = platform().start().await;
    let quota = world.makes_quota(quota("100")).await;
    let id = world.reserved(reserve(60)).await;
    let verdict = world.check(check().amount("41")).await;
    let told = verdict.pick(["allowed", "quotas.0.remaining", "quotas.0.quota"]);
    assert_eq!(told, json!([false, "40", quota]));
    assert_eq!(world.check(check().amount(40)).await["allowed"], true);
    let refused = world.send(reserve("40.5")).await;
    assert_eq!(refused["quota"], quota);
    assert_eq!(exceeded(refused), "100 0 60 40");

    let settled = world.send(settle(&id).amount("25.5")).await.status(200);
    assert_eq!(settled.pick(["state", "settled_amount"]), json!(["settled", "25.5"]));
    assert_eq!(world.counters(), "25.5/0");
    // A repeat changes nothing and gets the same answer; other usage is not a repeat.
    assert_eq!(world.send(settle(&id).amount(25.5)).await, settled);
    assert_eq!(world.send(release(&id)).await, settled);
    world.send(settle(&id).amount(30)).await.refused(409, "already_settled");
    assert_eq!(world.counters(), "25.5/0");
}

#[tokio::test]
async fn a_released_reservation_may_still_be_settled() {
    let world = limited().await;
    let first = world.reserved(reserve(60)).await;
    world.send(settle(&first).amount("25.5")).await.status(200);
    let id = world.reserved(reserve(10)).await;
    let released = world.send(release(&id)).await.status(200);
    assert_eq!(released["state"], "released");
    assert_eq!(world.send(release(&id)).await, released);
    assert_eq!(world.counters(), "25.5/0");
    // The amount was used, and it fits.
    world.send(settle(&id).amount(74.5)).await.status(200);
    assert_eq!(world.counters(), "100/0");
    world.send(settle("res_none")).await.status(404);
}

#[tokio::test]
async fn what_was_used_is_recorded_beyond_the_reservation_and_the_limit() {
    // Amounts reserved in order under a limit of 100, then settled in that order: the amount, the counters
    // after it, and the part above the limit.
    type Case = (&'static [i64], &'static [(i64, &'static str, &'static str)]);
    let cases: [Case; 5] = [
        // 60 reserved, 130 used.
        (&[60], &[(130, "130/0", "30")]),
        // The second one's 40 stay reserved. The first used nothing above the limit; the second exceeds it by
        // 1.
        (&[50, 40], &[(61, "61/40", "0"), (40, "101/0", "1")]),
        // Above the limit, every further amount is overage.
        (&[50, 50], &[(150, "150/50", "50"), (20, "170/0", "20")]),
        // Exactly at the limit there is no overage.
        (&[1], &[(100, "100/0", "0")]),
        (&[30, 30, 30], &[(0, "0/60", "0"), (99, "99/30", "0"), (3, "102/0", "2")]),
    ];
    for (reserved, settled) in cases {
        let world = platform().with(quota(100).with("refuse_usage", true)).start().await;
        let mut ids = Vec::new();
        for amount in reserved {
            ids.push(world.reserved(reserve(*amount)).await);
        }
        for (id, (amount, counters, overage)) in ids.iter().zip(settled) {
            let told = world.send(settle(id).amount(*amount)).await.status(200);
            assert_eq!(told.pick(["overage", "debt"]), json!([overage, "0"]), "{told}");
            assert_eq!(world.counters(), *counters, "{reserved:?}, {amount}");
            assert_eq!(world.send(settle(id).amount(*amount)).await, told, "a repeat");
        }
        // Promise 8 is about usage that asks first: no more is admitted now.
        world.send(reserve(1)).await.status(409);
        let used: i64 = settled.iter().map(|(amount, ..)| amount).sum();
        let recorded = world.value("SELECT trim_scale(sum(quantity))::text FROM usage_records");
        assert_eq!(recorded, Some(used.to_string()));
    }
}

#[tokio::test]
async fn reservations_expire_by_themselves() {
    // First only the sweeper ends it, then also the next request that looks.
    let world = limited().await;
    let id = world.reserved(reserve(100).with("expires_in_s", 1)).await;
    world.send(reserve(1)).await.status(409);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(world.counters(), "0/0");
    assert_eq!(world.value("SELECT state FROM quota_reservations").as_deref(), Some("expired"));
    assert_eq!(world.send(release(&id)).await.status(200)["state"], "expired");
    // An expired reservation that nothing has swept yet, as another daemon may leave it.
    world.reserved(reserve(100).id("late").with("expires_in_s", 600)).await;
    let overdue = || {
        world.execute(
            "UPDATE quota_reservations SET expires_at = now() - interval '1 s'
             WHERE reservation_id = 'late'",
        );
    };
    overdue();
    assert_eq!(world.check(check().amount(100)).await["allowed"], true);
    overdue();
    let open = world.reserved(reserve(100)).await;
    assert_eq!(world.counters(), "0/100");
    // For the two that expired, nobody has reported what was used.
    let lapsed = || world.daemon().metric("coulomb_quota_reservations_lapsed");
    assert_eq!(lapsed().await, Some(2));
    // It was used after all, beside what is reserved now.
    let late = world.send(settle("late").amount(70)).await.status(200);
    assert_eq!(late.pick(["state", "overage"]), json!(["settled", "0"]));
    assert_eq!(world.counters(), "70/100");
    assert_eq!(lapsed().await, Some(1));
    // The one admitted after it uses all of its reservation: 70 and 100 of 100.
    let told = world.send(settle(&open)).await;
    assert_eq!((world.counters().as_str(), &told["overage"]), ("170/0", &json!("70")));
}

#[tokio::test]
async fn an_event_settles_as_late_as_it_may_come() {
    let world = limited().await;
    world.reserved(reserve(10).id("old").with("expires_in_s", 600_000)).await;
    world.execute("UPDATE quota_reservations SET made_at = now() - interval '6 days'");
    let by_event = |at: DateTime<Utc>, tokens: i64| {
        let event =
            json!({ "id": "e", "event_name": "llm", "occurred_at": at, "data": { "tokens": tokens } });
        world.send(settle("old").with("event", event))
    };
    let days_ago = |days| Utc::now() - TimeDelta::days(days);
    // Long before it was reserved.
    by_event(days_ago(8), 12).await.names(400, "event.occurred_at");
    by_event(Utc::now(), -5).await.names(400, "event.data.tokens");
    assert_eq!(by_event(days_ago(5), 12).await.status(200)["settled_amount"], "12");
}

#[tokio::test]
async fn a_reservations_id_makes_it_safe_to_repeat() {
    let world = limited().await;
    let first = world.send(reserve(30).id("r-1")).await.status(201);
    assert_eq!(world.send(reserve(30).id("r-1")).await, first);
    world.send(reserve(31).id("r-1")).await.refused(409, "reservation_id_reused");
    assert_eq!(world.counters(), "0/30");
    let by_header = || {
        let request = world.daemon().request(Method::POST, "/v1/quota/reserve", &world.key);
        answer(request.header("Idempotency-Key", "a b").json(&reserve(5).body))
    };
    let answers = futures_util::future::join_all((0..8).map(|_| by_header())).await;
    assert!(
        answers.iter().all(|(status, body)| *status == 201 && body["id"] == answers[0].1["id"]),
        "{answers:?}"
    );
    assert_eq!(world.counters(), "0/35");
}

#[tokio::test]
async fn a_reservation_stays_in_its_period() {
    let world = platform().start().await;
    let history = format!("/v1/quotas/{}/history", world.makes_quota(quota(100)).await);
    let (a, b) = (world.reserved(reserve(70)).await, world.reserved(reserve(30)).await);
    // Midnight passes: today's reservations become yesterday's.
    world.execute(
        "UPDATE quota_counters SET period = period - 1;
         UPDATE quota_reservations SET held = jsonb_set(held, '{0,2}', to_jsonb((held->0->>2)::date - 1))",
    );
    let fresh = world.check(check().amount(100)).await;
    assert_eq!(fresh.pick(["allowed", "quotas.0.reserved"]), json!([true, "0"]));
    world.reserved(reserve(80)).await;
    assert_eq!(world.counters(), "0/100 0/80");
    // It is used today, beside today's reservations.
    world.send(settle(&b).amount(20)).await.status(200);
    assert_eq!(world.counters(), "0/70 20/80");
    world.send(release(&a)).await.status(200);
    assert_eq!(world.counters(), "0/0 20/80");
    let newest = world.get(&format!("{history}?limit=1")).await;
    assert_eq!(newest.pick(["data.0.used", "data.0.reserved"]), json!(["20", "80"]));
    let before = world.get(&format!("{history}?cursor={}", newest.text("next"))).await;
    let yesterday = Utc::now().date_naive().pred_opt().expect("a day");
    let told = before.pick(["data.0.period", "data.0.start", "next"]);
    assert_eq!(told, json!([yesterday, format!("{yesterday}T00:00:00Z"), Value::Null]));
    assert_eq!(before.rows().len(), 1);
}

#[tokio::test]
async fn an_answer_says_what_is_set_aside_and_why_no_more_is() {
    let world = platform().at("2026-11-20T12:00:00Z").with(quota(100)).start().await;
    world.send(reserve(60).id("mine")).await.status(201).shows(expect![[r#"
        {
          "amount": "60", "battery_units": "0", "debt": null, "dimensions": {}, "ended_at": null,
          "expires_at": "2026-11-20T12:05:00Z", "id": "mine", "made_at": "2026-11-20T12:00:00Z",
          "member": null, "meter": "tokens", "org": "org_…", "overage": null,
          "quotas": [
            {
              "enforcement": "hard", "exempt": false, "filter": {}, "limit": "100",
              "meter": "tokens", "period": "day", "plan": null, "quota": "quo_…",
              "remaining": "40", "reserved": "60", "resets_at": "2026-11-21T00:00:00Z",
              "subject": null, "used": "0"
            }
          ],
          "settled_amount": null, "state": "open", "subject": null
        }"#]]);
    world.send(reserve(50)).await.status(409).shows(expect![[r#"
        {
          "code": "quota_exceeded",
          "detail": "the limit on tokens leaves 40 until 2026-11-21T00:00:00Z; nothing was changed",
          "enforcement": "hard", "exempt": false, "filter": {}, "limit": "100", "meter": "tokens",
          "period": "day", "plan": null, "quota": "quo_…", "remaining": "40", "reserved": "60",
          "resets_at": "2026-11-21T00:00:00Z", "status": 409, "subject": null,
          "title": "A quota does not allow it", "type": "about:blank#quota_exceeded", "used": "0"
        }"#]]);
}
