//! Invoices and credit notes of our own as documents: their content, and the forms that customers get.

pub mod content;
