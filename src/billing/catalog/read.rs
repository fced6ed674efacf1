//! The catalogue as the API shows it.

use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::{Price, Product};
use crate::billing::read::{self, Belongs, Listing, Lookup, Owned, Position, Where, readable, shown};
use crate::error::Error;

readable!(Product in products, "product", Belongs::ToNobody);

/// Narrows the list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ProductFilter {
    /// Only what can be bought (true) or not (false).
    pub active: Option<bool>,
    /// True: only what was deleted at Stripe. Otherwise only what was not.
    pub deleted: Option<bool>,
}

impl read::ListFilter for ProductFilter {
    fn narrow(&self, rows: &mut Where) {
        rows.when(self.active, "products.active = {}");
        rows.when(Some(self.deleted.unwrap_or(false)), "products.deleted = {}");
    }
}

/// A product as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProductView {
    /// The row.
    #[serde(flatten)]
    pub row: Product,
    /// The Stripe object as it was sent; null unless it is asked for.
    #[schema(value_type = Option<Object>)]
    pub raw: Option<Box<RawValue>>,
}

shown!(ProductView, "product");

impl From<Owned<Product>> for ProductView {
    fn from(found: Owned<Product>) -> Self {
        Self { row: found.row, raw: None }
    }
}

/// A page of products, newest first, and one more when another page follows.
pub(crate) fn list_products(
    conn: &mut PgConnection,
    listing: &Listing<ProductFilter>,
) -> Result<Vec<(Position, ProductView)>, Error> {
    let found = read::list::<Product, _>(conn, listing)?;
    Ok(found.into_iter().map(|found| (found.position(), found.into())).collect())
}

/// One product.
///
/// # Errors
/// [`Error::NotFound`] when there is none, or it is another org's.
pub(crate) fn find_product(conn: &mut PgConnection, lookup: &Lookup) -> Result<ProductView, Error> {
    read::find::<Product>(conn, lookup).map(Into::into)
}

readable!(Price in prices, "price", Belongs::ToNobody);

/// Narrows the list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PriceFilter {
    /// Only those of this product (`prod_…`).
    pub product: Option<String>,
    /// Only those that can be bought (true) or not (false).
    pub active: Option<bool>,
    /// Only in this currency, three lower-case letters.
    pub currency: Option<String>,
    /// Only with this lookup key.
    pub lookup_key: Option<String>,
    /// True: only what was deleted at Stripe. Otherwise only what was not.
    pub deleted: Option<bool>,
}

impl read::ListFilter for PriceFilter {
    fn narrow(&self, rows: &mut Where) {
        rows.when(self.product.as_deref(), "prices.product_id = {}");
        rows.when(self.active, "prices.active = {}");
        rows.when(self.currency.as_deref(), "prices.currency = {}");
        rows.when(self.lookup_key.as_deref(), "prices.lookup_key = {}");
        rows.when(Some(self.deleted.unwrap_or(false)), "prices.deleted = {}");
    }
}

/// A price as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PriceView {
    /// The row.
    #[serde(flatten)]
    pub row: Price,
    /// The Stripe object as it was sent; null unless it is asked for.
    #[schema(value_type = Option<Object>)]
    pub raw: Option<Box<RawValue>>,
}

shown!(PriceView, "price");

impl From<Owned<Price>> for PriceView {
    fn from(found: Owned<Price>) -> Self {
        Self { row: found.row, raw: None }
    }
}

/// A page of prices, newest first, and one more when another page follows.
pub(crate) fn list_prices(
    conn: &mut PgConnection,
    listing: &Listing<PriceFilter>,
) -> Result<Vec<(Position, PriceView)>, Error> {
    let found = read::list::<Price, _>(conn, listing)?;
    Ok(found.into_iter().map(|found| (found.position(), found.into())).collect())
}

/// One price.
///
/// # Errors
/// [`Error::NotFound`] when there is none, or it is another org's.
pub(crate) fn find_price(conn: &mut PgConnection, lookup: &Lookup) -> Result<PriceView, Error> {
    read::find::<Price>(conn, lookup).map(Into::into)
}
