//! The rules of the architecture, checked in the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path) -> Vec<PathBuf> {
    files_below(dir, &["rs"])
}

fn files_below(dir: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_dir() {
            files.extend(files_below(&path, extensions));
        } else if extension.is_some_and(|extension| extensions.contains(&extension)) {
            files.push(path);
        }
    }
    files
}

/// Which top-level modules of `src/` use which others, tests left out: module, module that it uses, a file
/// that does.
fn uses() -> Vec<(String, String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let top = |file: &Path| {
        let first = file.strip_prefix(&src).expect("below src").components().next().expect("a name");
        first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
    };
    let files = sources(&src);
    let modules: BTreeSet<String> = files.iter().map(|file| top(file)).collect();
    let is_test = |file: &Path| file.iter().any(|part| part == "tests" || part == "tests.rs");
    let mut uses = Vec::new();
    for file in files.iter().filter(|file| !is_test(file)) {
        let text = fs::read_to_string(file).expect("readable");
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
        let code = code.join(" ");
        for after in code.split("crate::").skip(1) {
            let named: Vec<&str> = match after.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap_or_default().split(',').collect(),
                None => vec![after],
            };
            for name in named {
                let is_letter = |c: char| c.is_alphanumeric() || c == '_';
                let name: String = name.trim().chars().take_while(|c| is_letter(*c)).collect();
                if modules.contains(&name) && name != top(file) {
                    uses.push((
                        top(file),
                        name,
                        file.strip_prefix(&src).expect("below").display().to_string(),
                    ));
                }
            }
        }
    }
    uses
}

/// To understand a module you read only the modules below it. So no module may lead back to itself, over any
/// number of others.
#[test]
fn no_modules_go_in_a_circle() {
    let uses = uses();
    assert!(uses.iter().any(|(module, used, _)| (module.as_str(), used.as_str()) == ("usage", "metering")));
    let mut left: BTreeSet<&str> = uses.iter().map(|(module, ..)| module.as_str()).collect();
    // A module that uses none of the rest, or that none of the rest uses, is in no circle.
    loop {
        let is_use = |by: &str, used: &str| uses.iter().any(|one| (&*one.0, &*one.1) == (by, used));
        let is_free = |module: &&str| {
            !left.iter().any(|other| is_use(module, other)) || !left.iter().any(|other| is_use(other, module))
        };
        let free: Vec<&str> = left.iter().copied().filter(is_free).collect();
        if free.is_empty() {
            break;
        }
        left.retain(|module| !free.contains(module));
    }
    let in_circles: BTreeSet<String> = uses
        .iter()
        .filter(|(module, used, _)| left.contains(module.as_str()) && left.contains(used.as_str()))
        .map(|(module, used, file)| format!("{module} uses {used} in {file}"))
        .collect();
    assert!(in_circles.is_empty(), "these modules are in a circle:\n{in_circles:#?}");
}

/// Which modules must not use which others, where the test of circles would not find it.
#[test]
fn dependencies_point_one_way() {
    let below = [
        ("db", &["billing", "stripe", "export", "app"][..]),
        ("billing", &["stripe", "export", "metering", "usage", "quota", "battery", "plans", "invoicing"]),
        ("battery", &["metering", "usage", "quota", "export", "stripe", "plans"]),
        ("metering", &["usage", "quota", "export", "stripe", "plans"]),
        ("quota", &["usage", "export", "stripe", "plans"]),
        ("usage", &["export", "stripe", "plans"]),
        ("plans", &["stripe", "export", "invoicing"]),
        ("invoicing", &["stripe", "export"]),
        ("documents", &["db", "billing", "invoicing", "stripe", "export"]),
        ("stripe", &["export", "plans", "charging"]),
        ("charging", &["export"]),
        ("export", &["stripe"]),
    ];
    let of_domain = ["app", "api", "cli", "server", "workers"];
    let is_broken = |(module, used, _): &&(String, String, String)| {
        let forbidden = below.iter().find(|(of, _)| of == module).map(|(_, forbidden)| *forbidden);
        forbidden
            .is_some_and(|forbidden| forbidden.contains(&used.as_str()) || of_domain.contains(&used.as_str()))
    };
    let uses = uses();
    let broken: Vec<String> =
        uses.iter().filter(is_broken).map(|(_, used, file)| format!("{file} uses {used}")).collect();
    assert_eq!(broken, [""; 0], "these modules use others that they must not use");
}

/// The domain knows nothing of HTTP. The file of an export's stream may name it.
#[test]
fn the_domain_knows_no_http() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let domain = [
        "audit",
        "auth",
        "battery",
        "billing",
        "charging",
        "db",
        "documents",
        "export",
        "invoicing",
        "metering",
        "plans",
        "quota",
        "stripe",
        "usage",
    ];
    let mut knows = Vec::new();
    for module in domain {
        let (dir, file) = (src.join(module), src.join(format!("{module}.rs")));
        let mut files = if dir.is_dir() { sources(&dir) } else { Vec::new() };
        files.extend(file.is_file().then_some(file));
        assert!(!files.is_empty(), "no module {module}");
        for file in files.iter().filter(|file| !file.ends_with("export/stream.rs")) {
            let text = fs::read_to_string(file).expect("readable");
            if text.lines().any(|line| line.split("//").next().unwrap_or_default().contains("actix_web")) {
                knows.push(file.strip_prefix(&src).expect("below src").display().to_string());
            }
        }
    }
    assert_eq!(knows, [""; 0], "these modules use HTTP");
}

/// No line is longer than 110 columns. rustfmt does not check comments, strings and SQL.
#[test]
fn no_line_is_longer_than_110_columns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let long: Vec<String> = ["src", "tests", "benches", "examples"]
        .into_iter()
        .flat_map(|dir| files_below(&root.join(dir), &["rs", "sql"]))
        .flat_map(|file| {
            let text = fs::read_to_string(&file).expect("readable");
            let lines = text.lines().enumerate().filter(|(_, line)| line.chars().count() > 110);
            let name = file.strip_prefix(root).expect("below the root").display().to_string();
            lines.map(|(n, _)| format!("{name}:{}", n + 1)).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(long, [""; 0]);
}
