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
async fn more_than_was_reserved_must_fit() {
    let house = House::new().await;
    house.quota(json!(100), json!({})).await;
    let (a, b) = (house.reserved(json!(50), json!({})).await, house.reserved(json!(40), json!({})).await);
    let (status, refused) = house.post(&format!("/v1/quota/{a}/settle"), &json!({ "amount": 61 })).await;
    assert_eq!((status, exceeded(&refused)), (409, ("100", "0", "90", "10")));
    assert_eq!(house.counters(), "0/90", "the reservation stays");
    assert_eq!(house.post(&format!("/v1/quota/{a}/settle"), &json!({ "amount": 60 })).await.0, 200);
    // Its key was given back with the refusal.
    assert_eq!(house.database.number("SELECT count(*) FROM usage_keys"), 1);
    assert_eq!(house.counters(), "60/40");
    // Overage that was recorded meanwhile does not take away what was set aside.
    house.database.execute("UPDATE quota_counters SET used = 500");
    assert_eq!(house.post(&format!("/v1/quota/{b}/settle"), &json!({})).await.0, 200);
    assert_eq!(house.counters(), "540/0");
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
    let overdue = "BEGIN; UPDATE quota_reservations SET expires_at = now() - interval '1 s' WHERE reservation_id = 'late';";
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
    // It was used after all, but does not fit any more.
    assert_eq!(house.post("/v1/quota/late/settle", &json!({})).await.0, 409);
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
    let (status, refused) = house.post(&format!("/v1/quota/{b}/settle"), &json!({})).await;
    assert_eq!((status, exceeded(&refused)), (409, ("100", "0", "80", "20")), "today it does not fit");
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
