//! Where a setting's text comes from: the environment, a file of one secret, or the settings file.

use std::collections::BTreeMap;
use std::path::Path;

use super::{ConfigError, names, value};

/// The source of a setting's value.
#[derive(Clone, Debug)]
pub(super) struct SettingSource {
    /// `environment`, `secret file`, `file` or `default`.
    pub(super) kind: &'static str,
    /// How an error names the setting: its name in the environment; or file, line and key.
    place: String,
}

impl SettingSource {
    pub(super) fn default_of(name: &str) -> Self {
        Self { kind: "default", place: name.to_owned() }
    }

    pub(super) fn error(&self, problem: &str) -> ConfigError {
        ConfigError { name: self.place.clone(), problem: problem.to_owned() }
    }
}

/// A value in the settings file.
#[derive(Clone, Debug)]
pub struct FileSetting {
    text: String,
    /// Such as `coulomb.toml, line 3: listen`.
    place: String,
}

/// The settings file: values by key.
pub type FileSettings = BTreeMap<String, FileSetting>;

/// The text of a setting, and where it comes from; `None` if it is not set.
pub(super) fn lookup(
    name: &'static str,
    secret: bool,
    env: &dyn Fn(&str) -> Option<String>,
    file: &FileSettings,
) -> Result<Option<(String, SettingSource)>, ConfigError> {
    let env = |name: &str| env(name).filter(|text| !text.trim().is_empty());
    let in_file = |name: &str| file.get(&file_key(name)).filter(|setting| !setting.text.trim().is_empty());
    let pointer = format!("{name}_FILE");
    if secret {
        // The environment overrides the file. Two values of one source leave open which of them counts.
        let in_env = env(name).and(env(&pointer)).map(|_| (pointer.clone(), name.to_owned()));
        let twice = in_file(name).and(in_file(&pointer));
        let twice = in_env.or(twice.map(|setting| (setting.place.clone(), file_key(name))));
        if let Some((place, name)) = twice {
            return Err(ConfigError { name: place, problem: format!("stands beside {name}: set only one") });
        }
    }
    if let Some(text) = env(name) {
        return Ok(Some((text, SettingSource { kind: "environment", place: name.to_owned() })));
    }
    if secret {
        let path = env(&pointer).map(|path| (path, pointer.clone()));
        let path =
            path.or_else(|| in_file(&pointer).map(|setting| (setting.text.clone(), setting.place.clone())));
        if let Some((path, place)) = path {
            let source = SettingSource { kind: "secret file", place };
            return Ok(Some((read_secret(&path).map_err(|problem| source.error(&problem))?, source)));
        }
    }
    Ok(in_file(name)
        .map(|setting| (setting.text.clone(), SettingSource { kind: "file", place: setting.place.clone() })))
}

fn read_secret(path: &str) -> Result<String, String> {
    // Do not print what is not clearly a path: somebody may have set the secret itself instead.
    let shown = if path.starts_with('/') || path.starts_with("./") || path.starts_with("../") {
        path
    } else {
        "a file"
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("names {shown}, which cannot be read: {error}"))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.trim().is_empty() {
        return Err(format!("names {shown}, which is empty"));
    }
    Ok(text.to_owned())
}

/// The key in the file: `pool_size` for `COULOMB_POOL_SIZE`, `database_url` for `DATABASE_URL`.
pub(super) fn file_key(env: &str) -> String {
    env.strip_prefix("COULOMB_").unwrap_or(env).to_ascii_lowercase()
}

pub(super) fn read_file(path: &Path) -> Result<FileSettings, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError { name: name.clone(), problem: format!("cannot be read: {error}") })?;
    parse_file(&name, &text)
}

/// Parses the file's text; `name` is the file's name, for errors. Unknown keys are refused: after a typo the
/// default would silently stay in force.
pub(super) fn parse_file(name: &str, text: &str) -> Result<FileSettings, ConfigError> {
    let place = |at: usize| format!("{name}, line {}", 1 + text[..at.min(text.len())].matches('\n').count());
    let table: BTreeMap<String, toml::Spanned<toml::Value>> =
        toml::from_str(text).map_err(|error| ConfigError {
            name: error.span().map_or_else(|| name.to_owned(), |span| place(span.start)),
            problem: format!("is not valid TOML: {}", error.message()),
        })?;
    let mut settings = BTreeMap::new();
    for (key, value) in table {
        let place = format!("{}: {key}", place(value.span().start));
        let error = |problem: String| ConfigError { name: place.clone(), problem };
        if !names::is_file_key(&key) {
            return Err(error(format!("is not a setting: {}", names::hint(&key, names::file_keys()))));
        }
        let text = value::from_toml(value.get_ref())
            .ok_or_else(|| error("must be one value or an array of values".to_owned()))?;
        settings.insert(key, FileSetting { text, place });
    }
    Ok(settings)
}
