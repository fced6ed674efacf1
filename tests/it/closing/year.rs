//! A year of many orgs: other programs accept its journals, and come to the sums of the database.
//!
//! The year of 1,000 orgs takes minutes: `cargo test --test it closing::year -- --ignored`.

use serde_json::{Value, json};

use super::books::{file, invoice, payment, post, sellers};
use super::programs::{self, Sums, of};
use crate::support::world::World;

/// Always the same numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A month of an org: an invoice, most often its payment, and sometimes what goes wrong.
async fn month(world: &World, org: &str, random: &mut Random, n: &mut u32) {
    let price = |random: &mut Random| format!("{}.{:02}", random.below(400), random.below(100));
    let rates = ["vat19", "vat7", "reverse"];
    let mut lines: Vec<(&str, String, &str)> = (0..=random.below(2))
        .map(|_| ("item", price(random), rates[usize::try_from(random.below(3)).expect("small")]))
        .collect();
    lines.push(("proration", price(random), "vat19"));
    let lines: Vec<(&str, &str, &str)> =
        lines.iter().map(|(kind, price, rate)| (*kind, price.as_str(), *rate)).collect();
    let made = world.send(invoice(org, &lines)).await.status(201);
    let (id, total) = (made.id(), made["total"].as_i64().expect("a number"));
    *n += 1;
    match random.below(12) {
        0 => {
            let note = json!({ "invoice": id, "reason": "all of it" });
            if total > 0 {
                world.send(post("/v1/credit_notes", note)).await.status(201);
            }
        }
        1 if made["status"] == "open" => {
            world.post(&format!("/v1/invoices/{id}/void"), Value::Null).await.ok();
        }
        2 if made["status"] == "open" => {
            world.post(&format!("/v1/invoices/{id}/write_off"), Value::Null).await.ok();
        }
        3 => {}
        more => {
            let amount = total + if more == 4 { 1_000 } else { 1 };
            let paid = payment(org, "eur", amount, &format!("PAY-{n}")).with("fee", amount / 50);
            let paid = world.send(paid).await.status(201).id();
            if more == 5 {
                let body = json!({ "amount": amount / 3 + 1, "reason": "asked for" });
                world.post(&format!("/v1/payments/{paid}/refund"), body).await.ok();
            }
        }
    }
}

/// The sums that the database says, by account, in thousandths.
const EXPECTED: &str = "
    WITH lines AS (
        SELECT l.kind, l.tax_percent, l.tax_category, l.amount - l.discount AS net, l.tax
        FROM own_invoice_lines l JOIN own_invoices i USING (org_id, invoice_id)
        WHERE i.status NOT IN ('draft', 'void')
        UNION ALL
        SELECT l.kind, l.tax_percent, l.tax_category, -c.net, -c.tax
        FROM own_credit_note_lines c
        JOIN own_invoice_lines l USING (org_id, invoice_id, line_number)
        JOIN own_invoices i USING (org_id, invoice_id) WHERE i.status <> 'void')
    SELECT string_agg(account || ' ' || sum * 10, E'\\n') FROM (
        SELECT 'Income:' || initcap(kind) AS account, -sum(net)::bigint AS sum FROM lines GROUP BY 1
        UNION ALL
        SELECT 'Liabilities:Tax:' || tax_category || '-' || trim_scale(tax_percent), -sum(tax)::bigint
        FROM lines WHERE tax_percent > 0 GROUP BY 1
        UNION ALL SELECT 'Assets:Processors:Paypal',
            sum(amount - coalesce(fee, 0) - amount_refunded - amount_reversed)::bigint FROM own_payments
        UNION ALL SELECT 'Expenses:Processor-Fees:Paypal', sum(fee)::bigint FROM own_payments
        UNION ALL SELECT 'Expenses:Bad-Debts', -sum(amount)::bigint FROM account_entries
            WHERE kind IN ('write_off', 'recovery')
        UNION ALL SELECT 'Assets:Receivable:Org-' || substr(public_id, 5), balance
            FROM accounts JOIN orgs USING (org_id)) sums";

fn check(world: &World, sums: &Sums) {
    let expected = world.value(EXPECTED).expect("sums");
    for line in expected.lines() {
        let (account, sum) = line.split_once(' ').expect("two parts");
        assert_eq!(of(sums, account, "eur").to_string(), sum, "{account}");
    }
}

async fn campaign(orgs: usize) {
    let names: Vec<String> = (0..orgs).map(|n| format!("org{n}")).collect();
    let named: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "eur")).collect();
    let world = sellers(&named).start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let (mut random, mut n) = (Random(7), 0);
    let (mut beans, mut ledgers) = (Vec::new(), Vec::new());
    for number in 3..=12 {
        world.turn(&format!("2026-{number:02}-15T12:00:00Z"));
        for name in &names {
            month(&world, name, &mut random, &mut n).await;
        }
        let (next_year, next) = if number == 12 { (2027, 1) } else { (2026, number + 1) };
        world.turn(&format!("{next_year}-{next:02}-02T12:00:00Z"));
        world.post("/v1/closings", json!({ "month": format!("2026-{number:02}") })).await.status(200);
        for (format, files) in [("beancount", &mut beans), ("hledger", &mut ledgers)] {
            let bytes = file(&world, &format!("/v1/journals/2026-{number:02}?format={format}")).await;
            let path = dir.path().join(format!("{number:02}.{format}"));
            std::fs::write(&path, bytes).expect("written");
            files.push(path);
        }
    }
    fn paths(files: &[std::path::PathBuf]) -> Vec<&std::path::Path> {
        files.iter().map(std::path::PathBuf::as_path).collect()
    }
    for sums in
        [programs::beancount(&paths(&beans)), programs::hledger(&paths(&ledgers))].into_iter().flatten()
    {
        check(&world, &sums);
    }
    // The last manifest's closing balance is that of all accounts.
    let last = world.get("/v1/closings/2026-12").await.status(200);
    let balance = world.number("SELECT sum(balance) FROM accounts WHERE currency = 'eur'");
    assert_eq!(*last.at("manifest.entries.balances.0.closing"), json!(balance));
    assert_eq!(super::books::differences(&world, &[]), [] as [String; 0]);
}

#[tokio::test]
async fn a_year_of_twenty_orgs_adds_up_everywhere() {
    campaign(20).await;
}

#[tokio::test]
#[ignore = "the year of full size takes minutes"]
async fn a_year_of_a_thousand_orgs_adds_up_everywhere() {
    campaign(1_000).await;
}
