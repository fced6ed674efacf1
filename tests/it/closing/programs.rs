//! Other programs that read journals. Tests without them say so and are skipped.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

/// Sums by account and currency, as decimals.
pub(super) type Sums = BTreeMap<(String, String), String>;

fn python() -> Command {
    Command::new(std::env::var("COULOMB_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned()))
}

/// Whether Python has a module; says so if not.
fn has_module(module: &str, package: &str) -> bool {
    let found = python().args(["-c", &format!("import {module}")]).output();
    let is_there = found.is_ok_and(|output| output.status.success());
    if !is_there {
        println!("skipped: no python3 with the package {package} (COULOMB_TEST_PYTHON names one)");
    }
    is_there
}

#[track_caller]
fn text(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn sums(text: &str) -> Sums {
    let line = |line: &str| {
        let mut parts = line.split('\t').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_else(|| panic!("three parts: {line}"));
        ((next(), next()), next())
    };
    text.lines().map(line).collect()
}

/// Beancount must accept the files together; returns the sums of its accounts.
pub(super) fn beancount(files: &[&Path]) -> Option<Sums> {
    const SCRIPT: &str = "
import sys, tempfile, collections
from beancount import loader
from beancount.core import data
names = sys.argv[1:]
with tempfile.NamedTemporaryFile('w', suffix='.beancount', delete=False) as main:
    # Beancount runs the plugins of the main file only.
    if len(names) > 1:
        main.write('plugin \"beancount.plugins.auto_accounts\"\\n')
    main.write(''.join('include \"%s\"\\n' % name for name in names))
entries, errors, _ = loader.load_file(main.name if len(names) > 1 else names[0])
if errors:
    sys.exit('\\n'.join(str(error) for error in errors[:5]))
sums = collections.Counter()
for entry in entries:
    if isinstance(entry, data.Transaction):
        for posting in entry.postings:
            sums[posting.account, posting.units.currency] += posting.units.number
for (account, currency), amount in sorted(sums.items()):
    print(account, currency.lower(), amount, sep='\\t')
";
    has_module("beancount", "beancount").then(|| {
        let output = python().args(["-c", SCRIPT]).args(files).output().expect("python runs");
        sums(&text(&output))
    })
}

/// hledger must accept the files together, strictly; returns the sums of its accounts.
pub(super) fn hledger(files: &[&Path]) -> Option<Sums> {
    if Command::new("hledger").arg("--version").output().is_err() {
        println!("skipped: no hledger");
        return None;
    }
    let run = |args: &[&str]| {
        let mut command = Command::new("hledger");
        for file in files {
            command.arg("-f").arg(file);
        }
        text(&command.args(args).env("LC_ALL", "C.UTF-8").output().expect("hledger runs"))
    };
    run(&["check", "-s"]);
    let table = run(&["balance", "--flat", "--no-total", "--empty", "-O", "csv", "--layout", "bare"]);
    let line = |line: &str| {
        let cells: Vec<String> = line.split(',').map(|cell| cell.trim_matches('"').to_owned()).collect();
        let [account, currency, amount] = &cells[..] else { panic!("three cells: {line}") };
        ((account.clone(), currency.to_lowercase()), amount.clone())
    };
    Some(table.lines().skip(1).map(line).filter(|((_, currency), _)| !currency.is_empty()).collect())
}

/// A reader of DATEV's format must accept a batch; returns the sums of its accounts in the books' currency.
pub(super) fn datev(file: &Path) -> Option<Sums> {
    const MODULE: &str = "mloda.community.feature_groups.experimental.german_ledger.datev";
    const SCRIPT: &str = "
import sys, collections
from mloda.community.feature_groups.experimental.german_ledger.datev import read_batch
header, legs = read_batch(sys.argv[1])
sums = collections.Counter()
for account, amount in zip(legs['Konto'], legs['Betrag']):
    sums[account] += amount
for account, amount in sorted(sums.items()):
    print(account, 'eur', amount, sep='\\t')
";
    has_module(MODULE, "mloda-community-german-ledger").then(|| {
        let output = python().args(["-c", SCRIPT]).arg(file).output().expect("python runs");
        sums(&text(&output))
    })
}

/// The sum of an account in thousandths; none is 0.
pub(super) fn of(sums: &Sums, account: &str, currency: &str) -> i64 {
    let sum = sums.get(&(account.to_owned(), currency.to_owned()));
    sum.map_or(0, |sum| thousandths(sum.parse().unwrap_or_else(|_| panic!("a number: {sum}"))))
}

/// Sums have three decimal places at most.
pub(super) fn thousandths(sum: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "sums of tests are small")]
    let whole = (sum * 1_000.0).round() as i64;
    whole
}
