//! What is set aside: settled, given back, expired.

use std::time::Duration;

use chrono::Utc;
use reqwest::Method;
use serde_json::{Value, json};

use super::{House, exceeded};
use crate::support::daemon::answer;

#[tokio::test]
async fn a_reservation_is_settled_by_what_was_used() {
    let house = House::new().await;
    let quota = house.quota(json!("100"), json!({})).await;
    let id = house.reserved(json!(60), json!({})).await;
    let verdict = house.check(json!({ "org": "acme", "meter": "tokens", "amount": "41" })).await;
    assert_eq!((&verdict["allowed"], &verdict["quotas"][0]["remaining"]), (&json!(false), &json!("40")));
    assert_eq!(verdict["quotas"][0]["quota"], json!(quota));
    assert_eq!(house.check(json!({ "org": "acme", "meter": "tokens", "amount": 40 })).await["allowed"], true);
    let (status, refused) = house.reserve(json!("40.5"), json!({})).await;
    assert_eq!((status, exceeded(&refused)), (409, ("100", "0", "60", "40")));
    assert_eq!(refused["quota"], json!(quota));

    let settle = format!("/v1/quota/{id}/settle");
    let (status, settled) = house.post(&settle, &json!({ "amount": "25.5" })).await;
    assert_eq!(
        (status, &settled["state"], &settled["settled_amount"]),
        (200, &json!("settled"), &json!("25.5"))
    );
    assert_eq!(house.counters(), "25.5/0");
    // A repeat changes nothing and is told the same; other usage is not taken for a repeat.
    assert_eq!(house.post(&settle, &json!({ "amount": 25.5 })).await, (200, settled.clone()));
    assert_eq!(house.post(&format!("/v1/quota/{id}/release"), &json!({})).await, (200, settled));
    let (status, other) = house.post(&settle, &json!({ "amount": 30 })).await;
    assert_eq!((status, &other["code"]), (409, &json!("already_settled")));
    assert_eq!(house.counters(), "25.5/0");

    let id = house.reserved(json!(10), json!({})).await;
    let release = format!("/v1/quota/{id}/release");
    let (status, released) = house.post(&release, &json!({})).await;
    assert_eq!((status, &released["state"]), (200, &json!("released")));
    assert_eq!(house.post(&release, &json!({})).await, (200, released));
    assert_eq!(house.counters(), "25.5/0");
    // It was used all the same, and it fits.
    assert_eq!(house.post(&format!("/v1/quota/{id}/settle"), &json!({ "amount": 74.5 })).await.0, 200);
    assert_eq!(house.counters(), "100/0");
    assert_eq!(house.post("/v1/quota/res_none/settle", &json!({})).await.0, 404);
}

#[tokio::test]
async fn what_was_used_is_recorded_beyond_the_reservation_and_the_limit() {
    // Reserved one after the other under a limit of 100, then settled in that order: the counters after each,
    // and what of it went over.
    type Case = (&'static [i64], &'static [(i64, &'static str, &'static str)]);
    let cases: [Case; 5] = [
        // 60 reserved, 130 used.
        (&[60], &[(130, "130/0", "30")]),
        // The second's 40 stay set aside; the first goes over nothing, used alone, and the second over all
        // that is left.
        (&[50, 40], &[(61, "61/40", "0"), (40, "101/0", "1")]),
        // Once over, all of what follows is over.
        (&[50, 50], &[(150, "150/50", "50"), (20, "170/0", "20")]),
        // Exactly at the limit nothing is over.
        (&[1], &[(100, "100/0", "0")]),
        (&[30, 30, 30], &[(0, "0/60", "0"), (99, "99/30", "0"), (3, "102/0", "2")]),
    ];
    for (reserved, settled) in cases {
        let house = House::new().await;
        house.quota(json!(100), json!({ "refuse_usage": true })).await;
        let mut ids = Vec::new();
        for amount in reserved {
            ids.push(house.reserved(json!(amount), json!({})).await);
        }
        for (id, (amount, counters, overage)) in ids.iter().zip(settled) {
            let settle = format!("/v1/quota/{id}/settle");
            let (status, told) = house.post(&settle, &json!({ "amount": amount })).await;
            assert_eq!(
                (status, &told["overage"], &told["debt"]),
                (200, &json!(overage), &json!("0")),
                "{told}"
            );
            assert_eq!(house.counters(), *counters, "{reserved:?}, {amount}");
            assert_eq!(house.post(&settle, &json!({ "amount": amount })).await, (200, told), "a repeat");
        }
        let used: i64 = settled.iter().map(|(amount, ..)| amount).sum();
        // Promise 8 is about what is admitted beforehand: nothing is any more.
        assert_eq!(house.reserve(json!(1), json!({})).await.0, 409, "{used} used of 100");
        let daily = house.database.value("SELECT trim_scale(sum(quantity))::text FROM usage_records");
        assert_eq!(daily, Some(used.to_string()));
    }
}

