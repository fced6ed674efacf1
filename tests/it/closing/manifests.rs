//! One manifest for each closed month, signed, chained, and computed again by `coulomb verify`.

use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};

use super::books::{KEY, differences, march, orgs};
use crate::support::requests::usage;
use crate::support::world::{World, until};

fn close(world: &World, month: &str, settings: &[(&str, &str)]) -> Output {
    world.command(&["close", month]).envs(settings.iter().copied()).output().expect("it runs")
}

fn closed(world: &World, month: &str, settings: &[(&str, &str)]) -> Value {
    let output = close(world, month, settings);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_at_once_make_one_manifest() {
    let world = orgs().daemons(2).start().await;
    march(&world).await;
    world.turn("2026-04-02T12:00:00Z");
    let (body, world) = (|| json!({ "month": "2026-03" }), &world);
    let calls = (0..6).map(|n| async move { world.on(n % 2).post("/v1/closings", body()).await });
    let answers = futures_util::future::join_all(calls).await;
    let made: Vec<Value> =
        answers.into_iter().filter(|found| found.status == 200).map(|found| found.body).collect();
    assert!(!made.is_empty() && made.iter().all(|one| *one == made[0]), "{made:?}");
    assert_eq!(world.number("SELECT count(*) FROM month_manifests"), 1);
    assert_eq!(world.get("/v1/closings/2026-03").await.body, made[0]);
    assert_eq!(world.post("/v1/closings", body()).await.body, made[0]);
    assert_eq!(world.get("/v1/closings").await.column("month"), json!(["2026-03"]));
    assert_eq!(world.number("SELECT count(*) FROM debtor_numbers"), 4);
}

#[tokio::test]
async fn a_month_that_has_not_ended_everywhere_stays_open() {
    let world = orgs().start().await;
    march(&world).await;
    world.turn("2026-04-01T11:59:59Z");
    world.post("/v1/closings", json!({ "month": "2026-03" })).await.names(400, "month");
    assert_eq!(world.number("SELECT count(*) FROM usage_closings"), 0);
    let key = world.key_of("acme");
    world.by(&key).post("/v1/closings", json!({ "month": "2026-02" })).await.status(403);
    // Manifests begin with the first month that has anything.
    world.post("/v1/closings", json!({ "month": "2026-02" })).await.refused(409, "month_is_empty");
    assert_eq!(world.number("SELECT count(*) FROM usage_closings"), 0);
}

#[tokio::test]
async fn what_a_crash_left_is_completed() {
    let world = orgs().start().await;
    march(&world).await;
    let output = close(&world, "2026-03", &[("TEST_PANIC", "manifest:between")]);
    assert!(!output.status.success());
    let made = || world.number("SELECT count(*) FROM month_manifests");
    assert_eq!((world.number("SELECT count(*) FROM usage_closings"), made()), (1, 0));
    // Another one is killed while it waits to store the manifest.
    let mut owner = world.owner();
    diesel::connection::SimpleConnection::batch_execute(
        &mut owner,
        "BEGIN; LOCK TABLE month_manifests IN EXCLUSIVE MODE",
    )
    .expect("locked");
    let mut child = world.command(&["close", "2026-03"]).spawn().expect("it runs");
    until("it waits for the lock", async || {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation =
            'coulomb.month_manifests'::regclass";
        world.number(waits) == 1
    })
    .await;
    child.kill().expect("killed");
    child.wait().expect("ended");
    diesel::connection::SimpleConnection::batch_execute(&mut owner, "ROLLBACK").expect("free");
    drop(owner);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let first = closed(&world, "2026-03", &[]);
    let second = closed(&world, "2026-03", &[]);
    assert_eq!((first, made()), (second, 1));
    assert_eq!(differences(&world, &[]), [] as [String; 0]);
}

#[tokio::test]
async fn manifests_are_signed_and_chained() {
    let world = orgs().start().await;
    march(&world).await;
    world.turn("2026-05-03T12:00:00Z");
    march_again(&world).await;
    // March and April get theirs with May.
    let may = closed(&world, "2026-05", &[("COULOMB_CLOSING_KEY", KEY)]);
    let april = world.get("/v1/closings/2026-04").await;
    assert_eq!(may["manifest"]["previous"], json!({ "month": "2026-04", "sha256": april.text("sha256") }));
    assert_eq!(may["manifest"]["signed_by"], may["public_key"]);
    assert_eq!(world.get("/v1/closings").await.column("month"), json!(["2026-05", "2026-04", "2026-03"]));
    let shown = world.run(&["close", "--show", "2026-05"]);
    assert_eq!(serde_json::from_str::<Value>(&shown).expect("JSON"), may);
    let rows = world.run(&["close", "--show", "2026-03", "--of", "entries"]);
    let march = world.get("/v1/closings/2026-03").await;
    assert_eq!(march.text("manifest.entries.sha256"), super::books::sha256(rows.as_bytes()));
    assert_eq!(march.at("manifest.entries.balances.0.opening"), 0);
    let eur = |one: &Value, which: &str| one["manifest"]["entries"]["balances"][0][which].clone();
    assert_eq!(eur(&april.body, "opening"), eur(&march.body, "closing"));
    let public = may["public_key"].as_str().expect("a key").to_owned();
    assert_eq!(differences(&world, &[("COULOMB_CLOSING_KEY", KEY)]), [] as [String; 0]);
    let other = KEY.replace('9', "8");
    assert_eq!(differences(&world, &[("COULOMB_CLOSING_KEY", &other)]).len(), 3);
    let both = [("COULOMB_CLOSING_KEY", other.as_str()), ("COULOMB_CLOSING_OLD_KEYS", public.as_str())];
    assert_eq!(differences(&world, &both), [] as [String; 0]);
    let output = close(&world, "2026-03", &[("COULOMB_CLOSING_KEY", "secret")]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("COULOMB_CLOSING_KEY") && error.contains("must be an Ed25519"), "{error}");
    assert!(!error.contains("secret`"), "{error}");
}

async fn march_again(world: &World) {
    let payment = super::books::payment("acme", "eur", 4_000, "PAY-9");
    world.send(payment).await.status(201);
}

#[tokio::test]
async fn one_changed_digit_is_found_and_named() {
    let world = orgs().meter("tokens").start().await;
    march(&world).await;
    world.used(usage("acme", "tokens").quantity(41).at("2026-03-05T12:00:00Z")).await;
    for month in ["2026-03", "2026-04"] {
        closed(&world, month, &[("COULOMB_CLOSING_KEY", KEY)]);
    }
    assert_eq!(differences(&world, &[]), [] as [String; 0]);
    let manifest = "UPDATE month_manifests SET content";
    let april = "WHERE month = '2026-04-01'";
    for (change, undo, expected) in [
        (
            "UPDATE account_entries SET description = 'PAY-8' WHERE description = 'paypal PAY-1'",
            "UPDATE account_entries SET description = 'paypal PAY-1' WHERE description = 'PAY-8'",
            "month_manifests: 2026-03: entries.days.2026-03-05: it says",
        ),
        (
            "UPDATE account_entries SET amount = -20001 WHERE amount = -20000",
            "UPDATE account_entries SET amount = -20000 WHERE amount = -20001",
            "month_manifests: 2026-03: entries.movements.",
        ),
        (
            "UPDATE own_documents SET content = replace(content, '80331', '80332')",
            "UPDATE own_documents SET content = replace(content, '80332', '80331')",
            "month_manifests: 2026-03: documents.sha256: it says",
        ),
        (
            "UPDATE usage_records SET quantity = 42",
            "UPDATE usage_records SET quantity = 41",
            "month_manifests: 2026-03: usage.meters.0.quantity: it says \"41\", but the rows come to \"42\"",
        ),
        (
            &format!("{manifest} = replace(content, '\"rows\":0', '\"rows\":1') {april}"),
            &format!("{manifest} = replace(content, '\"rows\":1', '\"rows\":0') {april}"),
            "month_manifests: 2026-04: its signature does not fit its content",
        ),
        (
            &format!("UPDATE month_manifests SET signature = NULL, public_key = NULL {april}"),
            &format!(
                "UPDATE month_manifests SET (signature, public_key) = (SELECT decode('SIG', 'hex'),
                 public_key FROM month_manifests WHERE month = '2026-03-01') {april}"
            ),
            "month_manifests: 2026-04: its signature is missing",
        ),
    ] {
        let signature = world.get("/v1/closings/2026-04").await.text("signature");
        world.execute(change);
        let found = differences(&world, &[]);
        assert!(found.iter().any(|line| line.starts_with(expected)), "{change}: {found:#?}");
        world.execute(&undo.replace("SIG", &signature));
        assert_eq!(differences(&world, &[]), [] as [String; 0], "{undo}");
    }
    world.execute("DELETE FROM month_manifests WHERE month = '2026-03-01'");
    let found = differences(&world, &[]);
    assert!(found.iter().any(|line| line.contains("2026-04: it names 2026-03 (")), "{found:#?}");
}

