//! Erasure: personal data goes, invoices and proofs stay, and a rebuild finds what is stored.

use serde_json::json;

use crate::support::World;
use crate::support::invoicing::{billing, payment};
use crate::support::objects::{charge, customer, invoice, refund, subscription};
use crate::support::requests::{exempt, org, quota, usage};
use crate::support::world::until;

/// Words that only the person has. None of them may be left.
const TRACES: [&str; 8] = [
    "Ada Lovelace",
    "ada@example.com",
    "Byron Street",
    "+4930123",
    "ada-external",
    "user-ada",
    "ada-agent",
    "about Ada",
];

/// Every column of every table that still holds one of the words, but documents that were issued.
fn traces(world: &World) -> Vec<String> {
    let tables = "SELECT string_agg(format('%I.%I', n.nspname, c.relname), ' ') FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('coulomb', 'usage_partitions') AND c.relkind = 'r'
            AND c.relname NOT IN ('own_documents', 'own_invoices')";
    let tables = world.value(tables).expect("tables");
    let mut found = Vec::new();
    for table in tables.split(' ') {
        for word in TRACES {
            let sql = format!(
                "SELECT count(*) FROM {table} t WHERE position('{word}' IN t::text) > 0
                OR position('{}' IN t::text) > 0",
                hex::encode(word)
            );
            if world.number(&sql) > 0 {
                found.push(format!("{table}: {word}"));
            }
        }
    }
    found
}

async fn stored() -> World {
    World::new()
        .scopes("admin,billing:write,billing:read,usage:read,usage:write")
        .invoiced("shop")
        .with(
            org("ada-external").name("Ada Lovelace").with("metadata", json!({ "email": "ada@example.com" })),
        )
        .org("globex")
        .meter("tokens")
        .with(quota(100).org("ada-external").meter("tokens"))
        .with(quota(50).org("ada-external").meter("tokens").period("day").per_subject())
        .with(exempt("user-ada").org("ada-external").meter("tokens").period("day"))
        .with(
            billing("ada-external").with("party.name", "Ada Lovelace").with("party.email", "ada@example.com"),
        )
        .start()
        .await
}

async fn filled() -> (World, String, String) {
    let world = stored().await;
    let id = world.get("/v1/orgs/ada-external").await.text("id");
    world.run(&[
        "key",
        "create",
        "--scopes",
        "usage:read",
        "--org",
        "ada-external",
        "--name",
        "Ada Lovelace",
    ]);
    world
        .used(usage("ada-external", "tokens").subject("user-ada").with("member", "user-ada").quantity(3))
        .await;
    world.used(usage("globex", "tokens").subject("user-bob").quantity(4)).await;
    let issued = world.invoiced("ada-external", "10").await;
    world.send(payment("ada-external", 1000)).await.status(201);
    world.patch(&format!("/v1/orgs/{id}"), json!({ "name": "Ada Lovelace" })).await.ok();
    let person = customer("cus_ada")
        .with("name", "Ada Lovelace")
        .with("email", "ada@example.com")
        .with("phone", "+4930123")
        .with("address", json!({ "line1": "Byron Street 1", "country": "DE" }))
        .metadata(json!({ "org_id": "ada-external", "note": "about Ada" }));
    let bill = invoice("in_ada")
        .customer("cus_ada")
        .status("paid")
        .total(1200)
        .with("customer_name", "Ada Lovelace")
        .with("customer_email", "ada@example.com")
        .with("description", "about Ada");
    let paid = charge("ch_ada")
        .customer("cus_ada")
        .amount(1200)
        .with("billing_details", json!({ "name": "Ada Lovelace", "email": "ada@example.com" }))
        .with("description", "about Ada");
    let back = refund("re_ada", "ch_ada", 200).with("description", "about Ada");
    let ended =
        subscription("sub_ada").customer("cus_ada").status("canceled").metadata(json!({ "n": "about Ada" }));
    let other = customer("cus_adam").with("name", "Adam").metadata(json!({ "org_id": "globex" }));
    world
        .tell([
            person.happened("customer.created"),
            bill.happened("invoice.paid"),
            paid.happened("charge.succeeded"),
            back.happened("refund.created"),
            ended.happened("customer.subscription.deleted"),
            other.happened("customer.created"),
        ])
        .await;
    (world, id, issued)
}

