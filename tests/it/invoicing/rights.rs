//! Who may read and write what.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::World;
use crate::support::invoicing::{billing, credit_note, invoice, item, payment, refund};
use crate::support::requests::request;

/// Two orgs, each with an invoice, a credit note, a payment, a refund and an item; ids of those of an org.
async fn two_orgs() -> (World, [[String; 4]; 2]) {
    let world = World::new().at("2026-10-10T12:00:00Z").invoiced("acme").org("beta").with(billing("beta"));
    let world = world.start().await;
    let mut ids = Vec::new();
    for org in ["acme", "beta"] {
        let made = world.send(invoice(org).item("100").finalized()).await.status(201).id();
        let paid = world.paid(org, 10_000).await;
        let note = world.send(credit_note(&made).credits(1, 1000)).await.status(201).id();
        let back = world.send(refund(&paid, 1000)).await.status(201).id();
        world.send(item(org, "7")).await.status(201);
        ids.push([made, paid, note, back]);
    }
    let [acme, beta] = ids.try_into().expect("two");
    (world, [acme, beta])
}

#[tokio::test]
async fn an_org_reads_its_own_books_and_no_others() {
    let (world, [acme, beta]) = two_orgs().await;
    let key = world.key_of("acme");
    let own = world.by(&key);
    let kinds = ["invoices", "payments", "credit_notes", "refunds"];
    let paths = |org: &str, ids: &[String; 4]| {
        let mut paths: Vec<String> =
            kinds.iter().zip(ids).map(|(kind, id)| format!("/v1/{kind}/{id}")).collect();
        paths.extend([
            format!("/v1/invoices/{}/document?format=json", ids[0]),
            format!("/v1/credit_notes/{}/document?format=json", ids[2]),
        ]);
        let of_org = [
            "billing",
            "coupons",
            "invoice_items",
            "invoices/preview",
            "account",
            "account/statement?currency=eur",
        ];
        paths.extend(of_org.map(|path| format!("/v1/orgs/{org}/{path}")));
        paths
    };
    for (mine, other) in paths("acme", &acme).iter().zip(paths("beta", &beta)) {
        let shown = own.get(mine).await.status(200);
        assert_eq!(shown.body, world.get(mine).await.status(200).body, "{mine}");
        assert!(!shown.body.to_string().contains(&*beta[0]), "{shown}");
        own.get(&other).await.status(404);
        world.get(&other).await.status(200);
    }
    for (kind, id) in kinds.iter().zip(&acme) {
        let list = own.get(&format!("/v1/{kind}?origin=own")).await.status(200);
        assert_eq!(list.column("id"), json!([id]), "{kind}");
        own.get(&format!("/v1/{kind}?org=beta")).await.names(404, "org");
        assert_eq!(world.get(&format!("/v1/{kind}")).await.rows().len(), 2, "{kind}");
    }
    // The database holds the same, even if the code forgot to filter.
    world.execute(
        "DO $$ DECLARE relation regclass; BEGIN
         FOR relation IN SELECT oid FROM pg_class WHERE relrowsecurity LOOP
             EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', relation);
         END LOOP; END $$",
    );
    for (kind, id) in kinds.iter().zip(&acme) {
        assert_eq!(own.get(&format!("/v1/{kind}")).await.column("id"), json!([id]), "{kind}");
    }
    for other in paths("beta", &beta) {
        own.get(&other).await.status(404);
    }
}

/// An org's key reads, and gives no command.
#[tokio::test]
async fn only_the_platform_writes() {
    let (world, [acme, _]) = two_orgs().await;
    let key = world.database.key("billing:read,billing:write", Some("acme"));
    let [invoice_id, payment_id, ..] = &acme;
    let item_id = world.value("SELECT item_id FROM invoice_items LIMIT 1").expect("an item");
    let put = |path: &str| request(Method::PUT, path, json!({}));
    let post = |path: String| request(Method::POST, path, json!({ "reason": "r" }));
    for command in [
        put("/v1/sellers/blazz"),
        put("/v1/tax_rates/zero"),
        put("/v1/coupons/C"),
        put("/v1/payment_accounts/bank"),
        put("/v1/orgs/acme/billing"),
        put("/v1/orgs/acme/coupons/C"),
        request(Method::DELETE, "/v1/orgs/acme/coupons/C", Value::Null),
        item("acme", "1"),
        request(Method::DELETE, format!("/v1/orgs/acme/invoice_items/{item_id}"), Value::Null),
        invoice("acme"),
        request(Method::PATCH, format!("/v1/invoices/{invoice_id}"), json!({})),
        request(Method::DELETE, format!("/v1/invoices/{invoice_id}"), Value::Null),
        post(format!("/v1/invoices/{invoice_id}/finalize")),
        post(format!("/v1/invoices/{invoice_id}/void")),
        post(format!("/v1/invoices/{invoice_id}/write_off")),
        credit_note(invoice_id),
        payment("acme", 1),
        post(format!("/v1/payments/{payment_id}/refund")),
        post(format!("/v1/payments/{payment_id}/reverse")),
        post("/v1/orgs/acme/account/adjustments".to_owned()),
    ] {
        world.by(&key).send(command).await.refused(403, "missing_scope");
    }
    for path in ["/v1/sellers", "/v1/tax_rates", "/v1/coupons", "/v1/payment_accounts", "/v1/sellers/blazz"] {
        world.by(&key).get(path).await.refused(403, "missing_scope");
        world.get(path).await.status(200);
    }
    let without = world.database.key("usage:read", None);
    world.by(&without).get("/v1/orgs/acme/account").await.refused(403, "missing_scope");
    world.books_add_up();
}

/// Each command is in the audit log, with the org and what was changed.
#[tokio::test]
async fn commands_are_in_the_audit_log() {
    let (world, _) = two_orgs().await;
    let told = world.value(
        "SELECT string_agg(DISTINCT action, ' ' ORDER BY action) FROM audit_log
         WHERE actor LIKE 'key:%' AND action NOT LIKE 'org.%'",
    );
    assert_eq!(
        told.as_deref(),
        Some(
            "billing_profile.put credit_note.create invoice.create invoice_item.create payment.record \
             payment.refund seller.put tax_rate.put"
        )
    );
    let with_org = "SELECT count(*) FROM audit_log WHERE action = 'payment.record' AND org_id > 0
        AND target LIKE 'pay\\_%' AND detail ->> 'amount' = '10000'";
    assert_eq!(world.number(with_org), 2);
}

/// A command with an `Idempotency-Key` is done once.
#[tokio::test]
async fn a_repeated_command_makes_one_invoice() {
    let world = World::new().invoiced("acme").start().await;
    let send = async || {
        let made = invoice("acme").item("10").finalized();
        let sent = world.daemon().request(made.method, &made.path, &world.key);
        let sent = sent.header("Idempotency-Key", "once").json(&made.body);
        crate::support::daemon::answer(sent).await
    };
    let (first, second) = (send().await, send().await);
    assert_eq!((first.0.as_u16(), &first), (201, &second));
    assert_eq!(world.number("SELECT count(*) FROM own_invoices"), 1);
}
