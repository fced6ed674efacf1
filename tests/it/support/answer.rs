//! What the daemon answered, and what tests say of it.

use std::ops::Index;

use expect_test::Expect;
use reqwest::StatusCode;
use serde_json::Value;

use super::json;

/// Status and body of an answer. It knows what was asked, so that a failure tells.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The JSON; null where there is no body.
    pub body: Value,
    asked: String,
}

/// The same answer, whatever was asked.
impl PartialEq for Answer {
    fn eq(&self, other: &Self) -> bool {
        (self.status, &self.body) == (other.status, &other.body)
    }
}

impl Answer {
    /// The answer to what was `asked`.
    pub fn new(asked: String, (status, body): (StatusCode, Value)) -> Self {
        Self { status: status.as_u16(), body, asked }
    }

    /// A part of it, as if that had been the answer.
    pub fn part(&self, path: &str) -> Self {
        Self { body: self.at(path).clone(), ..self.clone() }
    }

    /// It must be a success.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!((200..300).contains(&self.status), "{self}");
        self
    }

    /// It must have this status.
    #[track_caller]
    pub fn status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// It must be a problem with this status and code.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status, self["code"].as_str()), (status, Some(code)), "{self}");
        self
    }

    /// It must be a problem with this status, and name this field; `""`: no field.
    #[track_caller]
    pub fn names(self, status: u16, field: &str) -> Self {
        let named = self["field"].as_str().unwrap_or_default();
        assert_eq!((self.status, named), (status, field), "{self}");
        self
    }

    /// The body must read so: see [`json::shown`].
    #[track_caller]
    pub fn shows(&self, expected: Expect) {
        expected.assert_eq(&json::shown(&self.body));
    }

    /// As [`Answer::shows`], without the fields of these names, wherever they are.
    #[track_caller]
    pub fn shows_without(&self, names: &[&str], expected: Expect) {
        expected.assert_eq(&json::shown(&json::without(&self.body, names)));
    }

    /// What stands at a path such as `quotas.0.limit`; null where nothing does.
    pub fn at(&self, path: &str) -> &Value {
        json::at(&self.body, path)
    }

    /// What stands at these paths, as a JSON list.
    pub fn pick<const N: usize>(&self, paths: [&str; N]) -> Value {
        paths.map(|path| self.at(path).clone()).to_vec().into()
    }

    /// The text at a path.
    #[track_caller]
    pub fn text(&self, path: &str) -> String {
        self.at(path).as_str().unwrap_or_else(|| panic!("no text at {path}: {self}")).to_owned()
    }

    /// Its id.
    #[track_caller]
    pub fn id(&self) -> String {
        self.text("id")
    }

    /// The rows of a page.
    #[track_caller]
    pub fn rows(&self) -> &[Value] {
        self.list("data")
    }

    /// The list at a path.
    #[track_caller]
    pub fn list(&self, path: &str) -> &[Value] {
        self.at(path).as_array().unwrap_or_else(|| panic!("no list at {path}: {self}"))
    }

    /// One field of each row of a page.
    #[track_caller]
    pub fn column(&self, path: &str) -> Value {
        self.rows().iter().map(|row| json::at(row, path).clone()).collect()
    }
}

impl Index<&str> for Answer {
    type Output = Value;

    fn index(&self, field: &str) -> &Value {
        &self.body[field]
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} {}", self.asked, self.status, self.body)
    }
}
