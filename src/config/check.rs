//! Rules that a value's type alone cannot check, mostly between two settings.

use secrecy::ExposeSecret;

use super::{Config, ConfigError, database_url, log_filter};
use crate::egress::AllowList;
use crate::signing;

impl Config {
    /// # Errors
    /// The first setting that breaks a rule.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.check_database_urls()?;
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
