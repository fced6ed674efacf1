//! Every setting: its name, meaning, unit and default, on one page.
//!
//! A setting is read from the environment, else from the TOML file named by `--config` or `COULOMB_CONFIG`
//! (same name in lower case without `COULOMB_`), else it has its default. Secrets may also come from a file
//! named by `<NAME>_FILE`. An empty value is no value. A wrong value, an unknown name in the environment or
//! the file, or an unreadable secret file is one [`ConfigError`] that names the setting, and its line in the
//! file.

mod database_url;
mod log_filter;
mod names;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::realm::ActingRealms;
pub use database_url::{redact, without_password};
use secrecy::{ExposeSecret, SecretString};
use value::Value;
pub use value::{LogFormat, Proration, RetentionMode, StripeMode};

/// A setting that is wrong, as one sentence that names it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{name} {problem}")]
pub struct ConfigError {
    /// The setting's name in the environment, or the file, the line and the key.
    pub name: String,
    /// What is wrong and what is expected.
    pub problem: String,
}

/// One setting as `coulomb config` lists it.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Name in the environment.
    pub env: &'static str,
    /// Key in the file.
    pub key: String,
    /// Effective value; secrets are hidden.
    pub value: String,
    /// Where it came from: `environment`, `file` or `default`.
    pub source: &'static str,
    pub doc: &'static str,
}

