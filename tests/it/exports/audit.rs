//! Every export leaves an audit entry: who took which rows, whether it arrived whole or broke off.

use serde_json::{Value, json};

use super::streams::{heavy_books, until};
use super::{books, bytes, download};
use crate::support::{Daemon, Database};

/// The entries about exports, oldest first: org, actor, action, target, detail.
fn entries(database: &Database) -> Vec<Value> {
    let sql =
        "SELECT coalesce(json_agg(json_build_array(coalesce(o.public_id, ''), a.actor, a.action, a.target,
            a.detail, a.request_id) ORDER BY a.audit_id), '[]')
        FROM audit_log a LEFT JOIN orgs o USING (org_id) WHERE a.action LIKE 'export.%'";
    let rows: Value = serde_json::from_str(&database.value(sql).expect("entries")).expect("JSON");
    rows.as_array().expect("a list").clone()
}

#[tokio::test]
async fn an_export_says_who_took_what() {
    let database = books();
    let daemon = Daemon::start(&database);
    let platform = database.key("billing:read", None);
    let own = database.key("billing:read", Some("org_a"));
    let response =
        download(&daemon, &platform, "status=paid&currency=eur&livemode=true&account=acct_1").await;
    let told = response.headers()["coulomb-control-totals"].to_str().expect("text").to_owned();
    response.bytes().await.expect("a body");
    bytes(&daemon, &own, "of=refunds&format=xlsx").await;
    bytes(&daemon, &platform, "of=payments&org=org_b").await;
    let entries = entries(&database);
    let [first, second, third] = &*entries else { panic!("{entries:?}") };
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let key = |key: &str| format!("key:{}", key.split('_').nth(2).expect("an id"));
    assert_eq!((&first[0], &first[1]), (&json!(""), &json!(key(&platform))));
    assert_eq!((&first[2], &first[3]), (&json!("export.write"), &json!("invoices")));
    let parameters = json!({ "status": "paid", "currency": "eur", "livemode": "true", "account": "acct_1",
        "realms": "all" });
    assert_eq!((&first[4]["format"], &first[4]["parameters"]), (&json!("csv"), &parameters));
    assert_eq!((&first[4]["rows"], &first[4]["totals"]), (&told["rows"], &told));
    assert_eq!(first[4]["totals_sha256"].as_str().map(str::len), Some(64));
    assert!(first[5].as_str().is_some_and(|id| !id.is_empty()), "the request has an id");
    assert_eq!((&second[0], &second[1]), (&json!("org_a"), &json!(key(&own))), "an org writes its own");
    assert_eq!((&second[3], &second[4]["format"]), (&json!("refunds"), &json!("xlsx")));
    assert_eq!(third[0], "org_b", "the org that was named");
}

#[tokio::test]
async fn what_is_refused_or_only_counted_leaves_no_entry() {
    let database = books();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    for path in ["?after=in_nowhere", "?void=maybe", "?org=org_x", "/totals"] {
        daemon.get(&format!("/v1/invoices/export{path}"), &key).await;
    }
    assert_eq!(entries(&database), [] as [Value; 0]);
}

#[tokio::test]
async fn an_export_that_breaks_off_says_how_far_it_came() {
    let database = heavy_books();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    let mut response = download(&daemon, &key, "format=jsonl").await;
    assert!(response.chunk().await.expect("a part").is_some());
    drop(response);
    until("the entry", || !entries(&database).is_empty()).await;
    let entries = entries(&database);
    let [entry] = &*entries else { panic!("{entries:?}") };
    assert_eq!((&entry[2], &entry[3]), (&json!("export.break_off"), &json!("invoices")));
    let rows = entry[4]["rows"].as_i64().expect("rows");
    assert!(0 < rows && rows < 4_000, "{rows}");
    assert!(entry[4]["error"].as_str().is_some_and(|error| error.contains("client")), "{entry}");
}

#[tokio::test]
async fn a_download_without_its_entry_does_not_look_complete() {
    let database = books();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'the log is full'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    for format in ["csv", "jsonl", "xlsx", "parquet"] {
        let answer = download(&daemon, &key, &format!("format={format}")).await.bytes().await;
        assert!(answer.is_err(), "{format} looks complete");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("all.csv");
    let file = path.to_str().expect("UTF-8");
    let run =
        database.command(&["export", "invoices", "--realms", "all", "--out", file]).output().expect("runs");
    assert!(!run.status.success(), "{run:?}");
    assert!(String::from_utf8_lossy(&run.stderr).contains("the log is full"), "{run:?}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0, "no file is left");
    database.execute("DROP TRIGGER refuse ON audit_log");
    bytes(&daemon, &key, "").await;
}

#[tokio::test]
async fn the_command_leaves_an_entry_too() {
    let database = books();
    let output = database.command(&["export", "invoices", "--of", "refunds", "--realms", "all"]);
    let printed = { output }.env("USER", "anna").output().expect("runs");
    assert!(printed.status.success());
    database.run(&["export", "battery", "--org", "org_a"]);
    let entries = entries(&database);
    let [first, second] = &*entries else { panic!("{entries:?}") };
    let lines = printed.stdout.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(
        (&first[1], &first[3], &first[4]["rows"]),
        (&json!("cli:anna"), &json!("refunds"), &json!(lines - 1))
    );
    assert_eq!((&second[0], &second[3], &second[5]), (&json!("org_a"), &json!("battery"), &Value::Null));
}
