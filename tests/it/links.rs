//! Which org a Stripe customer belongs to, and the plan that follows from its subscription.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::events::{customer, event, subscription};
use crate::support::{Daemon, Database};

fn session(id: &str, created: i64, customer: &str, reference: Option<&str>) -> Value {
    let object = json!({ "id": id, "object": "checkout.session", "created": created, "customer": customer,
        "client_reference_id": reference, "status": "complete", "payment_status": "paid",
        "mode": "subscription", "metadata": {}, "livemode": false });
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

/// A link over the API is of one realm, which is told or known; who is linked and not known is said to be so;
/// the books stay clean.
#[tokio::test]
async fn a_link_over_the_api_is_of_one_realm_and_says_whom_nobody_knows() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read,billing:write", None);
    let acme = daemon.org(&key, "acme", "UTC").await;
    daemon.org(&key, "bolt", "UTC").await;
    let send = async |method: Method, what: &str| {
        let path = format!("/v1/orgs/{what}");
        let (status, answered) = answer(daemon.request(method, &path, &key)).await;
        (status.as_u16(), answered)
    };
    for (what, field) in [
        ("acme/stripe_customers/cus_far", "livemode"),
        ("acme/stripe_customers/sub_1?livemode=true", "customer_id"),
        ("acme/stripe_customers/cus_?livemode=true", "customer_id"),
        ("acme/stripe_customers/cus_%20x?livemode=true", "customer_id"),
        ("acme/stripe_customers/cus_far?livemode=true&account=cus_1", "account"),
        ("acme/stripe_customers/cus_far?livemode=true&colour=red", "colour"),
        ("acme/stripe_customers/cus_far?livemode=yes", "livemode"),
    ] {
        let (status, problem) = send(Method::PUT, what).await;
        assert_eq!((status, &problem["field"]), (400, &json!(field)), "{what}: {problem}");
    }
    // Nobody has heard of it: the mode must be told, and the answer says so.
    let (status, org) =
        send(Method::PUT, "acme/stripe_customers/cus_far?account=acct_1&livemode=false").await;
    let far =
        |known: bool| json!({ "account": "acct_1", "livemode": false, "id": "cus_far", "known": known });
    assert_eq!((status, &org["id"], &org["customers"]), (200, &json!(acme), &json!([far(false)])), "{org}");
    assert!(database.run(&["verify"]).is_empty(), "a link is an input: nothing is derived from it yet");
    // What does not act is linked to nobody.
    for what in ["cus_far?livemode=true", "cus_far?livemode=false&account=acct_stranger"] {
        let (status, problem) = send(Method::PUT, &format!("acme/stripe_customers/{what}")).await;
        assert_eq!((status, &problem["code"]), (409, &json!("realm_not_trusted")), "{what}: {problem}");
    }
    // Stripe tells of a customer in test mode, where it is then meant.
    daemon.deliver(&event("evt_1", "customer.created", 1, customer("cus_1", None))).await;
    daemon.projected().await;
    let (status, org) = send(Method::PUT, "acme/stripe_customers/cus_1").await;
    let known = json!({ "account": "", "livemode": false, "id": "cus_1", "known": true });
    assert_eq!((status, &org["customers"]), (200, &json!([known, far(false)])), "{org}");
    // In another account it is another customer, of whom nobody has heard.
    let (_, org) = send(Method::PUT, "acme/stripe_customers/cus_1?account=acct_1&livemode=false").await;
    let unheard = json!({ "account": "acct_1", "livemode": false, "id": "cus_1", "known": false });
    assert_eq!(org["customers"], json!([known, unheard, far(false)]), "{org}");
    // What is taken back must be there, and which of two is meant must be told.
    let (status, problem) = send(Method::DELETE, "acme/stripe_customers/cus_1").await;
    assert_eq!((status, &problem["field"]), (400, &json!("account")), "{problem}");
    for what in ["bolt/stripe_customers/cus_far", "acme/stripe_customers/cus_none"] {
        assert_eq!(send(Method::DELETE, what).await.0, 404, "{what}");
    }
    for (what, left) in [
        ("acme/stripe_customers/cus_1?account=acct_1&livemode=false", json!([known, far(false)])),
        ("acme/stripe_customers/cus_1", json!([far(false)])),
        ("acme/stripe_customers/cus_far", json!([])),
    ] {
        let (status, org) = send(Method::DELETE, what).await;
        assert_eq!((status, &org["customers"]), (200, &left), "{what}");
    }
    assert!(database.run(&["verify"]).is_empty(), "links that were taken back leave nothing to compare");
    assert_eq!(send(Method::DELETE, "acme/stripe_customers/cus_far").await.0, 404, "it was taken back");
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
