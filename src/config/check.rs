//! Rules that a value's type alone cannot check, mostly between two settings.

use chrono::DateTime;
use secrecy::ExposeSecret;

use super::{Config, ConfigError, StripeMode, database_url, log_filter};
use crate::egress::AllowList;
use crate::signing;

impl Config {
    /// # Errors
    /// The first setting that breaks a rule.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.check_database_urls()?;
        self.check_stripe()?;
        if let Err(problem) = log_filter::check(&self.log) {
            return self.error("COULOMB_LOG", &problem);
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return self.error(
                if self.tls_cert.is_some() { "COULOMB_TLS_CERT" } else { "COULOMB_TLS_KEY" },
                "stands alone: set COULOMB_TLS_CERT and COULOMB_TLS_KEY for HTTPS, or neither for HTTP",
            );
        }
        // The counter of a running month must not be deleted.
        if self.quota_retention_days < 35 {
            return self.error("COULOMB_QUOTA_RETENTION_DAYS", "must be at least 35");
        }
        self.check_not_zero()?;
        self.check_closing_keys()?;
        self.check_messages()?;
        if self.webhook_body_limit > self.webhook_memory_mib.saturating_mul(1 << 20) {
            return self.error(
                "COULOMB_WEBHOOK_MEMORY_MIB",
                "is less than COULOMB_WEBHOOK_BODY_LIMIT: raise it, or lower the limit",
            );
        }
        // A month has at least 28 days.
        if self.usage_retention_months > 0
            && u32::from(self.usage_retention_months) * 28 < u32::from(self.usage_window_back_days)
        {
            return self.error(
                "COULOMB_USAGE_RETENTION_MONTHS",
                "is shorter than COULOMB_USAGE_WINDOW_BACK_DAYS: raise it, or lower the window",
            );
        }
        Ok(())
    }

    fn error(&self, name: &str, problem: &str) -> Result<(), ConfigError> {
        Err(self.sources[name].error(problem))
    }

    fn check_stripe_base(&self) -> Result<(), ConfigError> {
        let name = "COULOMB_STRIPE_API_BASE";
        let url = url::Url::parse(&self.stripe_api_base).ok();
        let is_http = |url: &url::Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        let Some(url) = url.filter(is_http) else {
            return self.error(name, "must be a URL, such as https://api.stripe.com");
        };
        if !url.username().is_empty() || url.password().is_some() {
            return self.error(name, "must have no user name or password in it");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return self.error(name, "must end with its host or path: it has a `?` or `#`");
        }
        let is_here = match url.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        // The key goes to it with every call.
        if url.scheme() == "http" && !is_here {
            return self
                .error(name, "must begin with https://, except on this machine's own loopback address");
        }
        Ok(())
    }

    fn check_stripe(&self) -> Result<(), ConfigError> {
        self.check_stripe_base()?;
        if !(1..=100).contains(&self.stripe_requests_per_second) {
            return self.error("COULOMB_STRIPE_REQUESTS_PER_SECOND", "must be from 1 to 100");
        }
        if !(1..=3600).contains(&self.stripe_pull_s) {
            return self.error("COULOMB_STRIPE_PULL_S", "must be from 1 to 3600");
        }
        if !(1..=3600).contains(&self.stripe_usage_s) {
            return self.error("COULOMB_STRIPE_USAGE_S", "must be from 1 to 3600");
        }
        if self.stripe_freeze_after_s > 3000 {
            return self.error("COULOMB_STRIPE_FREEZE_AFTER_S", "must be from 0 to 3000");
        }
        if self.stripe_compare_hour > 23 {
            return self.error("COULOMB_STRIPE_COMPARE_HOUR", "must be from 0 to 23");
        }
        let since = &self.stripe_effects_since;
        if !since.is_empty() && DateTime::parse_from_rfc3339(since).is_err() {
            return self.error(
                "COULOMB_STRIPE_EFFECTS_SINCE",
                "must be a time in RFC 3339, such as 2026-01-31T00:00:00Z",
            );
        }
        let Some(key) = &self.stripe_secret_key else { return Ok(()) };
        let key = key.expose_secret();
        let mode = if self.stripe_mode == StripeMode::Live { "live" } else { "test" };
        if key.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return self
                .error("STRIPE_SECRET_KEY", "has a blank or a control character in it: copy it again");
        }
        if !(key.starts_with("sk_") || key.starts_with("rk_")) || !key.is_ascii() {
            return self.error("STRIPE_SECRET_KEY", "must be a secret (sk_…) or restricted key (rk_…)");
        }
        if key.contains("_test_") != (mode == "test") {
            let problem = format!(
                "must be a key of the {mode} mode, which COULOMB_STRIPE_MODE names (sk_{mode}_… or \
                 rk_{mode}_…)"
            );
            return self.error("STRIPE_SECRET_KEY", &problem);
        }
        Ok(())
    }

    fn check_messages(&self) -> Result<(), ConfigError> {
        if !(1..=60).contains(&self.message_timeout_s) {
            return self.error("COULOMB_MESSAGE_TIMEOUT_S", "must be from 1 to 60");
        }
        // An attempt may come five days after its message.
        if (1..7).contains(&self.message_retention_days) {
            return self.error("COULOMB_MESSAGE_RETENTION_DAYS", "must be 0, or at least 7");
        }
        match AllowList::parse(&self.message_allow) {
            Ok(_) => Ok(()),
            Err(problem) => self.error("COULOMB_MESSAGE_ALLOW", &problem),
        }
    }

    fn check_closing_keys(&self) -> Result<(), ConfigError> {
        if let Some(key) = &self.closing_key
            && let Err(problem) = signing::SigningKey::read(key.expose_secret())
        {
            return self.error("COULOMB_CLOSING_KEY", problem);
        }
        match signing::read_public_keys(&self.closing_old_keys) {
            Ok(_) => Ok(()),
            Err(problem) => self.error("COULOMB_CLOSING_OLD_KEYS", problem),
        }
    }

    fn check_database_urls(&self) -> Result<(), ConfigError> {
        for (name, url) in
            [("DATABASE_URL", &self.database_url), ("COULOMB_DATABASE_OWNER_URL", &self.database_owner_url)]
        {
            if let Some(url) = url
                && let Err(problem) = database_url::check(url.expose_secret())
            {
                return self.error(name, problem);
            }
        }
        if self.database_owner_url.is_some() && self.database_url.is_none() {
            return self.error(
                "COULOMB_DATABASE_OWNER_URL",
                "stands alone: set DATABASE_URL to the same database, or neither for the embedded one",
            );
        }
        Ok(())
    }

    fn check_not_zero(&self) -> Result<(), ConfigError> {
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
                return self.error(name, "is 0, but must be at least 1");
            }
        }
        Ok(())
    }
}
