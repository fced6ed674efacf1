//! Accounts of sellers that payments arrive on. Owns `payment_accounts`.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::sellers;
use crate::documents::content::PaymentAccount as ShownAccount;
use crate::error::Error;
use crate::money;
use crate::schema::payment_accounts as t;
use crate::text::{check_key, check_line};

/// A payment account as somebody defines it: the whole of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PaymentAccountBody {
    /// Key of the seller whose account it is.
    pub seller: String,
    /// Only for documents in this currency; null: in any.
    #[serde(default)]
    pub currency: Option<String>,
    /// Payments of this processor arrive here: `paypal`, `bank_transfer`.
    #[serde(default)]
    pub processor: Option<String>,
    /// Whether documents tell the customer to pay here.
    #[serde(default)]
    pub shown: bool,
    /// What people call it: `Bank transfer`, `PayPal`.
    pub name: String,
    /// Whose account it is.
    #[serde(default)]
    pub holder: Option<String>,
    /// Name of the bank.
    #[serde(default)]
    pub bank: Option<String>,
    #[serde(default)]
    pub iban: Option<String>,
    #[serde(default)]
    pub bic: Option<String>,
    /// Number of an account without an IBAN, or an address such as that of a PayPal account.
    #[serde(default)]
    pub number: Option<String>,
}

/// A payment account.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PaymentAccount {
    /// Its key.
    pub id: String,
    /// How it is defined.
    #[serde(flatten)]
    pub body: PaymentAccountBody,
    /// When it was made here.
    pub created_at: DateTime<Utc>,
}

impl PaymentAccountBody {
    fn check(&self) -> Result<(), Error> {
        check_line("name", &self.name, 100)?;
        for (field, text) in [
            ("processor", &self.processor),
            ("holder", &self.holder),
            ("bank", &self.bank),
            ("bic", &self.bic),
            ("number", &self.number),
        ] {
            if let Some(text) = text {
                check_line(field, text, 200)?;
            }
        }
        if let Some(currency) = &self.currency {
            money::check_currency("currency", currency)?;
        }
        if self.iban.as_deref().is_some_and(|iban| !is_iban(iban)) {
            return Err(Error::invalid(
                "iban",
                "must be an IBAN without spaces whose check digits are right",
            ));
        }
        Ok(())
    }
}

/// Whether the check digits of an IBAN are right (ISO 13616: modulo 97).
fn is_iban(iban: &str) -> bool {
    let fits = (15..=34).contains(&iban.len())
        && iban.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    if !fits {
        return false;
    }
    let (front, rest) = iban.split_at(4);
    let digits = rest.chars().chain(front.chars()).filter_map(|c| c.to_digit(36));
    digits.fold(0_u32, |sum, digit| (sum * if digit > 9 { 100 } else { 10 } + digit) % 97) == 1
}

/// Creates a payment account, or replaces it.
///
/// # Errors
/// [`Error::Invalid`] names the field.
pub fn put(
    conn: &mut PgConnection,
    id: &str,
    body: &PaymentAccountBody,
    now: DateTime<Utc>,
) -> Result<PaymentAccount, Error> {
    check_key(id)?;
    body.check()?;
    sellers::find(conn, &body.seller).map_err(|_| Error::invalid("seller", "must be the key of a seller"))?;
    let details = crate::json::to_tree(body)?;
    let values = (
        (t::seller_id.eq(&body.seller), t::currency.eq(&body.currency), t::processor.eq(&body.processor)),
        (t::shown.eq(body.shown), t::details.eq(details)),
    );
    diesel::insert_into(t::table)
        .values((t::payment_account_id.eq(id), t::created_at.eq(now), values.clone()))
        .on_conflict(t::payment_account_id)
        .do_update()
        .set(values)
        .execute(conn)?;
    find(conn, id)
}

type AccountRow = (String, Value, DateTime<Utc>);

fn read((id, details, created_at): AccountRow) -> Result<PaymentAccount, Error> {
    let broken = |error: serde_json::Error| Error::Internal(format!("payment account {id}: {error}"));
    let body = serde_json::from_value(details).map_err(broken)?;
    Ok(PaymentAccount { id, body, created_at })
}

/// # Errors
/// [`Error::NotFound`] when there is no such account.
pub fn find(conn: &mut PgConnection, id: &str) -> Result<PaymentAccount, Error> {
    let found = t::table.find(id).select((t::payment_account_id, t::details, t::created_at));
    read(found.first(conn).optional()?.ok_or(Error::NotFound("payment account"))?)
}

/// All accounts, by key.
pub fn list(conn: &mut PgConnection) -> Result<Vec<PaymentAccount>, Error> {
    let all = t::table.order(t::payment_account_id);
    let rows: Vec<AccountRow> = all.select((t::payment_account_id, t::details, t::created_at)).load(conn)?;
    rows.into_iter().map(read).collect()
}

/// The accounts that a document of a seller in a currency shows.
pub(super) fn shown(
    conn: &mut PgConnection,
    seller: &str,
    currency: &str,
) -> Result<Vec<ShownAccount>, Error> {
    let fits = t::currency.is_null().or(t::currency.eq(currency));
    let rows: Vec<AccountRow> = t::table
        .filter(t::seller_id.eq(seller).and(t::shown).and(fits))
        .order(t::payment_account_id)
        .select((t::payment_account_id, t::details, t::created_at))
        .load(conn)?;
    let show = |row| {
        let PaymentAccountBody { name, holder, bank, iban, bic, number, .. } = read(row)?.body;
        Ok(ShownAccount { name, holder, bank, iban, bic, number })
    };
    rows.into_iter().map(show).collect()
}

/// The account that payments of a processor arrive on.
pub(super) fn of_processor(
    conn: &mut PgConnection,
    seller: &str,
    processor: &str,
    currency: &str,
) -> QueryResult<Option<String>> {
    t::table
        .filter(t::seller_id.eq(seller).and(t::processor.eq(processor)))
        .filter(t::currency.is_null().or(t::currency.eq(currency)))
        .order((t::currency.is_null(), t::payment_account_id))
        .select(t::payment_account_id)
        .first(conn)
        .optional()
}

#[cfg(test)]
mod tests {
    use super::is_iban;

    #[test]
    fn check_digits_of_ibans_are_checked() {
        for (iban, is_right) in [
            ("DE89370400440532013000", true),
            ("GB82WEST12345698765432", true),
            ("DE89370400440532013001", false),
            ("DE8937040044053201", false),
            ("de89370400440532013000", false),
        ] {
            assert_eq!(is_iban(iban), is_right, "{iban}");
        }
    }
}
