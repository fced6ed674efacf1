//! Journals of a month with every kind of entry.

use std::path::{Path, PathBuf};

use super::books::{file, march, orgs};
use super::programs::{self, Sums, of, thousandths};
use crate::support::world::World;

const DATEV: &str = "
[datev]
consultant = 1001
client = 42
rates = { usd = \"1.0823\", jpy = \"162.5\" }
";

fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).expect("written");
    path
}

/// Receivables of each org are its balances; sums to compare are in major units.
fn check_balances(world: &World, sums: &Sums) {
    for org in ["acme", "bolt", "yen", "usa"] {
        let sql = format!(
            "SELECT o.public_id || ' ' || a.currency || ' ' || a.balance FROM accounts a
             JOIN orgs o USING (org_id) WHERE o.name = '{org}'"
        );
        let row = world.value(&sql).expect("an account");
        let [id, currency, balance] = row.split(' ').collect::<Vec<_>>()[..] else { panic!("{row}") };
        let scale = if currency == "jpy" { 1_000 } else { 10 };
        let account = format!("Assets:Receivable:{}", id.replacen("org_", "Org-", 1));
        let balance: i64 = balance.parse().expect("a number");
        assert_eq!(of(sums, &account, currency), balance * scale, "{org}");
    }
}

#[tokio::test]
async fn programs_accept_journals_and_come_to_the_same_sums() {
    let world = orgs().start().await;
    march(&world).await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = |format: &str| format!("/v1/journals/2026-03?format={format}");
    let bean = write(dir.path(), "march.beancount", &file(&world, &path("beancount")).await);
    let ledger = write(dir.path(), "march.journal", &file(&world, &path("hledger")).await);
    let expected = [
        // 100 + 33.33 + 11.11 with 19 %; the void invoice left nothing.
        ("Liabilities:Tax:S-19", "eur", -27.44),
        // 49.99 − 12.34 and −30 with 7 %: 3.50 − 0.86 − 2.10.
        ("Liabilities:Tax:S-7", "eur", -0.54),
        ("Income:Item", "eur", -194.44),
        ("Income:Proration", "eur", -37.65),
        ("Income:Item", "usd", -12.0),
        ("Liabilities:Tax:S-19", "jpy", -9_500.0),
        // 200 − 2.50 kept − 10 refunded.
        ("Assets:Processors:Paypal", "eur", 187.5),
        ("Assets:Accounts:Bank", "eur", 15.0),
        ("Expenses:Processor-Fees:Paypal", "eur", 2.5),
        // 47.90 given up, 20 of it paid after all.
        ("Expenses:Bad-Debts", "eur", 27.9),
        ("Income:Adjustments", "eur", 7.0),
        ("Equity:Opening-Balances", "eur", -42.0),
    ];
    for sums in [programs::beancount(&[&bean]), programs::hledger(&[&ledger])].into_iter().flatten() {
        for (account, currency, sum) in expected {
            assert_eq!(of(&sums, account, currency), thousandths(sum), "{account} {currency}: {sums:?}");
        }
        check_balances(&world, &sums);
        for currency in ["eur", "usd", "jpy"] {
            let all: i64 = sums
                .keys()
                .filter(|(_, own)| own == currency)
                .map(|(account, _)| of(&sums, account, currency))
                .sum();
            assert_eq!(all, 0, "{currency}");
        }
    }
    assert_eq!(std::fs::read(&bean).expect("there"), file(&world, &path("beancount")).await);
}

