//! The house's rules about who may know whom, read off the sources.

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

/// `(file, line)` of every line in `src/<module>` that has one of `words` and whose file is none of `except`.
fn offenders(module: &str, words: &[&str], except: fn(&Path) -> bool) -> Vec<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (dir, file) = (src.join(module), src.join(format!("{module}.rs")));
    let mut files = if dir.is_dir() { sources(&dir) } else { Vec::new() };
    files.extend(file.is_file().then_some(file));
    assert!(!files.is_empty(), "no module {module}");
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !except(file)) {
        for (n, line) in fs::read_to_string(file).expect("readable").lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| code.contains(word)) {
                found.push(format!(
                    "{}:{}: {}",
                    file.strip_prefix(&src).expect("below src").display(),
                    n + 1,
                    line.trim()
                ));
            }
        }
    }
    found
}

/// Handlers, and the delivery that keeps the bytes as the server gave them.
fn at_the_wire(file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // Bodies of responses are the wire, too.
    name == "http.rs"
        || file.ends_with("export/stream.rs")
        || name == "admin.rs"
        || name.ends_with("_http.rs")
}

#[test]
fn dependencies_point_one_way() {
    let nobody: fn(&Path) -> bool = |_| false;
    type Rule<'a> = (&'a str, &'a [&'a str], fn(&Path) -> bool);
    let rules: &[Rule<'_>] = &[
        ("billing", &["crate::stripe", "crate::export", "crate::usage", "crate::quota"], nobody),
        ("billing", &["actix_web"], at_the_wire),
        ("stripe", &["crate::export", "crate::cli", "crate::routes"], nobody),
        ("stripe", &["actix_web"], at_the_wire),
        ("db", &["actix_web", "crate::billing", "crate::stripe", "crate::export", "crate::app"], nobody),
        ("audit", &["actix_web", "crate::billing", "crate::stripe"], nobody),
        ("auth", &["actix_web", "crate::billing", "crate::stripe"], at_the_wire),
        ("config", &["actix_web", "crate::app", "crate::stripe", "crate::billing"], nobody),
        ("usage", &["crate::stripe", "crate::cli", "crate::routes"], nobody),
        ("usage", &["actix_web"], at_the_wire),
        ("billing", &["crate::battery"], nobody),
        ("quota", &["crate::stripe", "crate::export", "crate::cli", "crate::routes"], nobody),
        ("quota", &["actix_web"], at_the_wire),
        ("battery", &["crate::stripe", "crate::cli", "crate::routes"], nobody),
        ("battery", &["actix_web", "crate::usage", "crate::quota", "crate::export"], at_the_wire),
        ("export", &["crate::stripe"], nobody),
        ("export", &["actix_web"], at_the_wire),
        ("usage", &["actix_web", "crate::export"], at_the_wire),
        ("plans", &["crate::stripe", "crate::export", "crate::cli", "crate::routes"], nobody),
        ("plans", &["actix_web"], at_the_wire),
        ("billing", &["crate::plans"], nobody),
        ("quota", &["crate::plans"], nobody),
        ("usage", &["crate::plans"], nobody),
        ("stripe", &["crate::plans"], nobody),
        ("quantity", &["crate::"], nobody),
        ("realm", &["crate::"], nobody),
    ];
    let broken: Vec<String> =
        rules.iter().flat_map(|(module, words, except)| offenders(module, words, *except)).collect();
    assert!(broken.is_empty(), "these know what they must not:\n{}", broken.join("\n"));
}

/// A line is read at one look: 110 columns, as `rustfmt.toml` says, also where rustfmt does not look (comments,
/// strings, SQL).
#[test]
fn no_line_is_longer_than_110_columns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let long: Vec<String> = ["src", "tests", "benches"]
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
