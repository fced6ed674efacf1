//! Which org a Stripe customer belongs to, and the plan that follows from its subscription.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::events::{customer, event, subscription};
use crate::support::{Daemon, Database};

fn session(id: &str, created: i64, customer: &str, reference: Option<&str>) -> Value {
    let object = json!({ "id": id, "object": "checkout.session", "created": created, "customer": customer, "client_reference_id": reference, "status": "complete", "payment_status": "paid", "mode": "subscription", "metadata": {}, "livemode": false });
    event(&format!("evt_{id}"), "checkout.session.completed", created, object)
}

#[tokio::test]
async fn links_come_in_any_order_and_the_strongest_counts() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read,billing:write", None);
    // The customer names an org that does not exist yet; a session names another.
    daemon.deliver(&event("evt_1", "customer.created", 1, customer("cus_1", Some("acme")))).await;
    daemon.deliver(&session("cs_2", 20, "cus_1", Some("late"))).await;
    daemon.deliver(&session("cs_3", 30, "cus_2", Some("acme"))).await;
    daemon.deliver(&session("cs_1", 10, "cus_2", Some("late"))).await;
    daemon.projected().await;
    let (status, acme) =
        daemon.post("/v1/orgs", &key, &json!({ "name": "Acme", "external_id": "acme" })).await;
    assert_eq!(status, 201, "{acme}");
    let ids = |org: &Value| {
        org["customers"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|c| c["id"].as_str().expect("an id").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&acme), ["cus_1", "cus_2"], "metadata beats a session, a later session an earlier one");
    let (_, late) = daemon.post("/v1/orgs", &key, &json!({ "name": "Late", "external_id": "late" })).await;
    assert_eq!(ids(&late), [""; 0]);
    // An explicit word beats both, and can be taken back.
    let path = format!("/v1/orgs/{}/stripe_customers/cus_1", late["id"].as_str().expect("an id"));
    let (status, late) = answer(daemon.request(Method::PUT, &path, &key)).await;
    assert_eq!((status.as_u16(), ids(&late)), (200, vec!["cus_1".to_owned()]));
    let (_, late) = answer(daemon.request(Method::DELETE, &path, &key)).await;
    assert_eq!(ids(&late), [""; 0]);
    assert!(database.run(&["verify"]).is_empty());
}

/// The org's plan through all eight statuses of Stripe.
#[tokio::test]
async fn the_plan_follows_the_subscription() {
    let database = Database::new();
    // Its period began long ago.
    let daemon = Daemon::with(&database, &[("COULOMB_PAST_DUE_GRACE_DAYS", "36500")]);
    let key = database.key("billing:read,billing:write", None);
    let (_, org) = daemon.post("/v1/orgs", &key, &json!({ "name": "Acme", "external_id": "acme" })).await;
    let path = format!("/v1/orgs/{}", org["id"].as_str().expect("an id"));
    let (status, plan) = answer(
        daemon
            .request(Method::PUT, "/v1/plans/pro", &key)
            .json(&json!({ "name": "Pro", "stripe_prices": ["price_pro"] })),
    )
    .await;
    assert_eq!(status, 200, "{plan}");
    daemon.deliver(&event("evt_c", "customer.created", 1, customer("cus_1", Some("acme")))).await;
    let statuses = [
        ("incomplete", None),
        ("trialing", Some("pro")),
        ("active", Some("pro")),
        ("past_due", Some("pro")),
        ("unpaid", None),
        ("paused", None),
        ("canceled", None),
    ];
    for (n, (status, plan)) in statuses.into_iter().enumerate() {
        let created = 10 + i64::try_from(n).expect("small");
        daemon
            .deliver(&event(
                &format!("evt_{n}"),
                "customer.subscription.updated",
                created,
                subscription("sub_1", "cus_1", status, "price_pro"),
            ))
            .await;
        daemon.projected().await;
        let (_, org) = daemon.get(&path, &key).await;
        assert_eq!((org["plan"].as_str(), org["subscription"]["status"].as_str()), (plan, Some(status)));
    }
    daemon
        .deliver(&event(
            "evt_x",
            "customer.subscription.updated",
            10,
            subscription("sub_2", "cus_1", "incomplete_expired", "price_pro"),
        ))
        .await;
    daemon.projected().await;
    let (_, org) = daemon.get(&path, &key).await;
    assert_eq!((org["plan"].as_str(), org["subscription"]["id"].as_str()), (None, Some("sub_1")));
}

#[tokio::test]
async fn by_setting_a_customer_without_an_org_gets_one() {
    let database = Database::new();
    let daemon = Daemon::with(&database, &[("COULOMB_STRIPE_ORG_PER_CUSTOMER", "true")]);
    let key = database.key("billing:read", None);
    daemon.deliver(&event("evt_1", "customer.created", 1, customer("cus_1", None))).await;
    daemon.deliver(&event("evt_2", "customer.updated", 2, customer("cus_1", None))).await;
    daemon.projected().await;
    let (_, orgs) = daemon.get("/v1/orgs?external_id=cus_1", &key).await;
    assert_eq!(
        (orgs["data"].as_array().map(Vec::len), orgs["data"][0]["name"].as_str()),
        (Some(1), Some("Customer cus_1"))
    );
    assert_eq!(orgs["data"][0]["customers"][0]["id"], "cus_1");
}
