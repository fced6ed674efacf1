//! An account that the fake fills by itself.

use serde_json::Value;

use super::{Client, MIDNIGHT, client};
use crate::support::fake_stripe::FakeStripe;

/// Reads a list to its end.
async fn read_all(client: &Client, path: &str) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let after = all
            .last()
            .map_or(String::new(), |last| format!("&starting_after={}", last["id"].as_str().expect("an id")));
        let page = client.get(&format!("{path}limit=100{after}")).await.body;
        all.extend(page["data"].as_array().expect("a list").iter().cloned());
        if page["has_more"] == false {
            return all;
        }
    }
}

#[tokio::test]
async fn a_populated_account_is_consistent_and_the_same_each_time() {
    let client = client();
    let account = client.fake.account("");
    account.populate(1500, 3);
    let state = account.state();
    assert!(state.len() >= 1500);
    for kind in ["subscription", "invoice", "charge", "refund", "dispute", "credit_note", "checkout.session"]
    {
        assert!(!account.ids(kind).is_empty(), "no {kind}");
    }
    let again = FakeStripe::start_at(MIDNIGHT);
    again.account("").populate(1500, 3);
    assert!(again.account("").state() == state);
    for invoice in account.all("invoice") {
        let sum: i64 = invoice["lines"]["data"]
            .as_array()
            .expect("lines")
            .iter()
            .fold(0, |sum, line| sum + line["amount"].as_i64().expect("an amount"));
        assert_eq!(invoice["total"], sum, "{}", invoice["id"]);
        if invoice["status"] == "paid" {
            assert_eq!(invoice["amount_due"], invoice["amount_paid"], "{}", invoice["id"]);
        }
    }
    for charge in account.all("charge") {
        let refunds = account.all("refund");
        let of_charge = refunds
            .iter()
            .filter(|refund| refund["charge"] == charge["id"] && refund["status"] == "succeeded");
        let sum: i64 = of_charge.map(|refund| refund["amount"].as_i64().expect("an amount")).sum();
        assert_eq!(charge["amount_refunded"], sum, "{}", charge["id"]);
    }
    let lists = [
        ("customer", "customers?"),
        ("subscription", "subscriptions?status=all&"),
        ("invoice", "invoices?"),
        ("charge", "charges?"),
        ("price", "prices?"),
    ];
    for (kind, path) in lists {
        let read = read_all(&client, &format!("/v1/{path}")).await;
        let listed = |object: &&Value| object["test_clock"].is_null() && object["unit_amount"] != 1234;
        let all = account.all(kind);
        let expected: Vec<&Value> = all.iter().filter(|object| kind == "invoice" || listed(object)).collect();
        let ids = |list: Vec<&Value>| list.iter().map(|one| one["id"].clone()).collect::<Vec<_>>();
        let newest_first: Vec<&Value> = expected.into_iter().rev().collect();
        assert_eq!(ids(read.iter().collect()), ids(newest_first), "{kind}");
    }
    client.fake.account("").mutate(50, 4);
    assert!(account.state() != state);
}
