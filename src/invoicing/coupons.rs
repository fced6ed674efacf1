//! Coupons of our own invoices, and which orgs have them. Owns `own_coupons` and `org_coupons`.
//!
//! An invoice that is finalised uses each of its coupons once, and a void invoice gives the use back. So
//! previews and drafts take no use away.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::amounts::Off;
use crate::error::Error;
use crate::money;
use crate::quantity::{Quantity, QuantityAboveZero};
use crate::schema::{org_coupons, own_coupons as t};
use crate::text::check_line;
use crate::time::Moment;

/// A coupon as somebody defines it: the whole of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OwnCouponBody)]
pub struct CouponBody {
    /// What documents call the discount.
    pub name: String,
    /// Percent off, above 0 and up to 100. This or `amount`.
    #[serde(default)]
    #[schema(value_type = Option<QuantityAboveZero>)]
    pub percent: Option<Quantity>,
    /// So much off each invoice, in minor units of `currency`.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub amount: Option<i64>,
    /// Currency of `amount` and `minimum_amount`; other invoices get no discount.
    #[serde(default)]
    pub currency: Option<String>,
    /// So many invoices at most, of all orgs.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub max_uses: Option<i64>,
    /// Only so many invoices of an org; all when left out.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub first_invoices: Option<i32>,
    /// Only invoices whose lines come to so much, before discounts and exclusive tax.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub minimum_amount: Option<i64>,
    /// Only the fees of these plans; every line when left out.
    #[serde(default)]
    pub plans: Vec<String>,
    /// Only invoices finalised from then on.
    #[serde(default)]
    pub valid_from: Option<Moment>,
    /// Only invoices finalised before.
    #[serde(default)]
    pub valid_until: Option<Moment>,
    /// Whether it may be applied and used.
    #[serde(default = "yes")]
    pub active: bool,
}

fn yes() -> bool {
    true
}

/// A coupon.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = OwnCoupon)]
pub struct Coupon {
    /// Its code.
    pub code: String,
    /// How it is defined.
    #[serde(flatten)]
    pub body: CouponBody,
    /// Invoices that used it.
    pub uses: i64,
    /// When it was made here.
    pub created_at: DateTime<Utc>,
}

impl Coupon {
    /// What it takes off.
    #[must_use]
    pub fn off(&self) -> Off {
        match (self.body.percent, self.body.amount) {
            (Some(percent), _) => Off::Percent(percent.0),
            (None, amount) => Off::Amount(amount.unwrap_or(0)),
        }
    }

    /// Whether an invoice that is finalised at `at` may use it. `subtotal`: sum of its lines.
    fn fits(&self, currency: &str, subtotal: i64, at: DateTime<Utc>) -> bool {
        let CouponBody { valid_from, valid_until, max_uses, minimum_amount, .. } = &self.body;
        self.body.active
            && self.body.currency.as_deref().is_none_or(|own| own == currency)
            && valid_from.is_none_or(|from| from.0 <= at)
            && valid_until.is_none_or(|until| at < until.0)
            && max_uses.is_none_or(|most| self.uses < most)
            && minimum_amount.is_none_or(|least| subtotal >= least)
    }
}

impl CouponBody {
    fn check(&self) -> Result<(), Error> {
        check_line("name", &self.name, 100)?;
        if self.percent.is_some() == self.amount.is_some() {
            return Err(Error::invalid("percent", "or `amount` must be given, and not both"));
        }
        let is_percent = |percent: Quantity| {
            let percent = percent.0.normalize();
            percent > Decimal::ZERO && percent <= Decimal::ONE_HUNDRED && percent.scale() <= 4
        };
        if self.percent.is_some_and(|percent| !is_percent(percent)) {
            let rule = "must be above 0 and up to 100, with at most 4 decimal places";
            return Err(Error::invalid("percent", rule));
        }
        let counts = [self.amount, self.max_uses, self.minimum_amount, self.first_invoices.map(i64::from)];
        let names = ["amount", "max_uses", "minimum_amount", "first_invoices"];
        for (field, count) in names.into_iter().zip(counts) {
            let most = super::amounts::MAX_AMOUNT;
            if count.is_some_and(|count| !(1..=most).contains(&count)) {
                return Err(Error::invalid(field, format!("must be from 1 to {most}")));
            }
        }
        match &self.currency {
            Some(currency) => money::check_currency("currency", currency)?,
            None if self.amount.is_some() || self.minimum_amount.is_some() => {
                return Err(Error::invalid("currency", "must be given: it is that of the amount"));
            }
            None => {}
        }
        if let (Some(from), Some(until)) = (self.valid_from, self.valid_until)
            && from.0 >= until.0
        {
            return Err(Error::invalid("valid_until", "must be after valid_from"));
        }
        Ok(())
    }
}

