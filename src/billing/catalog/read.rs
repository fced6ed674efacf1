//! The catalogue as the API shows it.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::{Price, Product};
use crate::billing::read::{Belongs, ListFilter, OwnedRow, Where, resource};

/// Narrows the list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ProductFilter {
    /// Only what can be bought (true) or not (false).
    pub active: Option<bool>,
    /// True: only what was deleted at Stripe. Otherwise only what was not.
    pub deleted: Option<bool>,
}

impl ListFilter for ProductFilter {
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

resource! {
    Product in products, ProductView by ProductFilter,
        name "product", objects "product", belongs Belongs::ToNobody
}

impl From<OwnedRow<Product>> for ProductView {
    fn from(found: OwnedRow<Product>) -> Self {
        Self { row: found.row, raw: found.raw }
    }
}

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

impl ListFilter for PriceFilter {
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

resource! {
    Price in prices, PriceView by PriceFilter,
        name "price", objects "price", belongs Belongs::ToNobody
}

impl From<OwnedRow<Price>> for PriceView {
    fn from(found: OwnedRow<Price>) -> Self {
        Self { row: found.row, raw: found.raw }
    }
}
