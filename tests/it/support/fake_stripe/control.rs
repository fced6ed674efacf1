//! Routes below `/_fake/` that steer a fake from a command line.

use serde_json::{Value, json};

use super::server::Answer;
use super::{Handle, form};

impl Handle {
    /// Answers `/_fake/<command>`. It needs no key: the fake listens on this machine alone.
    pub(super) fn control(&self, method: &str, command: &str, query: &str, body: &str) -> Answer {
        let params = form::parse(query);
        let account = self.account(params["account"].as_str().unwrap_or_default());
        let steps: Vec<&str> = command.split('/').collect();
        let given = || serde_json::from_str::<Value>(body).ok().filter(Value::is_object);
        match (method, steps.as_slice()) {
            ("GET", ["state"]) => Answer::ok(&json!(account.state())),
            ("GET", ["counts"]) => Answer::ok(&json!(account.counts())),
            ("GET", ["events"]) => Answer::ok(&json!(account.events())),
            ("POST", ["lossy_windows"]) => {
                let lossy = params["on"].as_str() != Some("false");
                self.set_lossy_windows(lossy);
                Answer::ok(&json!({ "on": lossy }))
            }
            ("POST", ["advance"]) => {
                let to = params["to"].as_str();
                let second = to.and_then(|text| {
                    let date = chrono::DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp());
                    text.parse().ok().or(date)
                });
                let days = params["days"].as_str().and_then(|text| text.parse::<i64>().ok());
                let Some(second) = second.or(days.map(|days| self.now() + days * 86_400)) else {
                    return Answer::refusal(
                        "`to` must be a unix second or a time like 2026-01-31T00:00:00Z, or `days` a number.",
                        None,
                        None,
                    );
                };
                self.advance_to(second);
                Answer::ok(&json!({ "now": self.now() }))
            }
            ("POST", ["create", kind]) | ("POST", ["update", kind, _])
                if super::kinds::Kind::named(kind).is_none() =>
            {
                Answer::refusal(&format!("The fake has no kind of objects called {kind}."), None, None)
            }
            ("POST", ["create", kind]) => match given() {
                Some(fields) if *kind == "subscription" => Answer::ok(&account.subscribe(fields)),
                Some(fields) => Answer::ok(&account.create(kind, fields)),
                None => Answer::refusal("The body must be a JSON object of the object's fields.", None, None),
            },
            ("POST", ["update", kind, id]) => match (given(), account.find(kind, id)) {
                (Some(changes), Some(_)) => Answer::ok(&account.update(kind, id, changes)),
                (None, _) => Answer::refusal("The body must be a JSON object of changed fields.", None, None),
                (_, None) => Answer::missing(kind, id),
            },
            ("POST", ["delete", kind, id]) if account.find(kind, id).is_some() => {
                account.delete(kind, id);
                Answer::ok(&json!({ "deleted": true }))
            }
            _ => Answer::json(404, &json!({ "error": { "message": "The fake has no such command." } })),
        }
    }
}