/// Creates a coupon, or replaces it; its uses stay.
///
/// # Errors
/// [`Error::Invalid`] names the field.
pub fn put(
    conn: &mut PgConnection,
    code: &str,
    body: &CouponBody,
    now: DateTime<Utc>,
) -> Result<Coupon, Error> {
    if !(1..=50).contains(&code.len()) || !code.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::invalid("code", "must be 1 to 50 visible ASCII characters"));
    }
    body.check()?;
    let values = (
        (t::name.eq(&body.name), t::percent.eq(body.percent.map(|percent| percent.0))),
        (t::amount.eq(body.amount), t::currency.eq(&body.currency), t::max_uses.eq(body.max_uses)),
        (t::first_invoices.eq(body.first_invoices), t::minimum_amount.eq(body.minimum_amount)),
        t::plans.eq(body.plans.iter().map(|plan| Some(plan.as_str())).collect::<Vec<_>>()),
        (
            t::valid_from.eq(body.valid_from.map(|at| at.0)),
            t::valid_until.eq(body.valid_until.map(|at| at.0)),
        ),
        t::active.eq(body.active),
    );
    diesel::insert_into(t::table)
        .values((t::code.eq(code), t::created_at.eq(now), values.clone()))
        .on_conflict(t::code)
        .do_update()
        .set(values)
        .execute(conn)
        .map_err(|error| match error {
            diesel::result::Error::DatabaseError(diesel::result::DatabaseErrorKind::CheckViolation, _) => {
                Error::invalid("max_uses", "must be at least as many as the uses so far")
            }
            error => error.into(),
        })?;
    find(conn, code)
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = t)]
struct CouponRow {
    code: String,
    name: String,
    percent: Option<Decimal>,
    amount: Option<i64>,
    currency: Option<String>,
    max_uses: Option<i64>,
    uses: i64,
    first_invoices: Option<i32>,
    minimum_amount: Option<i64>,
    plans: Vec<Option<String>>,
    valid_from: Option<DateTime<Utc>>,
    valid_until: Option<DateTime<Utc>>,
    active: bool,
    created_at: DateTime<Utc>,
}

impl From<CouponRow> for Coupon {
    fn from(row: CouponRow) -> Self {
        let body = CouponBody {
            name: row.name,
            percent: row.percent.map(|percent| Quantity(percent.normalize())),
            amount: row.amount,
            currency: row.currency,
            max_uses: row.max_uses,
            first_invoices: row.first_invoices,
            minimum_amount: row.minimum_amount,
            plans: row.plans.into_iter().flatten().collect(),
            valid_from: row.valid_from.map(Moment),
            valid_until: row.valid_until.map(Moment),
            active: row.active,
        };
        Self { code: row.code, body, uses: row.uses, created_at: row.created_at }
    }
}

/// # Errors
/// [`Error::NotFound`] when there is no such coupon.
pub fn find(conn: &mut PgConnection, code: &str) -> Result<Coupon, Error> {
    let row: Option<CouponRow> = t::table.find(code).select(CouponRow::as_select()).first(conn).optional()?;
    row.map(Coupon::from).ok_or(Error::NotFound("coupon"))
}

/// All coupons, by code.
pub fn list(conn: &mut PgConnection) -> Result<Vec<Coupon>, Error> {
    let rows: Vec<CouponRow> = t::table.order(t::code).select(CouponRow::as_select()).load(conn)?;
    Ok(rows.into_iter().map(Coupon::from).collect())
}

/// A coupon that an org has.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OrgCoupon {
    /// Its code.
    pub code: String,
    /// When the org got it.
    pub applied_at: DateTime<Utc>,
    /// When it was taken away; null: the org still has it.
    pub ended_at: Option<DateTime<Utc>>,
    /// Invoices of the org that used it.
    pub uses: i32,
}