#[tokio::test]
async fn reservations_expire_by_themselves() {
    // The sweeper alone, then whoever looks.
    let house = House::new().await;
    house.quota(json!(100), json!({})).await;
    let id = house.reserved(json!(100), json!({ "expires_in_s": 1 })).await;
    assert_eq!(house.reserve(json!(1), json!({})).await.0, 409);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(house.counters(), "0/0");
    assert_eq!(house.database.value("SELECT state FROM quota_reservations").as_deref(), Some("expired"));
    let (status, late) = house.post(&format!("/v1/quota/{id}/release"), &json!({})).await;
    assert_eq!((status, &late["state"]), (200, &json!("expired")));
    // As another daemon has left it: nobody has swept it yet.
    house.reserved(json!(100), json!({ "id": "late", "expires_in_s": 600 })).await;
    let overdue = "BEGIN; UPDATE quota_reservations SET expires_at = now() - interval '1 s'
        WHERE reservation_id = 'late';";
    for look in ["check", "reserve"] {
        house.database.execute(&format!("{overdue} COMMIT"));
        let seen = match look {
            "check" => {
                house.check(json!({ "org": "acme", "meter": "tokens", "amount": 100 })).await["allowed"]
                    .clone()
            }
            _ => json!(house.reserve(json!(100), json!({})).await.0 == 201),
        };
        assert_eq!(seen, true, "{look}");
    }
    assert_eq!(house.counters(), "0/100");
    // Of the two that lapsed nobody has said what was used.
    let lapsed = "coulomb_quota_reservations_lapsed";
    assert_eq!(house.daemon.metric(lapsed).await, Some(2));
    // It was used after all, beside what is set aside now.
    let (status, late) = house.post("/v1/quota/late/settle", &json!({ "amount": 70 })).await;
    assert_eq!((status, &late["state"], &late["overage"]), (200, &json!("settled"), &json!("0")));
    assert_eq!(house.counters(), "70/100");
    assert_eq!(house.daemon.metric(lapsed).await, Some(1));
    // The one that was admitted after it uses all that it set aside: 70 and 100 of 100.
    let open = house.database.value("SELECT reservation_id FROM quota_reservations WHERE state = 'open'");
    let (_, told) = house.post(&format!("/v1/quota/{}/settle", open.expect("one")), &json!({})).await;
    assert_eq!((house.counters().as_str(), &told["overage"]), ("170/0", &json!("70")));
}

#[tokio::test]
async fn an_event_settles_as_late_as_it_may_come() {
    let house = House::new().await;
    house.quota(json!(100), json!({})).await;
    house.reserved(json!(10), json!({ "id": "old", "expires_in_s": 600_000 })).await;
    house.database.execute("UPDATE quota_reservations SET made_at = now() - interval '6 days'");
    let event = |at: chrono::DateTime<Utc>, value: &str| {
        let raw = format!(
            r#"{{ "event": {{ "id": "e", "event_name": "llm", "occurred_at": "{}",
                "data": {{ "tokens": {value} }} }} }}"#,
            at.to_rfc3339()
        );
        serde_json::from_str::<Value>(&raw).expect("JSON")
    };
    let settle = "/v1/quota/old/settle";
    let (status, refused) = house.post(settle, &event(Utc::now() - chrono::TimeDelta::days(8), "12")).await;
    assert_eq!(
        (status, &refused["field"]),
        (400, &json!("event.occurred_at")),
        "long before it was reserved"
    );
    let (status, refused) = house.post(settle, &event(Utc::now(), "-5")).await;
    assert_eq!((status, &refused["field"]), (400, &json!("event.data.tokens")), "{refused}");
    let (status, settled) = house.post(settle, &event(Utc::now() - chrono::TimeDelta::days(5), "12")).await;
    assert_eq!((status, &settled["settled_amount"]), (200, &json!("12")), "{settled}");
}