#[tokio::test]
async fn the_person_goes_and_the_books_stay() {
    let (world, id, issued) = filled().await;
    assert!(traces(&world).len() > 8, "the words are there: {:?}", traces(&world));
    let document = world.get(&format!("/v1/invoices/{issued}/document?format=json")).await.ok();
    let account = world.account("ada-external").await;
    let mirrored = "SELECT concat_ws(' ', status, total, amount_paid, customer_id) FROM invoices
        WHERE id = 'in_ada'";
    let before = world.value(mirrored);
    let path = format!("/v1/orgs/{id}/erase");
    world.post(&path, json!({ "confirm": "ada-external" })).await.names(400, "confirm");
    world.post(&path, json!({})).await.names(400, "confirm");
    world.post("/v1/orgs/ada-external/erase", json!({ "confirm": id })).await.status(202);
    until("the walk", async || {
        !world.get(&format!("/v1/orgs/{id}/erasure")).await.at("finished_at").is_null()
    })
    .await;
    world.settles().await;
    assert_eq!(traces(&world), [""; 0]);
    // The books are as they were.
    assert_eq!(world.value(mirrored), before);
    assert_eq!(world.account(&id).await, account);
    let kept = world.get(&format!("/v1/invoices/{issued}/document?format=json")).await.ok();
    assert_eq!(kept.at("number"), document.at("number"));
    assert_eq!(kept.at("buyer"), document.at("buyer"), "what was issued stays as it was issued");
    assert_eq!(world.get(&format!("/v1/orgs/{id}/billing")).await.ok().at("party.name"), "erased");
    world.books_add_up();
    let of_org = world.get(&format!("/v1/invoices?org={id}")).await.ok();
    assert_eq!(of_org.rows().len(), 2, "Stripe's invoice is still the org's");
    let shown = world.get(&format!("/v1/orgs/{id}")).await.ok();
    let expected = json!(["erased", null, "erased", {}]);
    let found = ["name", "external_id", "standing.status", "metadata"].map(|field| shown.at(field).clone());
    assert_eq!(json!(found), expected);
    world.get("/v1/orgs/ada-external").await.status(404);
    // Nobody else lost anything.
    assert_eq!(world.value("SELECT name FROM customers WHERE id = 'cus_adam'").as_deref(), Some("Adam"));
    assert_eq!(world.number("SELECT count(*) FROM usage_records WHERE subject = 'user-bob'"), 1);
    // A rebuild from what is left finds what is stored, and says what was erased.
    let verified = world.command(&["verify"]).output().expect("runs");
    let told = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert_eq!(verified.status.code(), Some(0), "{told} {}", String::from_utf8_lossy(&verified.stdout));
    assert!(told.contains("5 Stripe events are erased"), "{told}");
    world.run(&["rebuild", "mirrors", "--yes"]);
    world.settles().await;
    assert_eq!(traces(&world), [""; 0]);
    assert_eq!(world.value(mirrored), before);
    // Its key is revoked, and nothing may be used any more.
    assert_eq!(world.number("SELECT count(*) FROM api_keys WHERE org_id > 0 AND revoked_at IS NULL"), 0);
    assert!(world.uses(usage(&id, "tokens")).await.contains("org_erased"));
    world.post(&format!("/v1/orgs/{id}/restore"), json!({})).await.refused(409, "org_erased");
    // Nothing new is taken of it either: that would be personal data again.
    let anew = json!({ "name": "Ada Lovelace" });
    world.patch(&format!("/v1/orgs/{id}"), anew.clone()).await.refused(409, "org_erased");
    let profile = json!({ "party": anew, "currency": "eur" });
    world.put(&format!("/v1/orgs/{id}/billing"), profile).await.refused(409, "org_erased");
    let granted = json!({ "org": id, "amount": "5", "reason": "a gift" });
    world.post("/v1/battery/grants", granted).await.refused(409, "org_erased");
    let key = json!({ "org": id, "name": "k", "scopes": ["usage:read"] });
    world.post("/v1/keys", key).await.refused(409, "org_erased");
    let endpoint = json!({ "org": id, "url": "https://example.com/hook" });
    world.post("/v1/message_endpoints", endpoint).await.refused(409, "org_erased");
    let log = world.get(&format!("/v1/audit?org={id}&action=org.")).await.ok();
    assert_eq!(log.column("action"), json!(["org.erase", "org.update", "org.create"]));
    assert_eq!(log.at("data.1.detail"), &json!({ "erased": true }));
}

