//! The daemon's answers, and what tests check in them.

use std::ops::Index;

use expect_test::Expect;
use reqwest::StatusCode;
use serde_json::Value;

use super::json;

/// Status and body of an answer. It keeps the request, so that a failing test can show it.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// The JSON; null without a body.
    pub body: Value,
    asked: String,
}

/// Equal status and body, whatever the request was.
impl PartialEq for Answer {
    fn eq(&self, other: &Self) -> bool {
        (self.status, &self.body) == (other.status, &other.body)
    }
}

impl Answer {
    /// The answer to the request `asked`.
    pub fn new(asked: String, (status, body): (StatusCode, Value)) -> Self {
        Self { status: status.as_u16(), body, asked }
    }

    /// A part of the body, as an answer of its own.
    pub fn part(&self, path: &str) -> Self {
        Self { body: self.at(path).clone(), ..self.clone() }
    }

    /// The status must be a success.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!((200..300).contains(&self.status), "{self}");
        self
    }

    /// The answer must have this status.
    #[track_caller]
    pub fn status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// The answer must be a problem with this status and code.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status, self["code"].as_str()), (status, Some(code)), "{self}");
        self
    }

    /// The answer must be a problem with this status that names this field; `""`: no field.
    #[track_caller]
    pub fn names(self, status: u16, field: &str) -> Self {
        let named = self["field"].as_str().unwrap_or_default();
        assert_eq!((self.status, named), (status, field), "{self}");
        self
    }

    /// The body must equal this text: see [`json::shown`].
    #[track_caller]
    pub fn shows(&self, expected: Expect) {
        expected.assert_eq(&json::shown(&self.body));
    }

    /// Like [`Answer::shows`], without the fields of these names at any depth.
    #[track_caller]
    pub fn shows_without(&self, names: &[&str], expected: Expect) {
        expected.assert_eq(&json::shown(&json::without(&self.body, names)));
    }

    /// The value at a path such as `quotas.0.limit`; null if there is none.
    pub fn at(&self, path: &str) -> &Value {
        json::at(&self.body, path)
    }

    /// The values at these paths, as a JSON list.
    pub fn pick<const N: usize>(&self, paths: [&str; N]) -> Value {
        paths.map(|path| self.at(path).clone()).to_vec().into()
    }

    /// The text at a path.
    #[track_caller]
    pub fn text(&self, path: &str) -> String {
        self.at(path).as_str().unwrap_or_else(|| panic!("no text at {path}: {self}")).to_owned()
    }

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
