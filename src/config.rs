//! Every setting: its name, meaning, unit and default, on one page.
//!
//! A setting is read from the environment; else from the TOML file that `--config` or `COULOMB_CONFIG` names
//! (same name in lower case without `COULOMB_`); else it has its default. A secret may also come from a file
//! that `<NAME>_FILE` names; one source has it once. An empty value counts as unset. A wrong value, an
//! unknown name in the environment or the file, or an unreadable secret file gives one [`ConfigError`]. It
//! names the setting, and its line in the file.

mod check;
mod database_url;
mod log_filter;
mod names;
mod sources;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

pub use self::database_url::{describe_database, redact_password};
use self::sources::SettingSource;
pub use self::sources::{FileSetting, FileSettings};
use self::value::SettingValue;
pub use self::value::{LogFormat, Proration, RetentionMode, StripeMode};
use crate::egress::{AllowList, TargetRules};
use crate::networks::Networks;
use crate::realm::ActingRealms;

/// A setting that is wrong, as one sentence that names it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{name} {problem}")]
pub struct ConfigError {
    /// The setting's name in the environment; or file, line and key.
    pub name: String,
    /// The rest of the sentence: what is wrong and what is expected.
    pub problem: String,
}

/// One setting as `coulomb config` lists it.
#[derive(Debug, Clone)]
pub struct SettingLine {
    /// The name in the environment.
    pub env: &'static str,
    /// The key in the file.
    pub key: String,
    /// The effective value; secrets are hidden.
    pub value: String,
    /// `environment`, `secret file`, `file` or `default`.
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
            /// Where each value comes from, by the name in the environment.
            sources: BTreeMap<&'static str, SettingSource>,
            has_file: bool,
        }

        impl Config {
            fn read(env: &dyn Fn(&str) -> Option<String>, file: &FileSettings) -> Result<Self, ConfigError> {
                let mut sources = BTreeMap::new();
                Ok(Self {
                    $( $field: {
                        let found = sources::lookup($env, <$type as SettingValue>::SECRET, env, file)?;
                        let default = || (String::from($default), SettingSource::default_of($env));
                        let (text, source) = found.unwrap_or_else(default);
                        let value = <$type as SettingValue>::parse(&text);
                        let value = value.map_err(|problem| source.error(&problem))?;
                        sources.insert($env, source);
                        value
                    }, )+
                    sources,
                    has_file: !file.is_empty(),
                })
            }

            /// All settings with their effective values. Secrets are hidden.
            #[must_use]
            pub fn list(&self) -> Vec<SettingLine> {
                vec![ $( SettingLine {
                    env: $env,
                    key: sources::file_key($env),
                    value: SettingValue::show(&self.$field),
                    source: self.sources[$env].kind,
                    doc: concat!($($doc, "\n"),+).trim(),
                }, )+ ]
            }
        }

        /// The name of every setting in the environment, and whether it is a secret.
        const NAMES: &[(&str, bool)] = &[ $(($env, <$type as SettingValue>::SECRET)),+ ];
    };
}