#[tokio::test]
async fn a_reservations_id_makes_it_safe_to_repeat() {
    let house = House::new().await;
    house.quota(json!(100), json!({})).await;
    let first = house.reserve(json!(30), json!({ "id": "r-1" })).await;
    assert_eq!(first.0, 201, "{}", first.1);
    assert_eq!(house.reserve(json!(30), json!({ "id": "r-1" })).await, first);
    let (status, reused) = house.reserve(json!(31), json!({ "id": "r-1" })).await;
    assert_eq!((status, &reused["code"]), (409, &json!("reservation_id_reused")));
    assert_eq!(house.counters(), "0/30");
    let by_header = || {
        let body = json!({ "org": "acme", "meter": "tokens", "amount": 5 });
        answer(
            house
                .daemon
                .request(Method::POST, "/v1/quota/reserve", &house.key)
                .header("Idempotency-Key", "a b")
                .json(&body),
        )
    };
    let answers = futures_util::future::join_all((0..8).map(|_| by_header())).await;
    assert!(
        answers.iter().all(|(status, body)| *status == 201 && body["id"] == answers[0].1["id"]),
        "{answers:?}"
    );
    assert_eq!(house.counters(), "0/35");
}

#[tokio::test]
async fn a_reservation_stays_in_its_period() {
    let house = House::new().await;
    let quota = house.quota(json!(100), json!({})).await;
    let (a, b) = (house.reserved(json!(70), json!({})).await, house.reserved(json!(30), json!({})).await);
    // The night passes: what was made today was made yesterday.
    house.database.execute(
        "UPDATE quota_counters SET period = period - 1;
         UPDATE quota_reservations SET held = jsonb_set(held, '{0,2}', to_jsonb((held->0->>2)::date - 1))",
    );
    let fresh = house.check(json!({ "org": "acme", "meter": "tokens", "amount": 100 })).await;
    assert_eq!((&fresh["allowed"], &fresh["quotas"][0]["reserved"]), (&json!(true), &json!("0")));
    house.reserved(json!(80), json!({})).await;
    assert_eq!(house.counters(), "0/100 0/80");
    // It is used today, beside what is set aside today.
    assert_eq!(house.post(&format!("/v1/quota/{b}/settle"), &json!({ "amount": 20 })).await.0, 200);
    assert_eq!(house.counters(), "0/70 20/80");
    assert_eq!(house.post(&format!("/v1/quota/{a}/release"), &json!({})).await.0, 200);
    assert_eq!(house.counters(), "0/0 20/80");
    let (_, history) = house.daemon.get(&format!("/v1/quotas/{quota}/history?limit=1"), &house.key).await;
    assert_eq!((&history["data"][0]["used"], &history["data"][0]["reserved"]), (&json!("20"), &json!("80")));
    let next = history["next"].as_str().expect("another page");
    let (_, history) =
        house.daemon.get(&format!("/v1/quotas/{quota}/history?cursor={next}"), &house.key).await;
    let yesterday = Utc::now().date_naive().pred_opt().expect("a day");
    assert_eq!(history["data"][0]["period"], json!(yesterday));
    assert_eq!(history["data"][0]["start"], json!(format!("{yesterday}T00:00:00Z")));
    assert_eq!((history["data"].as_array().map(Vec::len), &history["next"]), (Some(1), &Value::Null));
}