/// Once more is safe, and takes what Stripe has sent since.
#[tokio::test]
async fn once_more_takes_what_came_since() {
    let (world, id, _) = filled().await;
    let erase = async || {
        world.post(&format!("/v1/orgs/{id}/erase"), json!({ "confirm": id })).await.status(202);
        let path = format!("/v1/orgs/{id}/erasure");
        until("the walk", async || !world.get(&path).await.at("finished_at").is_null()).await;
        world.settles().await;
    };
    erase().await;
    let first = world.get(&format!("/v1/orgs/{id}")).await.text("standing.since");
    let later = customer("cus_ada").with("name", "Ada Lovelace").happened("customer.updated");
    world.tell([later.at("2030-01-01T00:00:00Z")]).await;
    assert!(!traces(&world).is_empty());
    erase().await;
    assert_eq!(traces(&world), [""; 0]);
    assert_eq!(world.get(&format!("/v1/orgs/{id}/erasure")).await.at("events"), 6);
    assert_eq!(world.get(&format!("/v1/orgs/{id}")).await.text("standing.since"), first);
}

#[tokio::test]
async fn what_runs_must_end_first() {
    let (world, id, _) = filled().await;
    let path = format!("/v1/orgs/{id}/erase");
    let body = json!({ "confirm": id });
    let active = subscription("sub_2").customer("cus_ada").status("active");
    world.tell([active.happened("customer.subscription.created")]).await;
    world.post(&path, body.clone()).await.refused(409, "org_has_subscription");
    let ended = subscription("sub_2").customer("cus_ada").status("canceled");
    world.tell([ended.happened("customer.subscription.deleted").at("2030-01-01T00:00:00Z")]).await;
    let draft = world.send(crate::support::invoicing::invoice(&id).item("5")).await.status(201).id();
    world.post(&path, body.clone()).await.refused(409, "org_has_drafts");
    world.delete(&format!("/v1/invoices/{draft}")).await.status(204);
    let weak = world.key("billing:write,billing:read", None);
    world.by(&weak).post(&path, body.clone()).await.status(403);
    world.post(&path, body).await.status(202);
}

/// The daemon's role can change no event but those of an erasure that was asked for.
#[tokio::test]
async fn without_an_erasure_the_inbox_cannot_be_changed() {
    use diesel::connection::SimpleConnection;
    let (world, ..) = filled().await;
    let mut conn = world.platform();
    for (statement, told) in [
        ("SELECT erase_inbox_body(1, 1, '{}', now())", "no erasure of the org 1 is under way"),
        ("SELECT erase_entries(1, 'x')", "the org 1 is not erased"),
        ("UPDATE stripe_inbox SET body = '{}'", "permission denied"),
        ("INSERT INTO stripe_inbox_erased VALUES (1, 1, now(), '')", "permission denied"),
    ] {
        let error = conn.batch_execute(statement).expect_err(statement).to_string();
        assert!(error.contains(told), "{statement}: {error}");
    }
}
