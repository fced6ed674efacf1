//! Beancount's format (<https://beancount.github.io/docs/beancount_language_syntax.html>).
//!
//! A file opens no account, because two files that open the same one could not be read together. A plugin of
//! Beancount opens accounts where they are used first. A file that includes several needs the plugin itself.

use super::{
    BookedEntry, Frame, JournalOutput, JournalWriter, PlacedPosting, belongs_to, code, output_failed, title,
};
use crate::error::Error;
use crate::money::MajorUnits;

pub(super) struct Beancount<'a> {
    out: JournalOutput<'a>,
}

impl<'a> Beancount<'a> {
    pub(super) fn new(mut out: JournalOutput<'a>, frame: &Frame) -> Result<Self, Error> {
        let month = frame.month.format("%Y-%m");
        writeln!(out, "; Coulomb, {month}\nplugin \"beancount.plugins.auto_accounts\"")
            .map_err(output_failed)?;
        Ok(Self { out })
    }
}

fn text(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A link or a tag has letters, digits and `-_/.` only.
fn link(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_/.".contains(c);
    text.chars().map(|c| if is_plain(c) { c } else { '-' }).collect()
}

impl JournalWriter for Beancount<'_> {
    fn transaction(&mut self, entry: &BookedEntry, postings: &[PlacedPosting]) -> Result<(), Error> {
        let out = &mut self.out;
        let (name, title) = (text(&entry.name), text(&title(entry)));
        let (kind, document) = (link(entry.kind.name()), link(&entry.document));
        writeln!(out, "\n{} * {name} {title} #{kind} ^{document}", entry.day).map_err(output_failed)?;
        let mut fields =
            vec![("entry", entry.id()), ("org", entry.org.clone()), ("seller", entry.seller.clone())];
        fields.extend(belongs_to(entry).map(|month| ("belongs_to", month)));
        for (name, value) in fields {
            writeln!(out, "  {name}: {}", text(&value)).map_err(output_failed)?;
        }
        let currency = code(&entry.currency);
        for posting in postings {
            let (name, amount) = (&posting.account.name, MajorUnits::new(posting.amount, &entry.currency));
            writeln!(out, "  {name}  {amount} {currency}").map_err(output_failed)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        self.out.flush().map_err(output_failed)
    }
}