#[tokio::test]
async fn datev_gets_windows_1252_with_the_tax_inside() {
    let world = orgs().start().await;
    march(&world).await;
    let dir = tempfile::tempdir().expect("a directory");
    let accounts = write(dir.path(), "accounts.toml", DATEV.as_bytes());
    let out = dir.path().join("EXTF_Buchungsstapel_2026-03.csv");
    let run = |extra: &[&str]| {
        let mut command = world.command(&["journal", "--month", "2026-03", "--format", "datev", "--out"]);
        command.arg(&out).arg("--accounts").arg(&accounts).args(extra).output().expect("it runs")
    };
    let done = run(&[]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let bytes = std::fs::read(&out).expect("there");
    assert!(bytes.ends_with(b"\r\n") && !bytes.windows(2).any(|two| two[1] == b'\n' && two[0] != b'\r'));
    let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
    assert!(lines[0].starts_with(b"\"EXTF\";700;21;\"Buchungsstapel\";13;"), "the header");
    let text = |line: &[u8]| line.iter().map(|&byte| char::from(byte)).collect::<String>();
    assert!(text(lines[0]).contains(";1001;42;20260101;4;20260301;20260331;"), "{}", text(lines[0]));
    assert_eq!(text(lines[0]).split(';').count(), 31);
    for line in &lines[1..] {
        // The names of the test's orgs hold a semicolon.
        let names = text(line).matches("; \"\"GmbH").count();
        assert_eq!(text(line).split(';').count() - names, 125, "{}", text(line));
    }
    // Ś and ą are not in Windows-1252.
    assert!(lines.iter().any(|line| text(line).contains("acme ?l?sk; \"\"GmbH\"\" INV-2026-000001")));
    let Some(sums) = programs::datev(&out) else { return };
    let debtors: i64 = sums
        .keys()
        .filter(|(account, _)| account.len() == 5)
        .map(|(account, _)| of(&sums, account, "eur"))
        .sum();
    assert_eq!(sums.keys().map(|(account, _)| of(&sums, account, "eur")).sum::<i64>(), 0, "{sums:?}");
    for (account, sum) in [
        // Revenue with 19 % in it: 144.44 + 27.44, and 50000 yen with 19 % at 162.5.
        ("8400", -(171_880 + 366_150)),
        // 37.65 and −30 with 7 %, the tax inside.
        ("8300", -8_190),
        ("8336", -(80_000 + 11_090)),
        // DATEV takes the tax out by itself.
        ("1776", 0),
        ("1200", 15_000),
    ] {
        assert_eq!(of(&sums, account, "eur"), sum, "{account}: {sums:?}");
    }
    let owed = world.number("SELECT sum(amount) * 10 FROM account_entries WHERE currency = 'eur'");
    // 59500 − 60000 yen and 12 dollars.
    assert_eq!(debtors, owed + 366_150 - 369_230 + 11_090, "{sums:?}");
    let again = run(&["--receivables", "single"]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    let single = programs::datev(&out).expect("it was there");
    assert_eq!(of(&single, "10000", "eur"), debtors, "{single:?}");
}

#[tokio::test]
async fn mistakes_of_an_accounts_file_are_one_sentence() {
    let world = orgs().start().await;
    march(&world).await;
    let dir = tempfile::tempdir().expect("a directory");
    for (format, file, expected) in [
        ("hledger", "receivables = \"a\"", "line 1: unknown field `receivables`"),
        ("hledger", "receivable = \"A  B\"", "receivable: is `A  B`, but must be a name without"),
        ("beancount", "receivable = \"Debtors\"", "receivable: is `Debtors`, but must begin with Assets"),
        ("beancount", "[[revenue]]\nkind = \"fees\"", "revenue.0.kind is `fees`, but must be one of fee"),
        ("hledger", "[[money]]\naccount = \"Assets:{org}\"", "is no field of such a posting"),
        ("hledger", DATEV, "must not have [datev]"),
        ("datev", "", "must have [datev] with consultant"),
        ("datev", "[datev]\nconsultant = 7\nclient = 1", "datev.consultant must be the Beraternummer"),
        ("datev", "[datev]\nconsultant = 1001\nclient = 1", "must have datev.rates."),
        ("datev", &format!("write_off = \"Loss\"\n{DATEV}"), "write_off: is `Loss`, but must be a number"),
        ("sap", "", "format: must be hledger, beancount, datev or csv"),
    ] {
        let path = write(dir.path(), "accounts.toml", file.as_bytes());
        let mut command = world.command(&["journal", "--month", "2026-03", "--format", format, "--accounts"]);
        let output = command.arg(path).output().expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{format} {file}: {error}");
        assert!(error.contains(expected) && error.trim().lines().count() == 1, "{format} {file}: {error}");
    }
}

#[tokio::test]
async fn other_orgs_keys_and_wrong_months_are_refused() {
    let world = orgs().start().await;
    march(&world).await;
    let own = world.key_of("acme");
    for path in ["/v1/closings", "/v1/closings/2026-03", "/v1/journals/2026-03?format=csv"] {
        world.by(&own).get(path).await.status(403);
    }
    world.get("/v1/closings/2026-03").await.status(404);
    world.get("/v1/closings/2026-03/export?of=usage").await.status(404);
    world.get("/v1/closings/march").await.names(400, "month");
    world.get("/v1/journals/2026-03?format=xls").await.names(400, "format");
    world.get("/v1/journals/2026-03?format=csv&seller=nobody").await.names(400, "seller");
    world.get("/v1/journals/2026-03?format=csv&receivables=all").await.names(400, "receivables");
    world.get("/v1/journals/2026-03?format=datev").await.names(400, "accounts");
    world.get("/v1/journals/2026-03").await.status(400);
    let csv = String::from_utf8(file(&world, "/v1/journals/2026-03?format=csv&receivables=single").await);
    let csv = csv.expect("UTF-8");
    assert!(csv.lines().any(|line| line.contains(",Assets:Receivable,EUR,")), "{csv}");
    assert_eq!(file(&world, "/v1/journals/2026-02?format=csv").await.split(|&b| b == b'\n').count(), 2);
}
