//! Ignore rules: prices, products and payment links of another product that sells through the same Stripe
//! account. Nothing waits here because of them. What buys a plan or a pack is sold here, whatever a rule
//! says. Owns `battery_effects_ignored`.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{skipped, waiting};
use crate::error::Error;
use crate::schema::battery_effects_ignored as t;
use crate::text::has_nul;

/// What is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum IgnoredKind {
    /// Lines of a price, and sessions whose metadata names it or whose line items are of it.
    Price,
    /// Lines and line items of every price of a product.
    Product,
    /// Sessions of a payment link.
    PaymentLink,
}

impl IgnoredKind {
    /// Its name on the wire and in the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Price => "price",
            Self::Product => "product",
            Self::PaymentLink => "payment_link",
        }
    }

    /// The kind that a caller names so.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is none.
    pub fn parse(name: &str) -> Result<Self, Error> {
        [Self::Price, Self::Product, Self::PaymentLink]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| Error::invalid("kind", "must be price, product or payment_link"))
    }
}

/// A rule that something is ignored.
#[derive(Clone, Debug, Serialize, ToSchema, Queryable, Selectable)]
#[diesel(table_name = t)]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct Ignored {
    /// `price`, `product` or `payment_link`.
    pub kind: String,
    /// Stripe's id.
    pub id: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub created_at: DateTime<Utc>,
}

/// The rules, in the order of kind and id, after the rule `after`.
pub fn list(
    conn: &mut PgConnection,
    after: Option<(String, String)>,
    limit: i64,
) -> Result<Vec<Ignored>, Error> {
    let mut query = t::table.order((t::kind, t::id)).select(Ignored::as_select()).limit(limit).into_boxed();
    if let Some((kind, id)) = after {
        query = query.filter(t::kind.gt(kind.clone()).or(t::kind.eq(kind).and(t::id.gt(id))));
    }
    Ok(query.load(conn)?)
}

/// Makes the rule or replaces its reason, and requeues what waits. Returns the rule.
///
/// # Errors
/// [`Error::Invalid`] for an id that cannot be Stripe's, and without a reason.
pub fn put(
    conn: &mut PgConnection,
    kind: IgnoredKind,
    id: &str,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<Ignored, Error> {
    if id.is_empty() || id.len() > 255 || has_nul(id) {
        return Err(Error::invalid("id", "must be an id of 1 to 255 characters"));
    }
    waiting::check_reason(reason)?;
    let rule = diesel::insert_into(t::table)
        .values((t::kind.eq(kind.name()), t::id.eq(id), t::reason.eq(reason), t::created_at.eq(now)))
        .on_conflict((t::kind, t::id))
        .do_update()
        .set(t::reason.eq(reason))
        .returning(Ignored::as_returning())
        .get_result(conn)?;
    waiting::requeue_all(conn)?;
    Ok(rule)
}

/// Removes the rule, and requeues all payments. Returns the rule.
///
/// # Errors
/// [`Error::NotFound`] when there is none.
pub fn remove(conn: &mut PgConnection, kind: IgnoredKind, id: &str) -> Result<Ignored, Error> {
    let rule: Option<Ignored> = diesel::delete(t::table.find((kind.name(), id)))
        .returning(Ignored::as_returning())
        .get_result(conn)
        .optional()?;
    let rule = rule.ok_or(Error::NotFound("rule"))?;
    skipped::requeue_all(conn)?;
    Ok(rule)
}