settings! {
    /// Address and port to listen on.
    listen: SocketAddr = "COULOMB_LISTEN", "127.0.0.1:8080";
    /// Directory of the embedded PostgreSQL and of the daemon's other files.
    /// Default: `/var/lib/coulomb` for root, else `$XDG_DATA_HOME/coulomb` or `~/.local/share/coulomb`.
    data_dir: Option<PathBuf> = "COULOMB_DATA_DIR", "";
    /// URL of the PostgreSQL server (15 or newer). Unset: the daemon runs an embedded one in
    /// the data directory.
    database_url: Option<SecretString> = "DATABASE_URL", "";
    /// URL of a user who may create tables and roles, if the user of `DATABASE_URL` may not. Used for
    /// migrations only.
    database_owner_url: Option<SecretString> = "COULOMB_DATABASE_OWNER_URL", "";
    /// Directory of the run file, which tells commands where the daemon runs. Default: `/run/coulomb` if root
    /// made it, else `$XDG_RUNTIME_DIR/coulomb`; also the data directory of the embedded PostgreSQL.
    run_dir: Option<PathBuf> = "COULOMB_RUN_DIR", "";
    /// Directory of `initdb` and `postgres` for the embedded server. Unset: the daemon searches
    /// the usual places.
    postgres_bin_dir: Option<PathBuf> = "COULOMB_POSTGRES_BIN_DIR", "";
    /// Signing secrets (`whsec_…`) of the Stripe webhook endpoints, separated by commas. Set the old and the
    /// new one while you rotate a secret.
    stripe_webhook_secret: Vec<SecretString> = "STRIPE_WEBHOOK_SECRET", "";
    /// Stripe API key (`sk_…` or `rk_…`). With it the daemon calls Stripe: it brings in the whole account,
    /// keeps it true, and can charge for usage. Unset: Coulomb sees what Stripe's webhooks tell.
    stripe_secret_key: Option<SecretString> = "STRIPE_SECRET_KEY", "";
    /// Where Stripe's API is. Another place is for tests.
    stripe_api_base: String = "COULOMB_STRIPE_API_BASE", "https://api.stripe.com";
    /// Requests a second to Stripe, for each account. The daemon sends fewer when Stripe asks for it.
    stripe_requests_per_second: u32 = "COULOMB_STRIPE_REQUESTS_PER_SECOND", "20";
    /// How often the daemon asks Stripe for events that no webhook told, in seconds: 1 to 3600.
    stripe_pull_s: u32 = "COULOMB_STRIPE_PULL_S", "300";
    /// Hour of the day, in UTC, after which the daemon compares its mirrors with Stripe.
    stripe_compare_hour: u16 = "COULOMB_STRIPE_COMPARE_HOUR", "3";
    /// Money that Stripe took before this time (RFC 3339) grants no units and sends no messages. It counts
    /// when the daemon first calls Stripe, and is stored then. Unset: that moment, or the first event in the
    /// inbox.
    stripe_effects_since: String = "COULOMB_STRIPE_EFFECTS_SINCE", "";
    /// Whether what was paid before that time, and is for a period that still runs then, grants its units.
    stripe_grant_running: bool = "COULOMB_STRIPE_GRANT_RUNNING", "false";
    /// How often usage that goes to Stripe is planned and sent, in seconds: 1 to 3600.
    stripe_usage_s: u32 = "COULOMB_STRIPE_USAGE_S", "60";
    /// How long after the end of a billing period its usage becomes invoice items, in seconds: 0 to 3000.
    /// Usage that comes later is on the next invoice. Stripe's draft takes items for an hour.
    stripe_freeze_after_s: u32 = "COULOMB_STRIPE_FREEZE_AFTER_S", "900";
    /// How much a signature's time may differ from now, in seconds.
    stripe_tolerance_s: u32 = "COULOMB_STRIPE_TOLERANCE_S", "300";
    /// The Stripe mode that has effects here, `live` or `test`. Objects of the other mode are mirrored only:
    /// they link no customers, grant no credit and change no plans.
    stripe_mode: StripeMode = "COULOMB_STRIPE_MODE", "live";
    /// Connected accounts (`acct_…`) that have effects besides your own account, separated by commas. Objects
    /// of other connected accounts are mirrored only.
    stripe_accounts: Vec<String> = "COULOMB_STRIPE_ACCOUNTS", "";
    /// Whether to create an org for each Stripe customer that names no org (`metadata.org_id`,
    /// `client_reference_id`).
    stripe_org_per_customer: bool = "COULOMB_STRIPE_ORG_PER_CUSTOMER", "false";
    /// Threads that store webhooks; each uses a database connection. One is fastest, unless commits take
    /// long, as over a network.
    inbox_writers: u16 = "COULOMB_INBOX_WRITERS", "1";
    /// Webhooks that may wait for a writer; further ones are answered 503.
    inbox_queue: u32 = "COULOMB_INBOX_QUEUE", "4096";
    /// Threads that project the inbox; each uses a database connection. 0: this daemon projects nothing.
    projectors: u16 = "COULOMB_PROJECTORS", "3";
    /// The largest number of Stripe events projected in one transaction.
    projection_batch: u32 = "COULOMB_PROJECTION_BATCH", "500";
    /// Failed attempts after which a Stripe event is quarantined.
    projection_attempts: u16 = "COULOMB_PROJECTION_ATTEMPTS", "5";
    /// How long an org keeps its plan while its Stripe subscription is `past_due`, in days after the unpaid
    /// invoice was due. 0: not at all.
    past_due_grace_days: u16 = "COULOMB_PAST_DUE_GRACE_DAYS", "14";
    /// Threads that write usage; each uses a database connection.
    usage_writers: u16 = "COULOMB_USAGE_WRITERS", "2";
    /// The largest number of usage events in one commit. A single request with more is still one commit.
    usage_batch: u32 = "COULOMB_USAGE_BATCH", "40000";
    /// Usage events that may wait for a writer; further requests are answered 429. A key or org never gets
    /// more places than it leaves free: alone it gets half.
    usage_queue: u32 = "COULOMB_USAGE_QUEUE", "200000";
    /// Largest body of a usage request, after decompression, in bytes.
    usage_body_limit: u32 = "COULOMB_USAGE_BODY_LIMIT", "16777216";
    /// Memory for the bodies of all usage requests in progress, in MiB; further requests are answered 429. A
    /// key or org never gets more of it than it leaves free: alone it gets half.
    usage_memory_mib: u32 = "COULOMB_USAGE_MEMORY_MIB", "64";
    /// Threads that make and settle reservations; each uses a database connection.
    quota_writers: u16 = "COULOMB_QUOTA_WRITERS", "2";
    /// Requests about quotas that may wait for a thread; further ones are answered 429. One key or org alone
    /// gets half.
    quota_queue: u32 = "COULOMB_QUOTA_QUEUE", "4096";
    /// How long the counters of past quota periods are kept, in days. Counters of billing periods are kept
    /// three years longer.
    quota_retention_days: u16 = "COULOMB_QUOTA_RETENTION_DAYS", "400";
    /// How long the counters of single subjects are kept after their period, in days.
    quota_subject_retention_days: u16 = "COULOMB_QUOTA_SUBJECT_RETENTION_DAYS", "7";
    /// What a change of plan within a period does to the battery. `prorate`: adds the new plan's units for
    /// the rest of the period and takes the old plan's back. `difference`: adds the units that a whole period
    /// of the new plan has more, at once. `none`: changes nothing before the next period.
    battery_proration: Proration = "COULOMB_BATTERY_PRORATION", "prorate";
    /// Database connections for API requests. One org uses at most half of them at the same time.
    pool_size: u16 = "COULOMB_POOL_SIZE", "8";
    /// How long an API request waits for a database connection before it is answered 503, in milliseconds.
    pool_wait_ms: u32 = "COULOMB_POOL_WAIT_MS", "1000";
    /// Longest database statement of an API request, in milliseconds. Exports have no such limit.
    statement_timeout_ms: u32 = "COULOMB_STATEMENT_TIMEOUT_MS", "30000";
    /// How long a request (API, webhook or usage) waits for a lock in the database before it is answered 503,
    /// in milliseconds.
    lock_timeout_ms: u32 = "COULOMB_LOCK_TIMEOUT_MS", "4000";
    /// How long the database may give no sign of life during a request before the request gives up its
    /// connection, in milliseconds.
    database_silence_ms: u32 = "COULOMB_DATABASE_SILENCE_MS", "5000";
    /// How long ago usage may have happened, in days. Older usage needs a key with `usage:backfill`.
    usage_window_back_days: u16 = "COULOMB_USAGE_WINDOW_BACK_DAYS", "35";
    /// How far in the future usage may be dated, in seconds, because clocks differ.
    usage_window_ahead_s: u32 = "COULOMB_USAGE_WINDOW_AHEAD_S", "300";
    /// Number of past months whose usage records are kept. Usage of older months is refused. 0: records are
    /// kept for ever. Daily summaries and counters always stay.
    usage_retention_months: u16 = "COULOMB_USAGE_RETENTION_MONTHS", "0";
    /// What happens to the records of older months. `detach`: they stay in a table of their own in the schema
    /// usage_partitions. `drop`: they and their keys are deleted as soon as every org with usage in the month
    /// has closed it.
    usage_retention_mode: RetentionMode = "COULOMB_USAGE_RETENTION_MODE", "detach";
    /// Number of past months whose audit entries are kept. 0: they are kept for ever.
    audit_retention_months: u16 = "COULOMB_AUDIT_RETENTION_MONTHS", "0";
    /// Requests a minute that a key may send to each daemon, where the key has no limit of its own: so many
    /// at once, then evenly. 0: any number.
    key_requests_per_minute: u32 = "COULOMB_KEY_REQUESTS_PER_MINUTE", "0";
    /// Requests a minute that an address may send to each daemon, with any keys or none. IPv6 addresses of
    /// one /64 are one. Webhooks and probes do not count. 0: any number.
    address_requests_per_minute: u32 = "COULOMB_ADDRESS_REQUESTS_PER_MINUTE", "0";
    /// Keys that one key may verify in vain in a minute (`POST /v1/keys/verify`); then it waits for the next.
    key_verify_failures: u32 = "COULOMB_KEY_VERIFY_FAILURES", "600";
    /// Addresses and networks (`10.0.0.0/8`) of your proxies, separated by commas. Behind them the client's
    /// address is the last one in `X-Forwarded-For` that is not theirs.
    trusted_proxies: Networks = "COULOMB_TRUSTED_PROXIES", "";
    /// Exports that may run at the same time, each with its own database connection; further ones are
    /// answered 503. One key or org alone gets half.
    exports: u16 = "COULOMB_EXPORTS", "2";
    /// HTTP threads. 0: one per core.
    http_workers: u16 = "COULOMB_HTTP_WORKERS", "0";
    /// The largest number of open HTTP connections. Beyond it, a new connection replaces the one that has
    /// waited longest for its client.
    max_connections: u32 = "COULOMB_MAX_CONNECTIONS", "10000";
    /// Largest webhook body, in bytes.
    webhook_body_limit: u32 = "COULOMB_WEBHOOK_BODY_LIMIT", "4194304";
    /// Memory for the bodies of all webhooks in progress, in MiB. If it is used up, the webhooks that have
    /// been arriving longest are answered 503.
    webhook_memory_mib: u32 = "COULOMB_WEBHOOK_MEMORY_MIB", "32";
    /// Largest body of any other request, in bytes.
    body_limit: u32 = "COULOMB_BODY_LIMIT", "1048576";
    /// Memory for the bodies of all other requests in progress, in MiB; further ones are answered 503. One
    /// key or org alone gets half.
    body_memory_mib: u32 = "COULOMB_BODY_MEMORY_MIB", "32";
    /// How long a client may take to send its request, in seconds.
    request_timeout_s: u32 = "COULOMB_REQUEST_TIMEOUT_S", "15";
    /// How long a client may take to receive the next part of its answer (about 100 KiB), in seconds.
    answer_timeout_s: u32 = "COULOMB_ANSWER_TIMEOUT_S", "30";
    /// Memory for answers that clients do not receive, and for request headers that do not end, in MiB.
    /// Beyond it, the connections that have used such memory longest are closed.
    answer_memory_mib: u32 = "COULOMB_ANSWER_MEMORY_MIB", "64";
    /// How long an idle connection is kept, in seconds.
    keep_alive_s: u32 = "COULOMB_KEEP_ALIVE_S", "75";
    /// How long requests in progress may take after SIGTERM, in seconds.
    drain_s: u32 = "COULOMB_DRAIN_S", "20";
    /// File with the certificate chain (PEM). With `COULOMB_TLS_KEY`: HTTPS instead of HTTP.
    tls_cert: Option<PathBuf> = "COULOMB_TLS_CERT", "";
    /// File with the private key (PEM) of the certificate.
    tls_key: Option<PathBuf> = "COULOMB_TLS_KEY", "";
    /// File with the template of documents (`docs/templates.md`) in place of the built-in one. It is read and
    /// checked when the daemon starts.
    invoice_template: Option<PathBuf> = "COULOMB_INVOICE_TEMPLATE", "";
    /// Ed25519 private key that signs the manifests of closed months: PEM (PKCS#8) or its 32 bytes in
    /// hexadecimal or base64. Unset: manifests have digests, and no signature.
    closing_key: Option<SecretString> = "COULOMB_CLOSING_KEY", "";
    /// Public keys that signed manifests before, in hexadecimal, separated by commas. With one, or with
    /// `COULOMB_CLOSING_KEY`, `coulomb verify` accepts no other key.
    closing_old_keys: String = "COULOMB_CLOSING_OLD_KEYS", "";
    /// TOML file that says which accounts of the bookkeeping journals use. Unset: built-in names.
    journal_accounts: Option<PathBuf> = "COULOMB_JOURNAL_ACCOUNTS", "";
    /// How long sending a message to an endpoint may take, in seconds: 1 to 60.
    message_timeout_s: u32 = "COULOMB_MESSAGE_TIMEOUT_S", "15";
    /// Whether endpoints may have `http` URLs. Everybody on the way can then read the messages.
    message_allow_http: bool = "COULOMB_MESSAGE_ALLOW_HTTP", "false";
    /// Networks, addresses and host names of the inside that messages may be sent to, separated by commas:
    /// `10.1.0.0/16, hooks.internal`. Unset: only addresses of the public internet.
    message_allow: String = "COULOMB_MESSAGE_ALLOW", "";
    /// How long messages, their deliveries and attempts are kept, in days. 0: for ever.
    message_retention_days: u16 = "COULOMB_MESSAGE_RETENTION_DAYS", "90";
    /// What is logged, as `level` or `target=level,…` (error, warn, info, debug, trace).
    log: String = "COULOMB_LOG", "info";
    /// `pretty`, `json`, or `auto`: pretty on a terminal, JSON otherwise.
    log_format: LogFormat = "COULOMB_LOG_FORMAT", "auto";
}

