//! What goes wrong on purpose: too many requests, failures, silence, cut connections.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::random::Random;
use super::state::RealmName;

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This status, and the request has no effect.
    Before(u16),
    /// This status, after the effect. A repeat with the same `Idempotency-Key` gets 500 again, as Stripe
    /// keeps its own failures. Another status comes from in front of Stripe, and the repeat gets the true
    /// answer.
    After(u16),
    /// 409: another request holds the object.
    Conflict,
    /// No answer, and no effect.
    Hang,
    /// No answer, after the effect.
    HangAfter,
    /// The connection ends after the headers, after the effect.
    CutHeaders,
    /// The connection ends in the middle of the body, after the effect.
    CutBody,
    /// 429 with this `Stripe-Rate-Limited-Reason` and a `Retry-After` of so many seconds.
    Limited(&'static str, u64),
}

/// How often each fault happens: 0 never, 1 always.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chances {
    pub before: f64,
    pub after: f64,
    pub conflict: f64,
    pub hang: f64,
    pub cut_headers: f64,
    pub cut_body: f64,
}

/// The most requests a second, for each account and mode.
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    levels: HashMap<RealmName, (f64, Instant)>,
}

#[derive(Debug)]
pub struct Faults {
    random: Random,
    pub chances: Chances,
    /// The faults of the next requests whose path contains the text.
    pub next: VecDeque<(String, Fault)>,
    bucket: Option<Bucket>,
}

impl Faults {
    pub fn new(seed: u64) -> Self {
        let chances = Chances::default();
        Self { random: Random::new(seed ^ 0xfa17), chances, next: VecDeque::new(), bucket: None }
    }

    pub fn set_seed(&mut self, seed: u64) {
        self.random = Random::new(seed);
    }

    /// At most so many requests a second; `None`: any number.
    pub fn limit(&mut self, per_second: Option<f64>) {
        self.bucket = per_second.map(|per_second| Bucket { per_second, levels: HashMap::new() });
    }

    /// Whether the account may send one more request now.
    pub fn admits(&mut self, realm: &RealmName) -> bool {
        let Some(bucket) = &mut self.bucket else { return true };
        let now = Instant::now();
        let full = bucket.per_second.max(1.0);
        let (level, at) = bucket.levels.entry(realm.clone()).or_insert((full, now));
        *level = (*level + now.duration_since(*at).as_secs_f64() * bucket.per_second).min(full);
        *at = now;
        if *level < 1.0 {
            return false;
        }
        *level -= 1.0;
        true
    }

    /// What goes wrong with a request of this path.
    pub fn choose(&mut self, path: &str) -> Option<Fault> {
        if let Some(position) = self.next.iter().position(|(part, _)| path.contains(part.as_str())) {
            return self.next.remove(position).map(|(_, fault)| fault);
        }
        let chances = self.chances;
        let status = *self.random.pick(&[500, 502, 503, 504]);
        let table = [
            (chances.before, Fault::Before(status)),
            (chances.after, Fault::After(status)),
            (chances.conflict, Fault::Conflict),
            (chances.hang, Fault::Hang),
            (chances.cut_headers, Fault::CutHeaders),
            (chances.cut_body, Fault::CutBody),
        ];
        table
            .into_iter()
            .find(|(chance, _)| *chance > 0.0 && self.random.chance(*chance))
            .map(|(_, fault)| fault)
    }
}
