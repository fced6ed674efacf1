//! Reads of invoices, payments, refunds and credit notes of both origins: Stripe's, which
//! [`crate::billing::read`] reads, and our own.
//!
//! Both kinds have one shape in lists. A list merges a page of each by the position of their rows, so one
//! cursor goes on in both. A look-up of our own object shows the fields of that shape and those that only our
//! own objects have.

mod credit_notes;
mod invoices;
mod payments;
mod refunds;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::billing::acting_realms;
use crate::billing::read::{Listing, Lookup, Origin, Position, Resource};
use crate::error::Error;
use crate::time::Moment;
pub use credit_notes::{AnyCreditNote, OwnCreditNoteView};
pub use invoices::{AnyInvoice, OwnInvoiceView};
pub use payments::{AnyPayment, OwnPaymentView};
pub use refunds::{AnyRefund, OwnRefundView};

/// A kind of object of both origins. It is implemented for the row of the mirror.
pub(crate) trait TwoOrigins: Resource {
    /// An object of either origin, as a look-up shows it.
    type Any: Serialize + Send + 'static + From<Self::View>;

    /// Whether rows show their lines, so that pages are small.
    fn expands_lines(_: &Self::Filter) -> bool {
        false
    }

    /// A page of our own rows, newest first, each with its position.
    fn own_page(
        conn: &mut PgConnection,
        page: &OwnPage<'_, Self::Filter>,
    ) -> Result<Vec<(Position, Self::View)>, Error>;

    /// Our own object with this id, of this org (public id) or of any.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none.
    fn own(conn: &mut PgConnection, id: &str, org: Option<&str>, livemode: bool) -> Result<Self::Any, Error>;
}

/// Which of our own rows a page of a list may show.
pub(crate) struct OwnPage<'a, F> {
    filter: &'a F,
    /// Public id of the org; `None`: of any.
    org: Option<&'a str>,
    created_from: Option<DateTime<Utc>>,
    created_before: Option<DateTime<Utc>>,
    /// `created` and id of the last row of the page before.
    after: Option<(DateTime<Utc>, &'a str)>,
    /// Rows at most.
    limit: i64,
    /// The mode that acts: our own rows have it.
    livemode: bool,
}

/// The rows of a page, newest first, each with its position. There is one row more than the page holds if
/// another page follows. `origin`: only rows of this origin.
///
/// # Errors
/// As [`Resource::list`].
pub(crate) fn list<R: TwoOrigins>(
    conn: &mut PgConnection,
    listing: &Listing<R::Filter>,
    origin: Option<Origin>,
) -> Result<Vec<(Position, R::View)>, Error> {
    if R::expands_lines(&listing.filter) {
        crate::billing::read::check_limit_with_lines(listing.limit)?;
    }
    let mirrored = if origin == Some(Origin::Own) { Vec::new() } else { R::list(conn, listing)? };
    let own = if origin == Some(Origin::Stripe) { Vec::new() } else { own_rows::<R>(conn, listing)? };
    let most = usize::try_from(listing.limit + 1).unwrap_or(usize::MAX);
    Ok(merged(mirrored, own, most))
}

/// The first `most` rows of two pages, each of them sorted from the newest row on.
fn merged<V>(left: Vec<(Position, V)>, right: Vec<(Position, V)>, most: usize) -> Vec<(Position, V)> {
    let mut rows: Vec<(Position, V)> = left.into_iter().chain(right).collect();
    rows.sort_by(|(left, _), (right, _)| right.cmp(left));
    rows.truncate(most);
    rows
}

/// Our own rows of a page: none if the list asks for what they do not have, such as a connected account.
fn own_rows<R: TwoOrigins>(
    conn: &mut PgConnection,
    listing: &Listing<R::Filter>,
) -> Result<Vec<(Position, R::View)>, Error> {
    let livemode = acting_realms::load(conn)?.livemode();
    let basics = &listing.basics;
    let is_elsewhere = basics.account.as_deref().is_some_and(|account| !account.is_empty())
        || basics.livemode.is_some_and(|mode| mode != livemode);
    let after = listing.after.as_ref().map(Position::created_and_id);
    // Rows without `created` come last, and each of ours has one. Each belongs to an org, too.
    if is_elsewhere || after == Some(None) || listing.linked == Some(false) {
        return Ok(Vec::new());
    }
    let at = |moment: Option<Moment>| moment.map(|moment| moment.0);
    let page = OwnPage {
        filter: &listing.filter,
        org: listing.org.as_deref(),
        created_from: at(basics.created_from),
        created_before: at(basics.created_before),
        after: after.flatten(),
        limit: listing.limit + 1,
        livemode,
    };
    R::own_page(conn, &page)
}