impl Config {
    /// The Stripe realms that have effects here.
    #[must_use]
    pub fn acting_realms(&self) -> ActingRealms {
        ActingRealms::new(self.stripe_mode == StripeMode::Live, self.stripe_accounts.iter().cloned())
    }

    /// Where messages may be sent to. The list was checked when the settings were read.
    #[must_use]
    pub fn message_targets(&self) -> TargetRules {
        let allowed = AllowList::parse(&self.message_allow).unwrap_or_default();
        TargetRules { allow_http: self.message_allow_http, allowed }
    }

    /// Reads the settings from this process's environment and the file.
    ///
    /// # Errors
    /// The first wrong setting.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_with_env(&names::environment()?, file)
    }

    /// As [`Config::load`], with the environment of another process.
    ///
    /// # Errors
    /// The first wrong setting.
    pub fn load_with_env(env: &BTreeMap<String, String>, file: Option<&Path>) -> Result<Self, ConfigError> {
        names::check(env)?;
        let env = |name: &str| env.get(name).cloned();
        let in_env = env("COULOMB_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        let file = match file.map(Path::to_path_buf).or(in_env) {
            Some(path) => sources::read_file(&path)?,
            None => BTreeMap::new(),
        };
        Self::from_sources(&env, &file)
    }

    /// Reads the settings from an environment and a file that are already in memory.
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

    /// Whether these settings name a database or come from a file. If not, a command must look for the
    /// running daemon.
    #[must_use]
    pub fn names_a_database(&self) -> bool {
        self.has_file || self.database_url.is_some() || self.data_dir.is_some()
    }

    /// The data directory: the setting, else the default place of this platform.
    ///
    /// # Errors
    /// It is not set, and there is no home directory for the default place.
    pub fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        if let Some(dir) = &self.data_dir {
            return Ok(dir.clone());
        }
        let env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if is_root() {
            return Ok(PathBuf::from("/var/lib/coulomb"));
        }
        env("XDG_DATA_HOME")
            .or_else(|| env("HOME").map(|home| home.join(".local/share")))
            .map(|base| base.join("coulomb"))
            .ok_or_else(|| ConfigError {
                name: "COULOMB_DATA_DIR".to_owned(),
                problem: "is not set and there is no HOME to choose a place under: set it to a directory"
                    .to_owned(),
            })
    }
}

/// Whether this process runs as root, for whom default places differ.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests;
