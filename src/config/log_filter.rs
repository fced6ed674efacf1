//! Checks `COULOMB_LOG`. The log filter itself would read a misspelled level as the name of a target.

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Checks every part. The error continues the sentence "COULOMB_LOG …".
pub(super) fn check(text: &str) -> Result<(), String> {
    for part in text.split(',').map(str::trim) {
        let level =
            part.rsplit_once('=').map_or(part, |(target, level)| if target.is_empty() { "" } else { level });
        if !LEVELS.iter().any(|known| level.eq_ignore_ascii_case(known)) {
            return Err(format!(
                "has `{part}`, but must be error, warn, info, debug, trace or off, or target=level, \
                    separated by commas"
            ));
        }
    }
    tracing_subscriber::EnvFilter::try_new(text).map(drop).map_err(|error| format!("is `{text}`: {error}"))
}
