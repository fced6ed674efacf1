//! However an account is told, by webhooks, by a backfill, or by both in any order: the state is one.

use serde_json::json;

use super::{daemon, now, wait_for_projection, wait_for_run};
use crate::support::fake_stripe::FakeStripe;
use crate::support::{Daemon, Database, SECRET};

const DAY: i64 = 86_400;

/// Three weeks of a business whose customers pay by the week.
fn business() -> FakeStripe {
    let begin = now() - 21 * DAY - 600;
    let fake = FakeStripe::start_at(begin);
    let account = fake.account("");
    for (plan, amount) in [("basic", 900), ("pro", 2500)] {
        account.create("product", json!({ "id": format!("prod_{plan}"), "name": plan }));
        account.create(
            "price",
            json!({ "id": format!("price_{plan}"), "product": format!("prod_{plan}"), "unit_amount": amount,
                "recurring": { "interval": "week" } }),
        );
    }
    for n in 0..6 {
        fake.set_time(begin + n * 3600);
        account.create(
            "customer",
            json!({ "id": format!("cus_{n}"), "metadata": { "org_id": format!("org-{n}") },
                "invoice_settings": { "default_payment_method": "pm_1" } }),
        );
        let plan = if n % 2 == 0 { "basic" } else { "pro" };
        let items = json!([{ "price": format!("price_{plan}"), "quantity": n + 1 }]);
        account
            .subscribe(json!({ "id": format!("sub_{n}"), "customer": format!("cus_{n}"), "items": items }));
    }
    for day in 1..21 {
        fake.advance_to(begin + day * DAY);
        if day == 9 {
            account.cancel("sub_1");
            account.delete("customer", "cus_5");
        }
        if day == 12 {
            account.update("customer", "cus_2", json!({ "name": "Renamed" }));
        }
    }
    fake.set_time(now() - 30);
    fake
}

fn deliver(fake: &FakeStripe, daemon: &Daemon, backwards: bool) {
    let mut events = fake.account("").events();
    if backwards {
        events.reverse();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(daemon.deliver_all(&events));
}

fn dump(database: &Database) -> String {
    wait_for_projection(database);
    database.run(&["dump"])
}

#[test]
fn webhooks_and_backfills_give_one_state() {
    let fake = business();

    let by_webhooks = Database::new();
    let plain = [("COULOMB_STRIPE_MODE", "test")];
    let daemon_of_webhooks = Daemon::with(&by_webhooks, &plain);
    deliver(&fake, &daemon_of_webhooks, false);
    let expected = dump(&by_webhooks);
    drop(daemon_of_webhooks);

    let by_backfill = Database::new();
    let alone = daemon(&by_backfill, &fake);
    wait_for_run(&by_backfill);
    same(&expected, &dump(&by_backfill), "by a backfill");
    drop(alone);

    let webhooks_first = Database::new();
    let first = Daemon::with(&webhooks_first, &plain);
    deliver(&fake, &first, true);
    drop(first);
    let then = daemon(&webhooks_first, &fake);
    wait_for_run(&webhooks_first);
    same(&expected, &dump(&webhooks_first), "by webhooks backwards, then by a backfill");
    drop(then);

    let together = Database::new();
    let both = daemon(&together, &fake);
    deliver(&fake, &both, true);
    wait_for_run(&together);
    deliver(&fake, &both, false);
    same(&expected, &dump(&together), "by both at once");
    drop(both);
    for database in [&by_backfill, &webhooks_first, &together] {
        database.run(&["verify"]);
    }
}

#[track_caller]
fn same(expected: &str, found: &str, how: &str) {
    let missing: Vec<&str> = expected.lines().filter(|line| !found.lines().any(|own| own == *line)).collect();
    let extra: Vec<&str> = found.lines().filter(|line| !expected.lines().any(|own| own == *line)).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "{how}: {} lines missing, {} extra\nmissing: {:#?}\nextra: {:#?}",
        missing.len(),
        extra.len(),
        &missing[..missing.len().min(4)],
        &extra[..extra.len().min(4)]
    );
}

#[test]
fn a_second_backfill_and_a_rebuild_change_nothing() {
    let fake = business();
    let database = Database::new();
    let one = daemon(&database, &fake);
    wait_for_run(&database);
    let first = dump(&database);
    database.run(&["stripe", "inbox", "types"]);
    // What is read now was read after the first backfill.
    fake.set_time(now() - 5);
    let settings = super::settings(&fake);
    let mut command = database.command(&["stripe", "sync"]);
    command
        .envs(settings.iter().map(|(name, value)| (*name, &**value)).filter(|(name, _)| *name != "SECRET"));
    command.env("STRIPE_WEBHOOK_SECRET", SECRET);
    let output = command.output().expect("it runs");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    let row = table.lines().find(|line| line.starts_with("subscription ")).expect("a row").to_owned();
    let figures: Vec<&str> = row.split_whitespace().skip(1).collect();
    assert_eq!(figures, ["6", "6", "0", "0", "6"], "found, same, new, changed, held: {row}");
    same(&first, &dump(&database), "by a second backfill");
    let stored = database.number(
        "SELECT count(*) FROM stripe_inbox
         WHERE origin = 'fetch' AND body_of IS NOT NULL AND length(body) = 0",
    );
    assert!(stored >= 6, "fetches that confirm have no body: {stored}");
    drop(one);
    database.run(&["rebuild", "mirrors", "--yes"]);
    let again = daemon(&database, &fake);
    same(&first, &dump(&database), "by a rebuild");
    drop(again);
    database.run(&["verify"]);
}