/// The object of either origin that a request asks for.
///
/// # Errors
/// [`Error::NotFound`] when it does not exist, or belongs to another org.
pub(crate) fn get<R: TwoOrigins>(conn: &mut PgConnection, lookup: &Lookup) -> Result<R::Any, Error> {
    match R::get(conn, lookup) {
        Err(Error::NotFound(name)) => {
            let livemode = acting_realms::load(conn)?.livemode();
            let realm = &lookup.realm;
            let is_elsewhere = realm.account.as_deref().is_some_and(|account| !account.is_empty())
                || realm.livemode.is_some_and(|mode| mode != livemode);
            if is_elsewhere {
                return Err(Error::NotFound(name));
            }
            R::own(conn, &lookup.id, lookup.own.as_deref(), livemode)
        }
        found => found.map(R::Any::from),
    }
}

/// Declares an object of either origin, as a look-up shows it.
macro_rules! either_origin {
    ($(#[doc = $doc:literal])+ $either:ident: $mirrored:ident | $own:ident) => {
        $(#[doc = $doc])+
        #[derive(Debug, serde::Serialize, utoipa::ToSchema)]
        #[serde(untagged)]
        pub enum $either {
            /// Stripe's.
            Stripe(Box<$mirrored>),
            /// Our own.
            Own(Box<$own>),
        }

        impl From<$mirrored> for $either {
            fn from(view: $mirrored) -> Self {
                Self::Stripe(Box::new(view))
            }
        }
    };
}
use either_origin;

/// Narrows a query for our own rows, joined with `orgs`, by what every list can be narrowed by.
macro_rules! narrowed {
    ($query:expr, $table:ident, $id:ident, $page:expr) => {{
        let (mut query, page) = ($query.into_boxed(), $page);
        if let Some(org) = page.org {
            query = query.filter($crate::schema::orgs::public_id.eq(org.to_owned()));
        }
        if let Some(at) = page.created_from {
            query = query.filter($table::created_at.ge(at));
        }
        if let Some(at) = page.created_before {
            query = query.filter($table::created_at.lt(at));
        }
        if let Some((at, id)) = page.after {
            let is_later = $table::created_at.lt(at).or($table::$id.lt(id.to_owned()));
            query = query.filter($table::created_at.le(at)).filter(is_later);
        }
        query.order(($table::created_at.desc(), $table::$id.desc())).limit(page.limit)
    }};
}
use narrowed;

/// Narrows a query by the fields of a filter that are given.
macro_rules! when {
    ($query:ident, $($value:expr => |$bound:ident| $condition:expr),+ $(,)?) => {
        $(if let Some($bound) = $value {
            $query = $query.filter($condition);
        })+
    };
}
use when;

/// Writes the fields of several objects as one object; where two have a field, the later one counts.
fn as_one<S: Serializer>(to: S, parts: &[&dyn erased::Part]) -> Result<S::Ok, S::Error> {
    let mut fields = Map::new();
    for part in parts {
        match part.tree().map_err(serde::ser::Error::custom)? {
            Value::Object(more) => fields.extend(more),
            other => return Err(serde::ser::Error::custom(format!("{other} has no fields"))),
        }
    }
    fields.serialize(to)
}

/// Objects of different types in one list.
mod erased {
    use serde::Serialize;
    use serde_json::Value;

    pub(super) trait Part {
        fn tree(&self) -> serde_json::Result<Value>;
    }

    impl<T: Serialize> Part for T {
        fn tree(&self) -> serde_json::Result<Value> {
            serde_json::to_value(self)
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn two_pages_become_one_from_the_newest_on() {
        let page = |seconds: &[i64]| -> Vec<(Position, i64)> {
            let position =
                |s: &i64| Position::of_own(DateTime::from_timestamp(*s, 0).expect("a time"), "a", true);
            seconds.iter().map(|s| (position(s), *s)).collect()
        };
        for (left, right, most, expected) in [
            (vec![5, 3, 1], vec![4, 2], 9, vec![5, 4, 3, 2, 1]),
            (vec![5, 3, 1], vec![4, 2], 3, vec![5, 4, 3]),
            (vec![], vec![4, 2], 3, vec![4, 2]),
            (vec![2, 1], vec![9, 8, 7], 2, vec![9, 8]),
        ] {
            let rows = merged(page(&left), page(&right), most);
            assert_eq!(rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>(), expected);
        }
    }
}
