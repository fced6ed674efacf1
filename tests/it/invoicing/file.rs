//! The billing file: all of it is applied, or nothing.

use serde_json::json;

use crate::support::World;

const FILE: &str = r#"
[tax_rates.ppn]
name = "PPN"
category = "S"
percent = 11

[sellers.blazz]
party = { name = "Blazz", address = { city = "Jakarta", country = "ID" } }
settings = { tax_rate = "ppn", time_zone = "Asia/Jakarta", language = "id" }
default = true

[payment_accounts.paypal]
seller = "blazz"
name = "PayPal"
processor = "paypal"
number = "pay@blazz.example"

[coupons.MATA20]
name = "MATA20"
percent = 20

[orgs.acme]
party = { name = "Acme" }
currency = "idr"
"#;

/// Writes the file, runs `coulomb invoicing apply` and returns exit code, output and errors.
fn apply(world: &World, text: &str, how: &str) -> (Option<i32>, String, String) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    let name = file.path().to_str().expect("text");
    let done = world.command(&["invoicing", "apply", name, how]).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), text(&done.stdout), text(&done.stderr))
}

#[tokio::test]
async fn a_file_is_shown_applied_and_then_nothing_is_left_to_do() {
    let world = World::new().org("acme").start().await;
    let (code, shown, _) = apply(&world, FILE, "--dry-run");
    assert_eq!(code, Some(0), "{shown}");
    for line in ["+ sellers.blazz: new", "+ orgs.acme: new", "    settings.time_zone: \"Asia/Jakarta\""] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
    assert_eq!(world.number("SELECT count(*) FROM sellers"), 0);
    let (code, shown, told) = apply(&world, FILE, "--yes");
    assert_eq!(code, Some(0), "{shown}{told}");
    let seller = world.get("/v1/sellers/blazz").await.status(200);
    assert_eq!(seller.pick(["party.name", "settings.tax_rate", "default"]), json!(["Blazz", "ppn", true]));
    assert_eq!(world.get("/v1/orgs/acme/billing").await.status(200)["currency"], "idr");
    assert_eq!(world.get("/v1/coupons/MATA20").await.status(200)["percent"], "20");
    assert_eq!(apply(&world, FILE, "--yes").1.trim(), "nothing to do");
    let (_, shown, _) = apply(&world, &FILE.replace("percent = 11", "percent = 12"), "--yes");
    assert!(shown.contains("~ tax_rates.ppn") && shown.contains("percent: \"11\" → \"12\""), "{shown}");
    let audited = "SELECT string_agg(action || ' ' || jsonb_array_length(detail -> 'changes'), ', '
        ORDER BY audit_id) FROM audit_log WHERE action = 'invoicing.apply'";
    assert_eq!(world.value(audited).as_deref(), Some("invoicing.apply 5, invoicing.apply 1"));
}

#[tokio::test]
async fn a_file_with_a_mistake_changes_nothing() {
    let world = World::new().org("acme").start().await;
    for (text, told) in [
        (FILE.replace("[orgs.acme]", "[orgs.nobody]"), "orgs.nobody"),
        (FILE.replace("currency = \"idr\"", "currency = \"IDR\""), "orgs.acme.currency"),
        (FILE.replace("percent = 20", "percent = 200"), "coupons.MATA20.percent"),
        (FILE.replace("seller = \"blazz\"", "seller = \"other\""), "payment_accounts.paypal.seller"),
        (FILE.replace("[sellers.blazz]", "[seller.blazz]"), "seller"),
    ] {
        for how in ["--yes", "--dry-run"] {
            let (code, _, error) = apply(&world, &text, how);
            assert_eq!(code, Some(1), "{error}");
            assert!(error.lines().last().unwrap_or_default().contains(told), "{told} in {error}");
        }
    }
    assert_eq!(world.number("SELECT count(*) FROM own_tax_rates"), 0);
}

/// The default seller changes within one file.
#[tokio::test]
async fn one_seller_gives_the_default_to_another() {
    let world = World::new().invoiced("acme").start().await;
    let sellers = json!({ "sellers": {
        "aaa": { "party": { "name": "A" }, "default": true },
        "blazz": { "party": { "name": "B" }, "default": false }
    } });
    let shown = world.post("/v1/invoicing/apply?dry_run=true", sellers.clone()).await.status(200);
    assert_eq!(shown.pick(["applied", "changes.0.id", "changes.1.id"]), json!([false, "blazz", "aaa"]));
    assert_eq!(world.get("/v1/sellers/blazz").await["default"], true);
    assert_eq!(world.post("/v1/invoicing/apply", sellers).await.status(200)["applied"], true);
    assert_eq!(world.get("/v1/sellers/aaa").await["default"], true);
    let wrong = json!({ "coupons": { "A": { "name": "A", "percent": "10" }, "B": { "name": "B" } } });
    world.post("/v1/invoicing/apply", wrong).await.names(400, "coupons.B.percent");
    world.get("/v1/coupons/A").await.status(404);
}