/// Gives an org a coupon. Its next invoices have the discount, in the order in which coupons were given.
///
/// # Errors
/// [`Error::NotFound`] when there is no such coupon; [`Error::Conflict`] when it may not be used any more.
pub fn apply(
    conn: &mut PgConnection,
    org_id: i64,
    code: &str,
    now: DateTime<Utc>,
) -> Result<OrgCoupon, Error> {
    let coupon = find(conn, code)?;
    let is_over = coupon.body.valid_until.is_some_and(|until| until.0 <= now);
    if !coupon.body.active || is_over || coupon.body.max_uses.is_some_and(|most| coupon.uses >= most) {
        let detail = "this coupon is not active, is over, or was used as often as it may be";
        return Err(Error::conflict("coupon_unusable", detail));
    }
    let values =
        (org_coupons::org_id.eq(org_id), org_coupons::code.eq(code), org_coupons::applied_at.eq(now));
    diesel::insert_into(org_coupons::table)
        .values(values)
        .on_conflict((org_coupons::org_id, org_coupons::code))
        .do_update()
        .set(org_coupons::ended_at.eq(None::<DateTime<Utc>>))
        .execute(conn)?;
    let found = of_org(conn, org_id)?.into_iter().find(|own| own.code == code);
    found.ok_or_else(|| Error::Internal("a coupon was applied and is not there".to_owned()))
}

/// Takes a coupon from an org; finalised invoices keep their discount.
///
/// # Errors
/// [`Error::NotFound`] when the org does not have it.
pub fn remove(conn: &mut PgConnection, org_id: i64, code: &str, now: DateTime<Utc>) -> Result<(), Error> {
    let own = org_coupons::table.find((org_id, code)).filter(org_coupons::ended_at.is_null());
    match diesel::update(own).set(org_coupons::ended_at.eq(now)).execute(conn)? {
        0 => Err(Error::NotFound("coupon")),
        _ => Ok(()),
    }
}

/// Coupons that an org has or had, in the order in which it got them.
pub fn of_org(conn: &mut PgConnection, org_id: i64) -> QueryResult<Vec<OrgCoupon>> {
    type OrgCouponRow = (String, DateTime<Utc>, Option<DateTime<Utc>>, i32);
    let rows: Vec<OrgCouponRow> = org_coupons::table
        .filter(org_coupons::org_id.eq(org_id))
        .order((org_coupons::applied_at, org_coupons::code))
        .select((org_coupons::code, org_coupons::applied_at, org_coupons::ended_at, org_coupons::uses))
        .load(conn)?;
    let shown = |(code, applied_at, ended_at, uses)| OrgCoupon { code, applied_at, ended_at, uses };
    Ok(rows.into_iter().map(shown).collect())
}

/// The coupons that an invoice of the org would use now, in order. `lock`: until the caller commits, so that
/// nobody else takes the last use.
pub(super) fn usable(
    conn: &mut PgConnection,
    org_id: i64,
    (currency, subtotal): (&str, i64),
    at: DateTime<Utc>,
    lock: bool,
) -> Result<Vec<Coupon>, Error> {
    let own: Vec<OrgCoupon> =
        of_org(conn, org_id)?.into_iter().filter(|own| own.ended_at.is_none()).collect();
    let codes: Vec<&str> = own.iter().map(|own| own.code.as_str()).collect();
    let all = t::table.filter(t::code.eq_any(&codes)).order(t::code).select(CouponRow::as_select());
    let rows: Vec<CouponRow> = if lock { all.for_update().load(conn)? } else { all.load(conn)? };
    let coupons: Vec<Coupon> = rows.into_iter().map(Coupon::from).collect();
    let usable = own.iter().filter_map(|own| {
        let coupon = coupons.iter().find(|coupon| coupon.code == own.code)?;
        let is_left = coupon.body.first_invoices.is_none_or(|most| own.uses < most);
        (is_left && coupon.fits(currency, subtotal, at)).then(|| coupon.clone())
    });
    Ok(usable.collect())
}

/// Counts a use (`change` 1), or gives it back (-1), of each of these coupons of an org.
pub(super) fn count_uses(
    conn: &mut PgConnection,
    org_id: i64,
    codes: &[String],
    change: i32,
) -> QueryResult<()> {
    let mut codes = codes.to_vec();
    codes.sort();
    codes.dedup();
    for code in codes {
        diesel::update(t::table.find(&code)).set(t::uses.eq(t::uses + i64::from(change))).execute(conn)?;
        diesel::update(org_coupons::table.find((org_id, &code)))
            .set(org_coupons::uses.eq(org_coupons::uses + change))
            .execute(conn)?;
    }
    Ok(())
}
