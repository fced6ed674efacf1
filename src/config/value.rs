//! Parses a setting's text into its type, and shows it.

use std::net::SocketAddr;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use crate::networks::Networks;

/// A type that a setting can have.
pub(super) trait SettingValue: Sized {
    /// A secret is hidden by `show` and may come from a file.
    const SECRET: bool = false;
    /// Parses the text. The error continues a sentence that begins with the setting's name.
    fn parse(text: &str) -> Result<Self, String>;
    /// The value as `coulomb config` prints it.
    fn show(&self) -> String;
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    Auto,
    Pretty,
    /// One JSON object a line.
    Json,
}

impl SettingValue for LogFormat {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err(format!("is `{text}`, but must be auto, pretty or json")),
        }
    }

    fn show(&self) -> String {
        format!("{self:?}").to_ascii_lowercase()
    }
}

/// What happens to usage records that are older than the retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetentionMode {
    /// Their partition is detached from the table and kept.
    Detach,
    /// Their partition is deleted.
    Drop,
}

impl SettingValue for RetentionMode {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "detach" => Ok(Self::Detach),
            "drop" => Ok(Self::Drop),
            _ => Err(format!("is `{text}`, but must be detach or drop")),
        }
    }

    fn show(&self) -> String {
        format!("{self:?}").to_ascii_lowercase()
    }
}

/// What a change of plan within a period does to the battery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proration {
    /// Adds the new plan's units for the rest of the period, and takes the old plan's units for it back.
    Prorate,
    /// Adds at once what the new plan has more for a whole period.
    Difference,
    /// Changes nothing before the next period.
    None,
}

impl SettingValue for Proration {
    fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "prorate" => Ok(Self::Prorate),
            "difference" => Ok(Self::Difference),
            "none" => Ok(Self::None),
            _ => Err(format!("is `{text}`, but must be prorate, difference or none")),
        }
    }

    fn show(&self) -> String {
        format!("{self:?}").to_ascii_lowercase()
    }
}

/// The Stripe mode that has effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StripeMode {
    Live,
    Test,
}

impl SettingValue for StripeMode {
    fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "live" => Ok(Self::Live),
            "test" => Ok(Self::Test),
            _ => Err(format!("is `{text}`, but must be live or test")),
        }
    }

    fn show(&self) -> String {
        format!("{self:?}").to_ascii_lowercase()
    }
}

/// Addresses and networks, separated by commas.
impl SettingValue for Networks {
    fn parse(text: &str) -> Result<Self, String> {
        Self::read(text)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// Ids of connected Stripe accounts, separated by commas.
impl SettingValue for Vec<String> {
    fn parse(text: &str) -> Result<Self, String> {
        let ids = text.split(',').map(str::trim).filter(|id| !id.is_empty());
        ids.map(|id| match id.strip_prefix("acct_") {
            Some(rest)
                if !rest.is_empty()
                    && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') =>
            {
                Ok(id.to_owned())
            }
            _ => Err(format!(
                "names `{id}`, but must be ids of connected accounts (`acct_…`), separated by commas"
            )),
        })
        .collect()
    }

    fn show(&self) -> String {
        self.join(",")
    }
}

macro_rules! whole_numbers {
    ($($type:ty),+) => { $(
        impl SettingValue for $type {
            fn parse(text: &str) -> Result<Self, String> {
                text.trim().parse().map_err(|_| format!("is `{text}`, but must be a whole number from 0 to \
                    {}", Self::MAX))
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )+ };
}
whole_numbers!(u16, u32);

impl SettingValue for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(format!("is `{text}`, but must be true or false")),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl SettingValue for SocketAddr {
    fn parse(text: &str) -> Result<Self, String> {
        text.trim()
            .parse()
            .map_err(|_| format!("is `{text}`, but must be an address with a port such as 127.0.0.1:8080"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl SettingValue for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl SettingValue for Option<PathBuf> {
    fn parse(text: &str) -> Result<Self, String> {
        Ok((!text.is_empty()).then(|| PathBuf::from(text)))
    }

    fn show(&self) -> String {
        self.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }
}

impl SettingValue for Option<SecretString> {
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        Ok((!text.is_empty()).then(|| SecretString::from(text)))
    }

    fn show(&self) -> String {
        self.as_ref().map(|_| "(hidden)".to_owned()).unwrap_or_default()
    }
}

impl SettingValue for Vec<SecretString> {
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(SecretString::from).collect())
    }

    fn show(&self) -> String {
        let hidden =
            self.iter().map(|secret| if secret.expose_secret().is_empty() { "" } else { "(hidden)" });
        hidden.collect::<Vec<_>>().join(",")
    }
}

/// A TOML scalar as text, or an array of scalars joined by commas; `None` for any other value.
pub(super) fn from_toml(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Array(parts) => {
            parts.iter().map(from_toml).collect::<Option<Vec<_>>>().map(|parts| parts.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}
