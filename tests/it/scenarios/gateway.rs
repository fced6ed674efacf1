//! Three messages a day to a number: the fourth to the same number is refused, another number passes, one on
//! the white list always passes, after local midnight the count starts again, and counters older than seven
//! days are gone.

use serde_json::json;

use super::{Platform, text};
use crate::support::Daemon;

#[tokio::test]
async fn three_messages_a_day_to_a_number() {
    let gateway = Platform::at("2027-02-03T16:30:00Z");
    // Half past eleven at night in Jakarta.
    gateway.daemon.org(&gateway.key, "tenant", "Asia/Jakarta").await;
    let meter = json!({ "key": "messages", "event_name": "message.sent", "aggregation": "count" });
    gateway.post("/v1/meters", meter, 201).await;
    // The limit is that of the tenant's plan.
    let quota = json!({ "meter": "messages", "period": "day", "per_subject": true, "limit": "3",
        "enforcement": "hard" });
    gateway.put("/v1/plans/gateway", json!({ "name": "Gateway", "quotas": [quota] })).await;
    gateway.on_plan("tenant", "gateway").await;
    let friend = json!({ "org": "tenant", "meter": "messages", "period": "day", "per_subject": true,
        "subject": "+62-800", "reason": "our own phone" });
    gateway.post("/v1/quota_exemptions", friend, 201).await;

    // A message is sent when a place for it was set aside, and then it takes the place.
    let send = async |number: &str, expected: u16| {
        let made = gateway.reserve("tenant", "messages", 1, json!({ "subject": number }), expected).await;
        if expected == 201 {
            gateway.post(&format!("/v1/quota/{}/settle", text(&made, "id")), json!({}), 200).await;
        }
        made
    };
    for _ in 0..3 {
        send("+62-811", 201).await;
    }
    let refused = send("+62-811", 409).await;
    assert_eq!(
        (text(&refused, "limit"), text(&refused, "used"), text(&refused, "remaining")),
        ("3", "3", "0")
    );
    assert_eq!(text(&refused, "resets_at"), "2027-02-03T17:00:00Z");
    send("+62-822", 201).await;
    for _ in 0..5 {
        send("+62-800", 201).await;
    }
    gateway.clock.turn("2027-02-03T16:59:59Z");
    send("+62-811", 409).await;
    gateway.clock.turn("2027-02-03T17:00:00Z");
    for _ in 0..3 {
        send("+62-811", 201).await;
    }
    send("+62-811", 409).await;

    // 3 + 1 + 5 on the third of February, 3 on the fourth; each is a usage record.
    let days = gateway.get("/v1/usage/daily?org=tenant&from=2027-02-01&to=2027-03-01&group_by=day").await;
    let of = |day: &str| {
        days["data"]
            .as_array()
            .expect("rows")
            .iter()
            .find(|row| row["day"] == day)
            .map(|row| text(row, "quantity").to_owned())
    };
    assert_eq!((of("2027-02-03").as_deref(), of("2027-02-04").as_deref()), (Some("9"), Some("3")), "{days}");
    assert_eq!(gateway.database.unbalanced(), [] as [String; 0]);

    // A daemon that starts when the counters are old clears them away, and keeps the usage.
    let counters = || gateway.database.number("SELECT count(*) FROM quota_counters WHERE subject <> ''");
    assert_eq!(counters(), 4);
    gateway.clock.turn("2027-02-12T01:00:00Z");
    let _fresh = Daemon::clocked(&gateway.database, &gateway.clock);
    for _ in 0..200 {
        if counters() == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(counters(), 1, "those of the third are gone, that of the fourth is kept");
    assert_eq!(gateway.database.number("SELECT count(*) FROM usage_records"), 12);
}
