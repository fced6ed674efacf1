//! Which org a Stripe customer belongs to, and the plan that follows from its subscription.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::World;
use crate::support::answer::Answer;
use crate::support::objects::{Event, customer, object, subscription};
use crate::support::requests::{org, plan, request};

/// A checkout session of a customer that names an org.
fn session(id: &str, second: i64, customer: &str, reference: &str) -> Event {
    let session = object("checkout.session", id)
        .customer(customer)
        .created(second)
        .status("complete")
        .with("client_reference_id", reference)
        .with("payment_status", "paid")
        .with("mode", "subscription");
    session.happened("checkout.session.completed").at(second)
}

/// The customers of an org.
fn customers(org: &Answer) -> Vec<&str> {
    org.list("customers").iter().map(|customer| customer["id"].as_str().expect("an id")).collect()
}

async fn link(world: &World, what: &str) -> Answer {
    world.send(request(Method::PUT, format!("/v1/orgs/{what}"), Value::Null)).await
}

async fn unlink(world: &World, what: &str) -> Answer {
    world.delete(&format!("/v1/orgs/{what}")).await
}

#[tokio::test]
async fn links_come_in_any_order_and_the_strongest_counts() {
    let world = World::new().start().await;
    // The customer names an org that does not exist yet; a checkout session names another.
    world
        .tell([
            customer("cus_1").org("acme").created_event().at(1),
            session("cs_2", 20, "cus_1", "late"),
            session("cs_3", 30, "cus_2", "acme"),
            session("cs_1", 10, "cus_2", "late"),
        ])
        .await;
    // Metadata beats a session, a later session an earlier one.
    let acme = world.send(org("acme")).await.status(201);
    assert_eq!(customers(&acme), ["cus_1", "cus_2"]);
    let late = world.send(org("late")).await.status(201);
    assert_eq!(customers(&late), [""; 0]);
    // A link by the API beats both, and can be removed.
    let path = "late/stripe_customers/cus_1";
    assert_eq!(customers(&link(&world, path).await.status(200)), ["cus_1"]);
    assert_eq!(customers(&unlink(&world, path).await), [""; 0]);
    assert!(world.run(&["verify"]).is_empty());
}

/// A link by the API belongs to one realm: the request names it or the mirrors show it. The answer marks
/// unknown customers. `verify` finds nothing.
#[tokio::test]
async fn a_link_over_the_api_is_of_one_realm_and_says_whom_nobody_knows() {
    let world = World::new().org("acme").org("bolt").start().await;
    for (what, field) in [
        ("cus_far", "livemode"),
        ("sub_1?livemode=true", "customer_id"),
        ("cus_?livemode=true", "customer_id"),
        ("cus_%20x?livemode=true", "customer_id"),
        ("cus_far?livemode=true&account=cus_1", "account"),
        ("cus_far?livemode=true&colour=red", "colour"),
        ("cus_far?livemode=yes", "livemode"),
    ] {
        link(&world, &format!("acme/stripe_customers/{what}")).await.names(400, field);
    }
    // The customer is unknown: the request must name the mode, and the answer says that it is unknown.
    let customer_of = |account: &str, id: &str, known: bool| {
        let livemode = false;
        json!({ "account": account, "livemode": livemode, "id": id, "known": known })
    };
    let far = customer_of("acct_1", "cus_far", false);
    let org = link(&world, "acme/stripe_customers/cus_far?account=acct_1&livemode=false").await.status(200);
    assert_eq!(org.pick(["external_id", "customers"]), json!(["acme", [far]]));
    // A link is an input: nothing is derived from it yet.
    assert!(world.run(&["verify"]).is_empty());
    // Links in a realm that does not act are refused.
    for what in ["cus_far?livemode=true", "cus_far?livemode=false&account=acct_stranger"] {
        link(&world, &format!("acme/stripe_customers/{what}")).await.refused(409, "realm_not_trusted");
    }
    // Stripe sends a customer in test mode; the link then means that one.
    world.tell([customer("cus_1").created_event().at(1)]).await;
    let known = customer_of("", "cus_1", true);
    let org = link(&world, "acme/stripe_customers/cus_1").await.status(200);
    assert_eq!(org["customers"], json!([known, far]));
    // In another account the same id is another customer, which is unknown.
    let org = link(&world, "acme/stripe_customers/cus_1?account=acct_1&livemode=false").await;
    let unheard = customer_of("acct_1", "cus_1", false);
    assert_eq!(org["customers"], json!([known, unheard, far]));
    // To remove a link it must exist, and the request must say which of two it means.
    unlink(&world, "acme/stripe_customers/cus_1").await.names(400, "account");
    for what in ["bolt/stripe_customers/cus_far", "acme/stripe_customers/cus_none"] {
        unlink(&world, what).await.status(404);
    }
    for (what, left) in [
        ("cus_1?account=acct_1&livemode=false", json!([known, far])),
        ("cus_1", json!([far])),
        ("cus_far", json!([])),
    ] {
        let org = unlink(&world, &format!("acme/stripe_customers/{what}")).await.status(200);
        assert_eq!(org["customers"], left, "{what}");
    }
    // `verify` has nothing to compare for removed links.
    assert!(world.run(&["verify"]).is_empty());
    unlink(&world, "acme/stripe_customers/cus_far").await.status(404);
}

/// The org's plan in all eight statuses of Stripe.
#[tokio::test]
async fn the_plan_follows_the_subscription() {
    // The subscription's period began long ago.
    let setup = World::new().setting("COULOMB_PAST_DUE_GRACE_DAYS", "36500").org("acme");
    let world = setup.with(plan("pro").prices(["price_pro"])).start().await;
    world.deliver(customer("cus_1").org("acme").created_event().at(1)).await;
    let updated = "customer.subscription.updated";
    for (second, (status, plan)) in (10..).zip([
        ("incomplete", None),
        ("trialing", Some("pro")),
        ("active", Some("pro")),
        ("past_due", Some("pro")),
        ("unpaid", None),
        ("paused", None),
        ("canceled", None),
    ]) {
        let told = subscription("sub_1").status(status).happened(updated);
        world.tell([told.id(&format!("evt_{status}")).at(second)]).await;
        let org = world.get("/v1/orgs/acme").await;
        assert_eq!(org.pick(["plan", "subscription.status"]), json!([plan, status]));
    }
    world.tell([subscription("sub_2").status("incomplete_expired").happened(updated).at(10)]).await;
    let org = world.get("/v1/orgs/acme").await;
    assert_eq!(org.pick(["plan", "subscription.id"]), json!([null, "sub_1"]));
}

#[tokio::test]
async fn by_setting_a_customer_without_an_org_gets_one() {
    let world = World::new().setting("COULOMB_STRIPE_ORG_PER_CUSTOMER", "true").start().await;
    let changed = customer("cus_1").happened("customer.updated").at(2);
    world.tell([customer("cus_1").created_event().at(1), changed]).await;
    let orgs = world.get("/v1/orgs?external_id=cus_1").await;
    assert_eq!(orgs.column("name"), json!(["Customer cus_1"]));
    assert_eq!(orgs.at("data.0.customers.0.id"), "cus_1");
}
