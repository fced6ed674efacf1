//! Where a walk through a list has come to. Pure.
//!
//! Stripe lists the newest first. A walk pages by time: it asks for the boundary second again and leaves out
//! what it has seen, because with a filter by `created` the cursor `starting_after` can end within a second.
//! Only where one second fills a whole page, it goes on behind an object, without a filter by time.

use serde::{Deserialize, Serialize};

/// Entries of a page, as Stripe allows.
pub(super) const PAGE: usize = 100;

/// The part of a list that is still to be read: `from..=upper`, in unix seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    pub(super) from: i64,
    pub(super) upper: i64,
    /// Ids that were read of the second `upper`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) seen: Vec<String>,
    /// One second filled the page: go on behind the first of these that Stripe still has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) behind: Vec<String>,
}

impl Window {
    pub(super) fn new(from: i64, upper: i64) -> Self {
        Self { from, upper, seen: Vec::new(), behind: Vec::new() }
    }

    /// Query parameters of the next page.
    pub(super) fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = vec![("limit", PAGE.to_string())];
        match self.behind.first() {
            Some(id) => query.push(("starting_after", id.clone())),
            None => {
                query.push(("created[gte]", self.from.to_string()));
                query.push(("created[lte]", self.upper.to_string()));
            }
        }
        query
    }

    /// Whether an entry of the page is to be kept: it is in the window and was not seen.
    pub(super) fn keeps(&self, id: &str, created: i64) -> bool {
        (self.from..=self.upper).contains(&created) && !self.seen.iter().any(|seen| seen == id)
    }

    /// What is left after this page; `None`: nothing.
    pub(super) fn after(&self, page: &[(&str, i64)], has_more: bool) -> Option<Self> {
        let (_, last) = page.last().filter(|_| has_more)?;
        if *last < self.from {
            return None;
        }
        let same_second = page.iter().filter(|(_, created)| created == last).map(|(id, _)| (*id).to_owned());
        if *last < self.upper {
            return Some(Self { seen: same_second.collect(), ..Self::new(self.from, *last) });
        }
        let behind = page.iter().rev().map(|(id, _)| (*id).to_owned()).collect();
        Some(Self { seen: self.seen.iter().cloned().chain(same_second).collect(), behind, ..self.clone() })
    }

    /// What is left when Stripe does not have the object any more behind which the page should begin.
    pub(super) fn without_first(&self) -> Option<Self> {
        if self.behind.len() > 1 {
            return Some(Self { behind: self.behind[1..].to_vec(), ..self.clone() });
        }
        (self.upper > self.from).then(|| Self::new(self.from, self.upper - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a list as Stripe answers it, and returns what was kept.
    fn walk(list: &[(&str, i64)], from: i64, upper: i64, page: usize) -> Vec<String> {
        let (mut window, mut kept) = (Some(Window::new(from, upper)), Vec::new());
        let mut pages = 0;
        while let Some(now) = window {
            pages += 1;
            assert!(pages < 100, "it ends");
            let behind = now.behind.first().map(|id| list.iter().position(|(other, _)| other == id));
            let rest: Vec<(&str, i64)> = match behind {
                Some(place) => list[place.expect("there") + 1..].to_vec(),
                None => list.iter().filter(|(_, at)| (now.from..=now.upper).contains(at)).copied().collect(),
            };
            let read = &rest[..rest.len().min(page)];
            kept.extend(read.iter().filter(|(id, at)| now.keeps(id, *at)).map(|(id, _)| (*id).to_owned()));
            window = now.after(read, rest.len() > page);
        }
        kept
    }

    #[test]
    fn every_entry_is_kept_once() {
        let list = [
            ("k", 9),
            ("j", 8),
            ("i", 7),
            ("h", 7),
            ("g", 7),
            ("f", 7),
            ("e", 7),
            ("d", 6),
            ("c", 5),
            ("b", 3),
            ("a", 1),
        ];
        for page in 1..=12 {
            for (from, upper) in [(0, 10), (1, 9), (3, 8), (7, 7), (5, 7), (6, 6), (2, 2)] {
                let wanted: Vec<&str> =
                    list.iter().filter(|(_, at)| (from..=upper).contains(at)).map(|(id, _)| *id).collect();
                assert_eq!(walk(&list, from, upper, page), wanted, "page {page}, {from} to {upper}");
            }
        }
    }

    #[test]
    fn an_object_that_has_gone_is_no_end() {
        let page: Vec<(&str, i64)> = vec![("c", 7), ("b", 7)];
        let window = Window::new(1, 7).after(&page, true).expect("more");
        assert_eq!(window.query()[1], ("starting_after", "b".to_owned()));
        let window = window.without_first().expect("more");
        assert_eq!(window.query()[1], ("starting_after", "c".to_owned()));
        let window = window.without_first().expect("more");
        assert_eq!(window, Window::new(1, 6));
        assert_eq!(Window::new(6, 6).without_first(), None);
    }
}
