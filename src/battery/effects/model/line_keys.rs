//! Keys of lines: what `line` holds in `battery_effects` and `battery_effects_waiting`.
//!
//! The key of a line is its Stripe id. A line that is granted in portions (a year, month by month) has one
//! key a portion: `il_1`, `il_1~2`, `il_1~3`.

use std::collections::BTreeMap;

use super::facts::{Facts, Line};

/// The key of a source as a whole.
pub(crate) const WHOLE: &str = "";
/// The key of the lines that Stripe's event left out.
pub(crate) const MISSING_LINES: &str = "…";
/// Stands between the key of a line and the number of a portion.
const PORTION: char = '~';

/// The key of a line's `n`th portion, counted from 0.
pub(crate) fn portion_key(key: &str, n: usize) -> String {
    if n == 0 { key.to_owned() } else { format!("{key}{PORTION}{}", n + 1) }
}

/// Whether `stored` is the key of this line or of one of its portions.
pub(crate) fn is_line_or_portion(stored: &str, key: &str) -> bool {
    stored.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(PORTION))
}

impl Facts {
    /// The lines with their keys, in order. The oldest shapes of Stripe leave ids out or use one twice: then
    /// a number tells the lines apart.
    pub(crate) fn keyed_lines(&self) -> Vec<(String, &Line)> {
        let mut uses_of_id: BTreeMap<&str, usize> = BTreeMap::new();
        self.lines
            .iter()
            .map(|line| {
                let id = line.id.as_deref().unwrap_or("line");
                let uses = uses_of_id.entry(id).or_default();
                *uses += 1;
                let key = line.id.clone().filter(|_| *uses == 1).unwrap_or_else(|| format!("{id}#{uses}"));
                (key, line)
            })
            .collect()
    }
}
