//! Lines of a draft: what an org is charged, before discounts and tax.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::amounts::line_amount;
use super::tax_rates::{self, TaxRate};
use crate::documents::content::LineKind;
use crate::error::Error;
use crate::ids;
use crate::money::{decimal_places, major_units};
use crate::quantity::{Quantity, QuantityAboveZero, QuantityFromZero};
use crate::schema::invoice_items as t;
use crate::text::check_line;
use crate::time::Moment;

/// A line that somebody adds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemBody {
    /// What it is, in the customer's language.
    #[schema(min_length = 1, max_length = 300)]
    pub description: String,
    /// How many; below 0 it gives back. 1 when left out.
    #[serde(default = "one")]
    #[schema(value_type = Option<String>, pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
    pub quantity: Quantity,
    /// What is counted, such as `hour`; pieces when left out.
    #[serde(default)]
    pub unit: Option<String>,
    /// Price of `base_quantity` units in major units of the currency, with tax if prices include it.
    #[schema(value_type = QuantityFromZero)]
    pub unit_price: Quantity,
    /// For how many units the price is; 1 when left out.
    #[serde(default = "one")]
    #[schema(value_type = Option<QuantityAboveZero>)]
    pub base_quantity: Quantity,
    /// Key of the tax rate; that of the org's billing profile when left out.
    #[serde(default)]
    pub tax_rate: Option<String>,
    /// Start of what it charges for.
    #[serde(default)]
    pub from: Option<Moment>,
    /// End of what it charges for, not included.
    #[serde(default)]
    pub to: Option<Moment>,
    /// `item`, or `proration` for a part of a fee.
    #[serde(default)]
    #[schema(value_type = Option<ItemKind>)]
    pub kind: ItemKind,
}

/// What people may add to a draft. The other kinds of lines come from subscriptions and usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemKind {
    /// Anything.
    #[default]
    Item,
    /// A part of a fee.
    Proration,
}

impl From<ItemKind> for LineKind {
    fn from(kind: ItemKind) -> Self {
        match kind {
            ItemKind::Item => Self::Item,
            ItemKind::Proration => Self::Proration,
        }
    }
}

fn one() -> Quantity {
    Quantity(Decimal::ONE)
}

impl ItemBody {
    /// Checks everything but the tax rate.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field.
    pub fn check(&self, currency: &str) -> Result<(), Error> {
        check_line("description", &self.description, 300)?;
        if let Some(unit) = &self.unit {
            check_line("unit", unit, 50)?;
        }
        if self.unit_price.0 < Decimal::ZERO {
            return Err(Error::invalid("unit_price", "must be 0 or more: a quantity below 0 gives back"));
        }
        if self.base_quantity.0 <= Decimal::ZERO {
            return Err(Error::invalid("base_quantity", "must be above 0"));
        }
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from.0 >= to.0
        {
            return Err(Error::invalid("to", "must be after `from`"));
        }
        self.amount(currency).map(drop)
    }

    fn amount(&self, currency: &str) -> Result<i64, Error> {
        line_amount(self.quantity.0, self.unit_price.0, self.base_quantity.0, decimal_places(currency))
    }
}

/// A line of a draft.
#[derive(Clone, Debug)]
pub(super) struct DraftLine {
    pub(super) kind: LineKind,
    pub(super) description: String,
    pub(super) quantity: Decimal,
    pub(super) unit: Option<String>,
    pub(super) unit_price: Decimal,
    pub(super) base_quantity: Decimal,
    /// As priced, in minor units.
    pub(super) amount: i64,
    pub(super) tax_rate: TaxRate,
    /// The plan whose fee it is.
    pub(super) plan: Option<String>,
    pub(super) from: Option<DateTime<Utc>>,
    pub(super) to: Option<DateTime<Utc>>,
    /// Of a usage line: where it comes from.
    pub(super) usage: Option<UsageSource>,
}

/// The usage that a line charges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UsageSource {
    pub(super) meter_id: i32,
    /// 0: a level, or usage whose price came with it.
    pub(super) rate_card_id: i32,
    /// Which rate of the card, from 1; 0: as above.
    pub(super) rate_place: i32,
    /// What the records cost, not rounded.
    pub(super) cost: Decimal,
}

impl DraftLine {
    /// A line of one piece at a price in minor units.
    pub(super) fn piece(
        kind: LineKind,
        description: String,
        (amount, currency): (i64, &str),
        tax_rate: TaxRate,
    ) -> Self {
        let price = major_units(amount.abs(), currency);
        Self {
            kind,
            description,
            quantity: if amount < 0 { Decimal::NEGATIVE_ONE } else { Decimal::ONE },
            unit: None,
            unit_price: price,
            base_quantity: Decimal::ONE,
            amount,
            tax_rate,
            plan: None,
            from: None,
            to: None,
            usage: None,
        }
    }

    /// The line of an item. `usual`: the tax rate of items that name none.
    pub(super) fn of_item(
        conn: &mut PgConnection,
        item: &ItemBody,
        currency: &str,
        usual: Option<&TaxRate>,
    ) -> Result<Self, Error> {
        let tax_rate = match (&item.tax_rate, usual) {
            (Some(id), _) => tax_rates::find(conn, id)?,
            (None, Some(usual)) => usual.clone(),
            (None, None) => return Err(no_tax_rate()),
        };
        Ok(Self {
            kind: item.kind.into(),
            description: item.description.clone(),
            quantity: item.quantity.0,
            unit: item.unit.clone(),
            unit_price: item.unit_price.0,
            base_quantity: item.base_quantity.0,
            amount: item.amount(currency)?,
            tax_rate,
            plan: None,
            from: item.from.map(|at| at.0),
            to: item.to.map(|at| at.0),
            usage: None,
        })
    }

