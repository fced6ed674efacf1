//! The files, tests and settings that documents and examples name exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Every setting's name in the environment and in the file, as `coulomb config` prints them.
fn settings() -> (BTreeSet<String>, BTreeSet<String>) {
    let output = coulomb(&["config"]);
    let shown = String::from_utf8(output.stdout).expect("UTF-8");
    let plain = |line: &&str| !line.starts_with('#') && line.contains('=');
    let env = shown.lines().filter(plain).filter_map(|line| Some(line.split_once('=')?.0.to_owned()));
    let keys = shown
        .lines()
        .filter_map(|line| Some(line.strip_prefix("# file key: ")?.split_once(';')?.0.to_owned()));
    (env.collect(), keys.collect())
}

fn coulomb(args: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coulomb"));
    let kept = std::env::vars().filter(|(name, _)| name == "PATH" || name == "HOME");
    command.env_clear().envs(kept).args(args).output().expect("the coulomb binary runs")
}

#[test]
fn example_settings_are_known() {
    let (env, keys) = settings();
    assert!(env.contains("COULOMB_LISTEN") && keys.contains("listen"), "{env:?} {keys:?}");
    for line in text("deploy/env.example").lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split('=').next().unwrap_or_default();
        assert!(env.contains(name), "deploy/env.example: {name}");
    }
    // Commented ones too: `# key = value`.
    for line in text("deploy/coulomb.toml.example").lines() {
        let line = line.trim_start_matches("# ");
        let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.contains(' ')) else { continue };
        assert!(keys.contains(key.trim_end_matches("_file")), "deploy/coulomb.toml.example: {key}");
    }
    let file = root().join("deploy/coulomb.toml.example");
    let output = coulomb(&["--config", file.to_str().expect("UTF-8"), "config"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The example says that its values are the defaults.
#[test]
fn example_file_holds_the_defaults() {
    let file = root().join("deploy/coulomb.toml.example");
    let values = |args: &[&str]| -> Vec<String> {
        let shown = String::from_utf8(coulomb(args).stdout).expect("UTF-8");
        shown.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    assert_eq!(values(&["--config", file.to_str().expect("UTF-8"), "config"]), values(&["config"]));
}

/// Every name such as `COULOMB_LISTEN` in the documents is a setting.
#[test]
fn settings_named_in_the_documents_exist() {
    let (mut known, _) = settings();
    // Names of the command line, the tests and the examples themselves.
    known.extend(["COULOMB_CONFIG", "COULOMB_STRIPE_EVENTS"].map(str::to_owned));
    for file in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "deploy/Dockerfile",
        "deploy/coulomb.service",
    ] {
        for word in text(file).split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            let about_us = word.starts_with("COULOMB_") || word.starts_with("STRIPE_");
            let name = word.trim_end_matches("_FILE");
            assert!(!about_us || known.contains(name), "{file}: {word}");
        }
    }
}

#[test]
fn alerts_are_about_metrics_that_exist() {
    let metrics = coulomb::metrics::Metrics::default();
    // Metrics of answers and threads appear with the first answer and thread.
    metrics.count_answer("/", actix_web::http::StatusCode::OK, std::time::Duration::ZERO);
    metrics.set_threads(&[coulomb::threads::ThreadState {
        name: "projector-0".to_owned(),
        alive: true,
        current_turn: std::time::Duration::ZERO,
        since_last_turn: std::time::Duration::ZERO,
    }]);
    let text_form = metrics.render_openmetrics();
    let known: BTreeSet<&str> =
        text_form.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let alerts = text("deploy/prometheus-alerts.yml");
    let named: BTreeSet<&str> = alerts
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("coulomb_"))
        .map(|word| word.trim_end_matches("_total"))
        .collect();
    assert!(named.len() > 4, "{named:?}");
    assert!(named.is_subset(&known), "{:?} of {known:?}", named.difference(&known).collect::<Vec<_>>());
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    let (dirs, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    dirs.iter().flat_map(|dir| sources(dir)).chain(files).collect()
}

/// The documents that name files and tests between backquotes.
fn design_documents() -> Vec<String> {
    let pages = fs::read_dir(root().join("docs/design")).expect("a directory");
    let pages = pages.map(|page| page.expect("a page").file_name().into_string().expect("a name"));
    let mut documents: Vec<String> = pages.map(|page| format!("docs/design/{page}")).collect();
    documents.push("ARCHITECTURE.md".to_owned());
    documents
}

/// The text of the test files that a module path names, such as `webhooks` or `faults::log`. A file in a
/// folder may be named without its folder, so several files may have the name.
fn test_files(module: &str) -> Option<String> {
    let end = format!("/{}.rs", module.replace("::", "/"));
    let files = sources(&root().join("tests/it"));
    let named = files.iter().filter(|file| file.to_string_lossy().ends_with(&end));
    let texts: String = named.filter_map(|file| fs::read_to_string(file).ok()).collect();
    (!texts.is_empty()).then_some(texts)
}

/// The documents name tests as `file::test` or `dir::file::test`; ARCHITECTURE.md names a unit test by its
/// name alone.
#[test]
fn tests_named_in_the_architecture_exist() {
    let units: String =
        sources(&root().join("src")).iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    let is_name = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    for document in design_documents() {
        let whole = text(&document);
        let promises = whole.split_once("## The promises").map_or("", |(_, promises)| promises);
        let mut named = 0;
        for word in whole.split('`').skip(1).step_by(2) {
            let Some((module, test)) = word.rsplit_once("::") else { continue };
            if !is_name(&module.replace("::", "_")) || !is_name(test) {
                continue;
            }
            let Some(files) = test_files(module) else { continue };
            assert!(files.contains(&format!("fn {test}(")), "{document} names the test {word}");
            named += 1;
        }
        for word in promises.split('`').skip(1).step_by(2) {
            // Names of several words are tests; single words are tables and columns.
            if is_name(word) && word.matches('_').count() >= 2 {
                assert!(units.contains(&format!("fn {word}(")), "{document} names the test {word}");
            }
        }
        assert!(document != "ARCHITECTURE.md" || named >= 30, "only {named} tests named");
    }
}

/// The test in CONTRIBUTING.md equals the one in the tree, word by word.
#[test]
fn the_example_of_a_test_is_in_the_tree() {
    let document = text("CONTRIBUTING.md");
    let (_, section) = document.split_once("## How to add a test").expect("the section");
    let (_, code) = section.split_once("```rust\n").expect("an example");
    let (example, _) = code.split_once("```").expect("its end");
    assert!(text("tests/it/quota.rs").contains(example), "{example}");
}

/// The files and directories that documents name between backquotes exist.
#[test]
fn files_named_in_the_architecture_exist() {
    let bases = [
        "",
        "src/",
        "src/stripe/",
        "src/export/",
        "src/usage/",
        "src/usage/ingest/",
        "src/quota/",
        "src/battery/",
        "src/battery/effects/",
        "src/api/",
    ];
    for document in design_documents() {
        for word in text(&document).split('`').skip(1).step_by(2) {
            let is_file = [".rs", ".sql", ".html", "/"].iter().any(|end| word.ends_with(end));
            if is_file && !word.contains(['*', ' ']) {
                let is_there = bases.iter().any(|base| root().join(base).join(word).exists());
                assert!(is_there, "{document} names {word}, which does not exist");
            }
        }
    }
}

/// The documentation page works offline and under a strict policy, because users type API keys into it.
#[test]
fn the_docs_page_fetches_nothing_from_elsewhere() {
    let page = text("src/api/docs/page.html");
    for forbidden in [
        "http://",
        "https://",
        "//cdn",
        "@import",
        "url(",
        "eval(",
        "new Function",
        "innerHTML",
        "localStorage",
        "document.cookie",
        " onclick",
        " style=\"",
    ] {
        assert!(!page.contains(forbidden), "page.html has {forbidden}");
    }
    assert!(page.contains("default-src 'none'"));
}

/// The description contains every `$ref` that it names: generators and the documentation page resolve them.
#[test]
fn the_description_holds_what_it_names() {
    fn refs<'a>(value: &'a serde_json::Value, found: &mut BTreeSet<&'a str>) {
        match value {
            serde_json::Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(serde_json::Value::as_str));
                fields.values().for_each(|value| refs(value, found));
            }
            serde_json::Value::Array(items) => items.iter().for_each(|value| refs(value, found)),
            _ => {}
        }
    }
    let description: serde_json::Value =
        serde_json::from_str(&coulomb::api::openapi::document()).expect("the description is JSON");
    let mut named = BTreeSet::new();
    refs(&description, &mut named);
    assert!(named.len() > 10, "{named:?}");
    let dangling: Vec<_> = named
        .into_iter()
        .filter(|name| name.strip_prefix('#').and_then(|at| description.pointer(at)).is_none())
        .collect();
    assert!(dangling.is_empty(), "referenced but missing: {dangling:?}");
}
