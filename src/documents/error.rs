//! Why a document has no HTML, PDF or XML.

use super::languages;

/// Why a form of a document cannot be made, in sentences for people.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// `language` of the document is none that we have.
    #[error("The language `{0}` is not known. Documents can have: {known}.", known = known_languages())]
    UnknownLanguage(String),
    /// The template is wrong, or it fails with a document.
    #[error("The template is wrong{line}: {problem}.", line = in_line(*.line))]
    Template {
        /// Line of the template, from 1 on, where it is known.
        line: Option<usize>,
        /// What is wrong, without a full stop.
        problem: String,
    },
    /// The fonts of the PDF lack characters of the document.
    #[error("The PDF's fonts have no sign for {0}. Write it with Latin, Greek or Cyrillic letters.")]
    MissingSign(String),
    /// The document breaks rules of an e-invoice.
    #[error("The document cannot be an e-invoice of {profile}: {list}.", list = list(problems))]
    EInvoice {
        /// The set of rules.
        profile: &'static str,
        /// All that they find.
        problems: Vec<Problem>,
    },
    /// The page is nothing that a PDF can show.
    #[error("The PDF cannot be made of the template's page: {0}.")]
    Pdf(String),
}

/// A rule of e-invoices that a document breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field of the document: `seller.vat_id`, `lines[0].quantity`.
    pub field: String,
    /// The number of the rule: `BR-CO-09`.
    pub rule: String,
    /// What the rule says, without a full stop.
    pub message: String,
}

impl Problem {
    pub(super) fn new(field: &str, rule: &str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), rule: rule.to_owned(), message: message.into() }
    }
}

fn list(problems: &[Problem]) -> String {
    let of = |problem: &Problem| format!("`{}` ({}): {}", problem.field, problem.rule, problem.message);
    problems.iter().map(of).collect::<Vec<_>>().join("; ")
}

fn known_languages() -> String {
    languages::codes().collect::<Vec<_>>().join(", ")
}

fn in_line(line: Option<usize>) -> String {
    line.map(|line| format!(" in line {line}")).unwrap_or_default()
}
