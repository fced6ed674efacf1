//! Rules for the texts and codes of sellers, customers and coupons.

use chrono::NaiveDate;
use chrono_tz::Tz;

use crate::documents::content::Party;
use crate::documents::languages;
use crate::error::Error;
use crate::text::check_line;

/// Checks a language: one that documents are written in.
///
/// # Errors
/// [`Error::Invalid`] naming `field`.
pub(super) fn check_language(field: &'static str, language: &str) -> Result<(), Error> {
    if !languages::codes().any(|code| code == language) {
        let codes: Vec<&str> = languages::codes().collect();
        return Err(Error::invalid(field, format!("must be one of {}", codes.join(", "))));
    }
    Ok(())
}

/// The first day that books take. Nothing that is billed here is older, and a year that somebody mistyped
/// (`0026`) would make a manifest for each month since then.
const FIRST_BOOKED: NaiveDate = NaiveDate::from_ymd_opt(2000, 1, 1).expect("a day");

/// Refuses a day before 2000-01-01, for whatever gets into accounts.
///
/// # Errors
/// [`Error::Invalid`] naming `field`.
pub(in crate::invoicing) fn check_booked(field: &'static str, day: NaiveDate) -> Result<(), Error> {
    if day >= FIRST_BOOKED {
        return Ok(());
    }
    Err(Error::invalid(field, format!("must not be before {FIRST_BOOKED}")))
}

/// The time zone with this IANA name.
///
/// # Errors
/// [`Error::Invalid`] naming `field`.
pub(super) fn zone(field: &'static str, name: &str) -> Result<Tz, Error> {
    name.parse().map_err(|_| Error::invalid(field, "must be an IANA time zone such as Europe/Berlin"))
}

/// Checks that a number of days is in a range.
///
/// # Errors
/// [`Error::Invalid`] naming `field`.
pub(super) fn check_days(field: &'static str, days: i32, most: i32) -> Result<(), Error> {
    if !(0..=most).contains(&days) {
        return Err(Error::invalid(field, format!("must be from 0 to {most}")));
    }
    Ok(())
}

/// Checks the facts of a seller or a buyer.
///
/// # Errors
/// [`Error::Invalid`] names the field.
pub(super) fn check_party(party: &Party) -> Result<(), Error> {
    check_line("name", &party.name, 200)?;
    let address = &party.address;
    for (field, text) in [
        ("trading_name", &party.trading_name),
        ("address.line1", &address.line1),
        ("address.line2", &address.line2),
        ("address.postal_code", &address.postal_code),
        ("address.city", &address.city),
        ("address.region", &address.region),
        ("tax_number", &party.tax_number),
        ("registration_number", &party.registration_number),
        ("email", &party.email),
        ("phone", &party.phone),
        ("contact", &party.contact),
    ] {
        if let Some(text) = text {
            check_line(field, text, 200)?;
        }
    }
    if let Some(country) = &address.country
        && (country.len() != 2 || !country.bytes().all(|byte| byte.is_ascii_uppercase()))
    {
        return Err(Error::invalid(
            "address.country",
            "must be two capital letters (ISO 3166-1), such as DE",
        ));
    }
    if let Some(email) = &party.email
        && !email.contains('@')
    {
        return Err(Error::invalid("email", "must be an e-mail address"));
    }
    if let Some(address) = &party.electronic_address {
        check_line("electronic_address.scheme", &address.scheme, 10)?;
        check_line("electronic_address.id", &address.id, 200)?;
    }
    party.vat_id.as_deref().map_or(Ok(()), check_vat_id)
}

/// A VAT id begins with the code of its country (EN 16931-1, BR-CO-9; Greece writes `EL`).
fn check_vat_id(id: &str) -> Result<(), Error> {
    let has_prefix = id.len() > 4 && id.bytes().take(2).all(|byte| byte.is_ascii_uppercase());
    if !has_prefix || id.len() > 20 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        let rule = "must begin with the two letters of its country, without spaces: DE123456789";
        return Err(Error::invalid("vat_id", rule));
    }
    Ok(())
}
