//! Documents as e-invoices: UBL 2.1, UN/CEFACT CII, and Factur-X (a PDF with CII in it).
//!
//! The model and the rules are those of EN 16931-1, with what XRechnung 3.0 and Peppol BIS Billing 3.0 add.
//! All rules are checked before anything is written. A document that lacks something is refused with a list
//! of its fields, each with the number of the rule.
//!
//! Only the files of this folder know the libraries of the standard.

mod amounts;
mod invoice;
mod payment;
mod problems;

use en16931::profiles::{En16931, PeppolBis3, XRechnung};
use en16931::validation::profile::{ProfileMarker, Validated};
use en16931_formats::Syntax;

use super::Error;
use super::content::Document;
use super::html::Template;
use super::pdf;

/// A set of rules that an e-invoice follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// The European standard alone.
    En16931,
    /// Germany's authorities.
    XRechnung,
    /// The Peppol network.
    Peppol,
}

impl Profile {
    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::En16931 => "EN 16931",
            Self::XRechnung => "XRechnung",
            Self::Peppol => "Peppol BIS Billing",
        }
    }
}

/// The document as UBL `Invoice` or `CreditNote`.
///
/// # Errors
///
/// [`Error::EInvoice`] lists all that the profile's rules find, and [`Error::UnknownLanguage`].
pub fn ubl(document: &Document, profile: Profile) -> Result<String, Error> {
    xml(document, profile, Syntax::Ubl)
}

/// The document as `CrossIndustryInvoice`.
///
/// # Errors
///
/// As [`ubl`].
pub fn cii(document: &Document, profile: Profile) -> Result<String, Error> {
    xml(document, profile, Syntax::Cii)
}

/// The PDF with the document as CII in it: Factur-X 1.0 and ZUGFeRD 2, profile EN 16931.
///
/// # Errors
///
/// As [`ubl`] and as [`pdf::pdf`].
pub fn facturx(document: &Document, template: &Template) -> Result<Vec<u8>, Error> {
    let cii = cii(document, Profile::En16931)?;
    pdf::with_facturx(document, template, cii)
}

fn xml(document: &Document, profile: Profile, syntax: Syntax) -> Result<String, Error> {
    match profile {
        Profile::En16931 => written::<En16931>(document, profile, syntax),
        Profile::XRechnung => written::<XRechnung>(document, profile, syntax),
        Profile::Peppol => written::<PeppolBis3>(document, profile, syntax),
    }
}

fn written<P: ProfileMarker>(document: &Document, profile: Profile, syntax: Syntax) -> Result<String, Error> {
    let refused = |problems| Error::EInvoice { profile: profile.name(), problems };
    let before = problems::before_conversion(document);
    if !before.is_empty() {
        return Err(refused(before));
    }
    let mut invoice = invoice::of(document, profile)?;
    invoice.specification_id = Some(P::PROFILE.specification_id.to_owned());
    let valid = Validated::<P>::new(invoice)
        .map_err(|rejected| refused(problems::of(document, rejected.report())))?;
    // It leaves out only characters that XML cannot have, such as U+0008.
    Ok(en16931_formats::write(&valid, syntax).xml)
}