    /// Its first and last day in a zone.
    pub(super) fn days(&self, zone: Tz) -> (Option<chrono::NaiveDate>, Option<chrono::NaiveDate>) {
        let from = self.from.map(|at| at.with_timezone(&zone).date_naive());
        let to = self.to.map(|at| at.with_timezone(&zone).date_naive());
        (from, to.map(|to| to.pred_opt().unwrap_or(to).max(from.unwrap_or(chrono::NaiveDate::MIN))))
    }
}

/// The error for a line without a tax rate.
pub(super) fn no_tax_rate() -> Error {
    Error::conflict(
        "no_tax_rate",
        "no tax rate is known: name one for the line, in the org's billing profile or in the settings of the \
         seller (a rate of category O or Z where there is no tax)",
    )
}

/// An item that waits for an invoice, or is on a draft.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct InvoiceItem {
    /// `item_…`
    pub id: String,
    /// Currency of the price.
    pub currency: String,
    /// The line.
    #[serde(flatten)]
    pub body: ItemBody,
    /// The draft that has it; null: the next draft takes it.
    pub invoice: Option<String>,
    /// When it was added.
    pub created_at: DateTime<Utc>,
}

/// Adds an item: to a draft, or (`invoice` is `None`) to the next one.
pub(super) fn add_item(
    conn: &mut PgConnection,
    org_id: i64,
    (currency, invoice): (&str, Option<&str>),
    body: &ItemBody,
    now: DateTime<Utc>,
) -> Result<InvoiceItem, Error> {
    body.check(currency)?;
    if let Some(rate) = &body.tax_rate {
        tax_rates::active(conn, rate, "tax_rate")?;
    }
    insert_item(conn, org_id, (currency, invoice), body, now)
}

/// Lets the rest of a credit wait for the next invoice. Its tax rate stays, also when it is used no more.
pub(super) fn carry_item(
    conn: &mut PgConnection,
    org_id: i64,
    currency: &str,
    body: &ItemBody,
    now: DateTime<Utc>,
) -> Result<InvoiceItem, Error> {
    insert_item(conn, org_id, (currency, None), body, now)
}

fn insert_item(
    conn: &mut PgConnection,
    org_id: i64,
    (currency, invoice): (&str, Option<&str>),
    body: &ItemBody,
    now: DateTime<Utc>,
) -> Result<InvoiceItem, Error> {
    let id = ids::fresh("item");
    let line = crate::json::to_tree(body)?;
    diesel::insert_into(t::table)
        .values((
            (t::org_id.eq(org_id), t::item_id.eq(&id), t::currency.eq(currency)),
            (t::line.eq(line), t::created_at.eq(now), t::invoice_id.eq(invoice)),
        ))
        .execute(conn)?;
    Ok(InvoiceItem {
        id,
        currency: currency.to_owned(),
        body: body.clone(),
        invoice: invoice.map(str::to_owned),
        created_at: now,
    })
}

/// Gives the items of an org that wait to a draft.
pub(super) fn take_items(
    conn: &mut PgConnection,
    org_id: i64,
    currency: &str,
    invoice: &str,
) -> QueryResult<usize> {
    let waiting = t::table.filter(t::org_id.eq(org_id).and(t::currency.eq(currency)));
    diesel::update(waiting.filter(t::invoice_id.is_null())).set(t::invoice_id.eq(invoice)).execute(conn)
}

/// The items of a draft (`None`: those that wait), in the order in which they were added.
pub(super) fn items(
    conn: &mut PgConnection,
    org_id: i64,
    currency: Option<&str>,
    invoice: Option<&str>,
) -> Result<Vec<InvoiceItem>, Error> {
    type ItemRow = (String, String, Value, DateTime<Utc>, Option<String>);
    let mut query = t::table
        .filter(t::org_id.eq(org_id).and(t::invoice_id.is_not_distinct_from(invoice)))
        .order((t::created_at, t::item_id))
        .select((t::item_id, t::currency, t::line, t::created_at, t::invoice_id))
        .into_boxed();
    if let Some(currency) = currency {
        query = query.filter(t::currency.eq(currency));
    }
    let rows: Vec<ItemRow> = query.load(conn)?;
    let read = |(id, currency, line, created_at, invoice): ItemRow| {
        let body = serde_json::from_value(line).map_err(|e| Error::Internal(format!("item {id}: {e}")))?;
        Ok(InvoiceItem { id, currency, body, invoice, created_at })
    };
    rows.into_iter().map(read).collect()
}

/// Deletes an item that is on no finalised invoice, and returns the draft that had it.
///
/// # Errors
/// [`Error::NotFound`] when the org has no such item.
pub(super) fn delete_item(
    conn: &mut PgConnection,
    org_id: i64,
    item_id: &str,
) -> Result<Option<String>, Error> {
    diesel::delete(t::table.find((org_id, item_id)))
        .returning(t::invoice_id)
        .get_result(conn)
        .optional()?
        .ok_or(Error::NotFound("invoice item"))
}

/// Gives back the items of a draft that is deleted: the next draft takes them.
pub(super) fn release_items(conn: &mut PgConnection, org_id: i64, invoice: &str) -> QueryResult<usize> {
    diesel::update(t::table.filter(t::org_id.eq(org_id).and(t::invoice_id.eq(invoice))))
        .set(t::invoice_id.eq(None::<String>))
        .execute(conn)
}