macro_rules! settings {
    ($( $(#[doc = $doc:literal])+ $field:ident : $type:ty = $env:literal, $default:expr; )+) => {
        /// The effective settings.
        #[derive(Clone, Debug)]
        pub struct Config {
            $(
                $(#[doc = $doc])+
                #[doc = concat!("\n\nSetting `", $env, "`, default `", stringify!($default), "`.")]
                pub $field: $type,
            )+
            sources: BTreeMap<&'static str, SettingSource>,
            from_file: bool,
        }

        impl Config {
            fn read(env: &dyn Fn(&str) -> Option<String>, file: &FileSettings) -> Result<Self, ConfigError> {
                let mut sources = BTreeMap::new();
                Ok(Self {
                    $( $field: {
                        let found = lookup($env, <$type as Value>::SECRET, env, file)?;
                        let (text, source) =
                            found.unwrap_or_else(|| (String::from($default), SettingSource::default($env)));
                        let value = <$type as Value>::parse(&text).map_err(|problem| source.wrong(&problem))?;
                        sources.insert($env, source);
                        value
                    }, )+
                    sources,
                    from_file: !file.is_empty(),
                })
            }

            /// All settings with their effective values, secrets hidden.
            #[must_use]
            pub fn shown(&self) -> Vec<Shown> {
                vec![ $( Shown {
                    env: $env,
                    key: file_key($env),
                    value: Value::show(&self.$field),
                    source: self.sources[$env].kind,
                    doc: concat!($($doc, "\n"),+).trim(),
                }, )+ ]
            }
        }

        /// Every setting's name in the environment, and whether it is a secret.
        const NAMES: &[(&str, bool)] = &[ $(($env, <$type as Value>::SECRET)),+ ];
    };
}

settings! {
    /// Address and port to listen on.
    listen: SocketAddr = "COULOMB_LISTEN", "127.0.0.1:8080";
    /// Directory of the embedded PostgreSQL and of what else the daemon keeps on disk.
    /// Default: `/var/lib/coulomb` for root, else `$XDG_DATA_HOME/coulomb` or `~/.local/share/coulomb`.
    data_dir: Option<PathBuf> = "COULOMB_DATA_DIR", "";
    /// URL of the PostgreSQL server (15 or newer). Unset: an embedded one is run in the data directory.
    database_url: Option<SecretString> = "DATABASE_URL", "";
    /// URL with the rights to create tables and roles, when `DATABASE_URL` has fewer. Used for migrations
    /// only.
    database_owner_url: Option<SecretString> = "COULOMB_DATABASE_OWNER_URL", "";
    /// Directory of the run file, by which commands find the running daemon. Default: `/run/coulomb` where
    /// root made it, else `$XDG_RUNTIME_DIR/coulomb`, and the data directory of the embedded PostgreSQL.
    run_dir: Option<PathBuf> = "COULOMB_RUN_DIR", "";
    /// Directory of `initdb` and `postgres` for the embedded server. Unset: searched in the usual places.
    postgres_bin_dir: Option<PathBuf> = "COULOMB_POSTGRES_BIN_DIR", "";
    /// Signing secrets (`whsec_…`) of the Stripe webhook endpoints, separated by commas; several while one is
    /// rotated.
    stripe_webhook_secret: Vec<SecretString> = "STRIPE_WEBHOOK_SECRET", "";
    /// Stripe API key (`sk_…` or `rk_…`), for fetching objects that thin events only name. Nothing calls
    /// Stripe yet: such events are listed as `needs_fetch`.
    stripe_secret_key: Option<SecretString> = "STRIPE_SECRET_KEY", "";
    /// How far a signature's time may lie from now, in seconds.
    stripe_tolerance_s: u32 = "COULOMB_STRIPE_TOLERANCE_S", "300";
    /// The mode that acts here, `live` or `test`. What Stripe sends of the other is mirrored, and links,
    /// grants and changes nothing.
    stripe_mode: StripeMode = "COULOMB_STRIPE_MODE", "live";
    /// Connected accounts (`acct_…`) that act beside your own, separated by commas. What Stripe sends of
    /// others is mirrored alone.
    stripe_accounts: Vec<String> = "COULOMB_STRIPE_ACCOUNTS", "";
    /// Create an org for each Stripe customer that names none (`metadata.org_id`, `client_reference_id`).
    stripe_org_per_customer: bool = "COULOMB_STRIPE_ORG_PER_CUSTOMER", "false";
    /// Threads that store webhooks; each holds a database connection. One is the fastest unless commits take
    /// long, as over a network.
    inbox_writers: u16 = "COULOMB_INBOX_WRITERS", "1";
    /// Webhooks that may wait for a writer before further ones are answered 503.
    inbox_queue: u32 = "COULOMB_INBOX_QUEUE", "4096";
    /// Threads that project the inbox; each holds a database connection. 0: this daemon projects nothing.
    projectors: u16 = "COULOMB_PROJECTORS", "3";
    /// Stripe events projected in one transaction, at most.
    projection_batch: u32 = "COULOMB_PROJECTION_BATCH", "500";
    /// Failed attempts after which a Stripe event is quarantined.
    projection_attempts: u16 = "COULOMB_PROJECTION_ATTEMPTS", "5";
    /// How long an org whose Stripe subscription is `past_due` keeps its plan, in days from when the unpaid
    /// invoice was due. 0: not at all.
    past_due_grace_days: u16 = "COULOMB_PAST_DUE_GRACE_DAYS", "14";
    /// Threads that write usage; each holds a database connection.
    usage_writers: u16 = "COULOMB_USAGE_WRITERS", "2";
    /// Usage events that share one commit at most, unless a single request has more.
    usage_batch: u32 = "COULOMB_USAGE_BATCH", "40000";
    /// Usage events that may wait for a writer before further requests are answered 429. Nobody takes more
    /// places than are still free then: one key or org alone gets half.
    usage_queue: u32 = "COULOMB_USAGE_QUEUE", "200000";
    /// Largest body of usage, unpacked, in bytes.
    usage_body_limit: u32 = "COULOMB_USAGE_BODY_LIMIT", "16777216";
    /// Memory that the bodies of usage under way may take together, in MiB; beyond it requests are answered
    /// 429. Nobody takes more of it than is still free then: one key or org alone gets half.
    usage_memory_mib: u32 = "COULOMB_USAGE_MEMORY_MIB", "64";
    /// Threads that make and settle reservations; each holds a database connection.
    quota_writers: u16 = "COULOMB_QUOTA_WRITERS", "2";
    /// Requests about quotas that may wait for a thread before further ones are answered 429; one key or org
    /// alone gets half.
    quota_queue: u32 = "COULOMB_QUOTA_QUEUE", "4096";
    /// How long the counters of past quota periods are kept, in days. Those of billing periods are kept three
    /// years longer.
    quota_retention_days: u16 = "COULOMB_QUOTA_RETENTION_DAYS", "400";
    /// How long the counters of single subjects are kept after their period, in days.
    quota_subject_retention_days: u16 = "COULOMB_QUOTA_SUBJECT_RETENTION_DAYS", "7";
    /// What a change of plan within a period does to the battery: `prorate` (units of the new plan for what
    /// is left of the period, less those of the old one), `difference` (what a whole period has more, at
    /// once) or `none` (nothing before the next period).
    battery_proration: Proration = "COULOMB_BATTERY_PRORATION", "prorate";
    /// Connections for API requests. One org has half of them at most at the same time.
    pool_size: u16 = "COULOMB_POOL_SIZE", "8";
    /// How long an API request waits for a connection before it is answered 503, in milliseconds.
    pool_wait_ms: u32 = "COULOMB_POOL_WAIT_MS", "1000";
    /// Longest statement of an API request, in milliseconds. Exports are exempt.
    statement_timeout_ms: u32 = "COULOMB_STATEMENT_TIMEOUT_MS", "30000";
    /// How long whatever a caller waits for (an API request, a webhook, usage) waits for a lock in the
    /// database before it is answered 503, in milliseconds.
    lock_timeout_ms: u32 = "COULOMB_LOCK_TIMEOUT_MS", "4000";
    /// How long whatever a caller waits for goes on while the database gives no sign of life before its
    /// connection is given up, in milliseconds.
    database_silence_ms: u32 = "COULOMB_DATABASE_SILENCE_MS", "5000";
    /// How far back usage may have happened, in days; older usage needs a key with `usage:backfill`.
    usage_window_back_days: u16 = "COULOMB_USAGE_WINDOW_BACK_DAYS", "35";
    /// How far ahead of now usage may have happened, in seconds: clocks differ.
    usage_window_ahead_s: u32 = "COULOMB_USAGE_WINDOW_AHEAD_S", "300";
    /// Months for which usage records are kept beside the running one; older usage is not taken either. 0:
    /// for ever. Daily summaries and counters stay.
    usage_retention_months: u16 = "COULOMB_USAGE_RETENTION_MONTHS", "0";
    /// What becomes of the records of older months: `detach` (they stay in a table of their own in the schema
    /// usage_partitions) or `drop`, with their keys, once every org that has usage in the month has closed
    /// it.
    usage_retention_mode: RetentionMode = "COULOMB_USAGE_RETENTION_MODE", "detach";
    /// Exports at the same time, each with a database connection of its own; further ones are answered 503.
    /// One key or org alone gets half.
    exports: u16 = "COULOMB_EXPORTS", "2";
    /// HTTP threads. 0: one per core.
    http_workers: u16 = "COULOMB_HTTP_WORKERS", "0";
    /// Open connections at most. A newcomer beyond it takes the place of the one that has waited longest for
    /// its client.
    max_connections: u32 = "COULOMB_MAX_CONNECTIONS", "10000";
    /// Largest webhook body, in bytes.
    webhook_body_limit: u32 = "COULOMB_WEBHOOK_BODY_LIMIT", "4194304";
    /// Memory that the bodies of webhooks under way may take together, in MiB. Where it is not enough, those
    /// are refused (503) that have been arriving longest.
    webhook_memory_mib: u32 = "COULOMB_WEBHOOK_MEMORY_MIB", "32";
    /// Largest body of any other request, in bytes.
    body_limit: u32 = "COULOMB_BODY_LIMIT", "1048576";
    /// Memory that the bodies of other requests under way may take together, in MiB; beyond it they are
    /// answered 503. One key or org alone gets half.
    body_memory_mib: u32 = "COULOMB_BODY_MEMORY_MIB", "32";
    /// Time within which a client must send its request, in seconds.
    request_timeout_s: u32 = "COULOMB_REQUEST_TIMEOUT_S", "15";
    /// Time within which a client must take the next part of its answer (about 100 KiB), in seconds.
    answer_timeout_s: u32 = "COULOMB_ANSWER_TIMEOUT_S", "30";
    /// Memory for answers that clients do not take, and for heads of requests that do not end, in MiB. Beyond
    /// it connections are closed that have held it longest.
    answer_memory_mib: u32 = "COULOMB_ANSWER_MEMORY_MIB", "64";
    /// How long an idle connection is kept, in seconds.
    keep_alive_s: u32 = "COULOMB_KEEP_ALIVE_S", "75";
    /// How long requests under way may take after SIGTERM, in seconds.
    drain_s: u32 = "COULOMB_DRAIN_S", "20";
    /// Certificate chain (PEM). With `COULOMB_TLS_KEY`: HTTPS instead of HTTP.
    tls_cert: Option<PathBuf> = "COULOMB_TLS_CERT", "";
    /// Private key (PEM) of the certificate.
    tls_key: Option<PathBuf> = "COULOMB_TLS_KEY", "";
    /// What is logged, as `level` or `target=level,…` (error, warn, info, debug, trace).
    log: String = "COULOMB_LOG", "info";
    /// `pretty`, `json`, or `auto`: pretty on a terminal, JSON otherwise.
    log_format: LogFormat = "COULOMB_LOG_FORMAT", "auto";
}

/// Where a setting comes from.
#[derive(Clone, Debug)]
struct SettingSource {
    /// `environment`, `secret file`, `file` or `default`.
    kind: &'static str,
    /// The setting as an error names it: its name, or the file, the line and the key.
    place: String,
}

impl SettingSource {
    fn default(name: &str) -> Self {
        Self { kind: "default", place: name.to_owned() }
    }

    fn wrong(&self, problem: &str) -> ConfigError {
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

/// The settings file: its keys and values.
pub type FileSettings = BTreeMap<String, FileSetting>;

impl Config {
    /// The realms of Stripe that act, as the settings say.
    #[must_use]
    pub fn acting_realms(&self) -> ActingRealms {
        ActingRealms::new(self.stripe_mode == StripeMode::Live, self.stripe_accounts.iter().cloned())
    }

    /// Reads environment and file.
    ///
    /// # Errors
    /// The first wrong setting.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_with(&names::environment()?, file)
    }

    /// As [`Config::load`], with the environment of another process.
    ///
    /// # Errors
    /// The first wrong setting.
    pub fn load_with(env: &BTreeMap<String, String>, file: Option<&Path>) -> Result<Self, ConfigError> {
        names::check(env)?;
        let env = |name: &str| env.get(name).cloned();
        let named = env("COULOMB_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        let file = match file.map(Path::to_path_buf).or(named) {
            Some(path) => read_file(&path)?,
            None => BTreeMap::new(),
        };
        Self::from_sources(&env, &file)
    }

    /// Reads from given sources: what [`Config::load`] does, without the process's environment.
    ///
    /// # Errors
    /// The first wrong setting.
    pub fn from_sources(
        env: &dyn Fn(&str) -> Option<String>,
        file: &FileSettings,
    ) -> Result<Self, ConfigError> {
        let config = Self::read(env, file)?;
        config.check()?;
        Ok(config)
    }

    /// Whether these settings say where the database is, or come from a file: nobody has to guess then.
    #[must_use]
    pub fn says_where(&self) -> bool {
        self.from_file || self.database_url.is_some() || self.data_dir.is_some()
    }

    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |name: &str, problem: &str| Err(self.sources[name].wrong(problem));
        for (name, url) in
            [("DATABASE_URL", &self.database_url), ("COULOMB_DATABASE_OWNER_URL", &self.database_owner_url)]
        {
            if let Some(url) = url
                && let Err(problem) = database_url::check(url.expose_secret())
            {
                return wrong(name, problem);
            }
        }
        if self.database_owner_url.is_some() && self.database_url.is_none() {
            return wrong(
                "COULOMB_DATABASE_OWNER_URL",
                "stands alone: set DATABASE_URL to the same database, or neither for the embedded one",
            );
        }
        if let Err(problem) = log_filter::check(&self.log) {
            return wrong("COULOMB_LOG", &problem);
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return wrong(
                if self.tls_cert.is_some() { "COULOMB_TLS_CERT" } else { "COULOMB_TLS_KEY" },
                "stands alone: set COULOMB_TLS_CERT and COULOMB_TLS_KEY for HTTPS, or neither for HTTP",
            );
        }
        // A counter of a running month must not be forgotten.
        if self.quota_retention_days < 35 {
            return wrong("COULOMB_QUOTA_RETENTION_DAYS", "must be at least 35");
        }
        for (name, value) in [
            ("COULOMB_INBOX_WRITERS", u32::from(self.inbox_writers)),
            ("COULOMB_INBOX_QUEUE", self.inbox_queue),
            ("COULOMB_PROJECTION_BATCH", self.projection_batch),
            ("COULOMB_PROJECTION_ATTEMPTS", u32::from(self.projection_attempts)),
            ("COULOMB_USAGE_WRITERS", u32::from(self.usage_writers)),
            ("COULOMB_USAGE_MEMORY_MIB", self.usage_memory_mib),
            ("COULOMB_USAGE_BATCH", self.usage_batch),
            ("COULOMB_USAGE_QUEUE", self.usage_queue),
            ("COULOMB_QUOTA_WRITERS", u32::from(self.quota_writers)),
            ("COULOMB_QUOTA_QUEUE", self.quota_queue),
            ("COULOMB_POOL_SIZE", u32::from(self.pool_size)),
            ("COULOMB_LOCK_TIMEOUT_MS", self.lock_timeout_ms),
            ("COULOMB_DATABASE_SILENCE_MS", self.database_silence_ms),
            ("COULOMB_EXPORTS", u32::from(self.exports)),
            ("COULOMB_BODY_MEMORY_MIB", self.body_memory_mib),
            ("COULOMB_MAX_CONNECTIONS", self.max_connections),
            ("COULOMB_REQUEST_TIMEOUT_S", self.request_timeout_s),
            ("COULOMB_ANSWER_TIMEOUT_S", self.answer_timeout_s),
            ("COULOMB_ANSWER_MEMORY_MIB", self.answer_memory_mib),
            ("COULOMB_STRIPE_TOLERANCE_S", self.stripe_tolerance_s),
        ] {
            if value == 0 {
                return wrong(name, "is 0, but must be at least 1");
            }
        }
        if self.webhook_body_limit > self.webhook_memory_mib.saturating_mul(1 << 20) {
            return wrong(
                "COULOMB_WEBHOOK_MEMORY_MIB",
                "is less than COULOMB_WEBHOOK_BODY_LIMIT: raise it, or lower the limit",
            );
        }
        // A month has 28 days at least.
        if self.usage_retention_months > 0
            && u32::from(self.usage_retention_months) * 28 < u32::from(self.usage_window_back_days)
        {
            return wrong(
                "COULOMB_USAGE_RETENTION_MONTHS",
                "is shorter than COULOMB_USAGE_WINDOW_BACK_DAYS: raise it, or lower the window",
            );
        }
        Ok(())
    }

    /// The data directory: as set, else the platform's place for it.
    ///
    /// # Errors
    /// When it is not set and there is no home directory to put it under.
    pub fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        if let Some(dir) = &self.data_dir {
            return Ok(dir.clone());
        }
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if running_as_root() {
            return Ok(PathBuf::from("/var/lib/coulomb"));
        }
        set("XDG_DATA_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".local/share")))
            .map(|base| base.join("coulomb"))
            .ok_or_else(|| ConfigError {
                name: "COULOMB_DATA_DIR".to_owned(),
                problem: "is not set and there is no HOME to choose a place under: set it to a directory"
                    .to_owned(),
            })
    }
}

/// The text of a setting and where it came from.
fn lookup(
    name: &'static str,
    secret: bool,
    env: &dyn Fn(&str) -> Option<String>,
    file: &FileSettings,
) -> Result<Option<(String, SettingSource)>, ConfigError> {
    let env = |name: &str| env(name).filter(|text| !text.trim().is_empty());
    let in_file = |name: &str| file.get(&file_key(name)).filter(|setting| !setting.text.trim().is_empty());
    if let Some(text) = env(name) {
        return Ok(Some((text, SettingSource { kind: "environment", place: name.to_owned() })));
    }
    if secret {
        let pointer = format!("{name}_FILE");
        let named = env(&pointer).map(|path| (path, pointer.clone()));
        let named =
            named.or_else(|| in_file(&pointer).map(|setting| (setting.text.clone(), setting.place.clone())));
        if let Some((path, place)) = named {
            let source = SettingSource { kind: "secret file", place };
            return Ok(Some((read_secret(&path).map_err(|problem| source.wrong(&problem))?, source)));
        }
    }
    Ok(in_file(name)
        .map(|setting| (setting.text.clone(), SettingSource { kind: "file", place: setting.place.clone() })))
}

fn read_secret(path: &str) -> Result<String, String> {
    // Somebody may have put the secret itself in the place of the file's name.
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

/// `COULOMB_POOL_SIZE` is `pool_size` in the file, `DATABASE_URL` is `database_url`.
fn file_key(env: &str) -> String {
    env.strip_prefix("COULOMB_").unwrap_or(env).to_ascii_lowercase()
}

fn read_file(path: &Path) -> Result<FileSettings, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError { name: name.clone(), problem: format!("cannot be read: {error}") })?;
    parse_file(&name, &text)
}

/// The file's keys as text. Unknown keys are refused: a typo must not silently leave a default in force.
fn parse_file(name: &str, text: &str) -> Result<FileSettings, ConfigError> {
    let place = |at: usize| format!("{name}, line {}", 1 + text[..at.min(text.len())].matches('\n').count());
    let table: BTreeMap<String, toml::Spanned<toml::Value>> =
        toml::from_str(text).map_err(|error| ConfigError {
            name: error.span().map_or_else(|| name.to_owned(), |span| place(span.start)),
            problem: format!("is not valid TOML: {}", error.message()),
        })?;
    let mut settings = BTreeMap::new();
    for (key, value) in table {
        let place = format!("{}: {key}", place(value.span().start));
        let wrong = |problem: String| ConfigError { name: place.clone(), problem };
        if !names::in_file(&key) {
            return Err(wrong(format!("is not a setting: {}", names::hint(&key, names::file_keys()))));
        }
        let text = value::from_toml(value.get_ref())
            .ok_or_else(|| wrong("must be one value or an array of values".to_owned()))?;
        settings.insert(key, FileSetting { text, place });
    }
    Ok(settings)
}

/// Whether this process is root, whose places differ from a user's.
#[must_use]
pub fn running_as_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests;
