//! Keys of lines: what `line` holds in `battery_effects` and `battery_effects_waiting`.
//!
//! The key of a line is its Stripe id. A line that is granted in portions (a year, month by month) has one
//! key a portion: `il_1`, `il_1~2`, `il_1~3`. A session that sold one pack has the key of the whole; of one
//! that sold several packs each line item has a key.

use std::collections::BTreeMap;

use super::facts::{Facts, Line, Session, SoldItem};

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
        keyed(&self.lines, |line| line.id.as_deref())
    }
}

impl Session {
    /// The line items with their keys, in order; none while they are not known.
    pub(crate) fn keyed_items(&self) -> Vec<(String, &SoldItem)> {
        keyed(self.items.as_deref().unwrap_or_default(), |item| item.id.as_deref())
    }
}

fn keyed<T>(lines: &[T], id_of: impl Fn(&T) -> Option<&str>) -> Vec<(String, &T)> {
    let mut uses_of_id: BTreeMap<&str, usize> = BTreeMap::new();
    let mut keyed = Vec::with_capacity(lines.len());
    for line in lines {
        let own = id_of(line);
        let id = own.unwrap_or("line");
        let uses = uses_of_id.entry(id).or_default();
        *uses += 1;
        let key = own.filter(|_| *uses == 1).map_or_else(|| format!("{id}#{uses}"), str::to_owned);
        keyed.push((key, line));
    }
    keyed
}
