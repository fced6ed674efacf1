//! Money of test mode and of connected accounts is never summed up with ours.

use serde_json::json;

use super::download;
use crate::support::World;
use crate::support::objects::invoice;

#[tokio::test]
async fn test_money_and_live_money_have_sums_of_their_own() {
    let world = World::new().start().await;
    let told = |id: &str, cents: i64, account: &str, livemode: bool| {
        let invoice = invoice(id).status("open").total(cents);
        invoice.with("livemode", livemode).created_event().realm(account, livemode)
    };
    world
        .tell([
            told("in_1", 500, "", true),
            told("in_2", 700, "", true),
            told("in_3", 90_000, "", false),
            told("in_4", 1_000_000, "acct_1", true),
        ])
        .await;
    let totals = async |query: &str| world.get(&format!("/v1/invoices/export/totals?{query}")).await.ok();
    let all = totals("realms=all").await;
    let realms = [("", true, 2, 1_200), ("acct_1", true, 1, 1_000_000), ("", false, 1, 90_000)];
    assert_eq!((&all["rows"], all["realms"].as_array().expect("realms").len()), (&json!(4), 3));
    for (place, (account, livemode, rows, total)) in realms.into_iter().enumerate() {
        let at = |name: &str| all.at(&format!("realms.{place}.{name}")).clone();
        assert_eq!(at("account"), account);
        assert_eq!(at("livemode"), livemode);
        assert_eq!((at("rows"), at("currencies.usd.rows")), (json!(rows), json!(rows)));
        assert_eq!(at("currencies.usd.total"), total);
    }
    assert_eq!(all["currencies"], json!(null), "there is no sum of all");
    let header = download(world.daemon(), &world.key, "").await.headers()["coulomb-control-totals"].clone();
    let header: serde_json::Value = serde_json::from_slice(header.as_bytes()).expect("JSON");
    assert_eq!(header, all.body);
    // Rows of one account and mode have the plain form, whichever it is.
    for (query, rows, total) in
        [("realms=all&livemode=false", 1, 90_000), ("realms=all&account=acct_1", 1, 1_000_000)]
    {
        let shown = totals(query).await;
        assert_eq!(
            (&shown["rows"], shown.at("currencies.usd.total")),
            (&json!(rows), &json!(total)),
            "{query}"
        );
        assert_eq!(shown["realms"], json!(null), "{query}");
    }
}
