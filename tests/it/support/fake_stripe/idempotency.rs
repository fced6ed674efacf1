//! Answers that repeat under an `Idempotency-Key`.

use std::collections::{HashMap, HashSet};

use super::server::Answer;
use super::state::{RealmName, error};

/// How long an answer is kept, in seconds.
const KEPT: i64 = 24 * 3600;

#[derive(Debug, Default)]
pub struct StoredAnswers {
    stored: HashMap<(RealmName, String), Stored>,
    /// Keys of requests that are not answered yet.
    open: HashSet<(RealmName, String)>,
}

#[derive(Debug)]
struct Stored {
    /// Path and parameters.
    request: String,
    answer: Answer,
    at: i64,
}

impl StoredAnswers {
    /// The answer to a repeat, or a refusal. `None`: the request is new, and its key is taken until `close`.
    pub fn open(&mut self, realm: &RealmName, key: &str, request: &str, now: i64) -> Option<Answer> {
        let name = (realm.clone(), key.to_owned());
        if self.open.contains(&name) {
            let message =
                format!("There is currently another in-progress request using this Idempotency Key: {key}");
            let body = error("idempotency_error", &message, Some("idempotency_key_in_use"), None);
            return Some(Answer::json(409, &body));
        }
        if let Some(stored) = self.stored.get(&name).filter(|stored| now - stored.at < KEPT) {
            if stored.request != request {
                let message = format!(
                    "Keys for idempotent requests can only be used with the same parameters they were first \
                     used with. Try using a key other than '{key}' if you meant to execute a different \
                     request."
                );
                let answer = Answer::json(400, &error("idempotency_error", &message, None, None));
                return Some(answer.with("Stripe-Should-Retry", "false"));
            }
            return Some(stored.answer.clone().with("Idempotent-Replayed", "true"));
        }
        self.open.insert(name);
        None
    }

    /// Frees the key. Keeps the answer of a request that was executed: Stripe does not keep refusals.
    pub fn close(&mut self, realm: &RealmName, key: &str, request: &str, now: i64, answer: Option<&Answer>) {
        let name = (realm.clone(), key.to_owned());
        self.open.remove(&name);
        if let Some(answer) = answer.filter(|answer| answer.status == 200 || answer.status >= 500) {
            let stored = Stored { request: request.to_owned(), answer: answer.clone(), at: now };
            self.stored.insert(name, stored);
        }
    }
}