/// A day of 0001 gives no manifest for each month since then. The list of manifests has pages.
#[tokio::test]
async fn so_many_months_are_closed_at_once_and_no_more() {
    let world = orgs().start().await;
    march(&world).await;
    world.turn("2026-07-02T12:00:00Z");
    // Such an entry could be made once.
    let dated = |day: &str| {
        format!("UPDATE account_entries SET day = '{day}' WHERE (currency, sequence) = ('usd', 1)")
    };
    world.execute(&dated("1976-05-31"));
    // May 1976 to April 2026 are 600 months.
    let close = async |month: &str| world.post("/v1/closings", json!({ "month": month })).await;
    let refused = close("2026-05").await.refused(409, "too_many_months");
    let says = "is 1976-05, and at most 600 months are closed at once";
    assert!(refused.text("detail").contains(says), "{refused}");
    assert!(refused.text("detail").contains("close 2026-04 first"), "{refused}");
    assert_eq!(world.number("SELECT count(*) FROM usage_closings"), 0);
    world.execute(&dated("2026-03-05"));
    close("2026-06").await.ok();
    let first = world.get("/v1/closings?limit=3").await.ok();
    assert_eq!(first.column("month"), json!(["2026-06", "2026-05", "2026-04"]));
    let next = first.text("next");
    let second = world.get(&format!("/v1/closings?limit=3&cursor={next}")).await.ok();
    assert_eq!((second.column("month"), &second["next"]), (json!(["2026-03"]), &Value::Null));
    world.get("/v1/closings?limit=0").await.names(400, "limit");
}
