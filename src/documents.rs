//! Invoices and credit notes of our own as documents: their content, and the forms that customers get.
//!
//! [`content`] is what a document says. Everything else here is made of it alone, without a database, a clock
//! or a network: [`html`] and [`pdf`] from one template, [`xml`] for machines. The same content gives the
//! same bytes, at any time and on any machine.

pub mod content;
mod error;
pub mod html;
pub mod languages;
mod page;
pub mod pdf;
mod samples;
pub mod xml;

pub use self::error::{Error, Problem};
