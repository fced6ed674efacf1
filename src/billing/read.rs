//! How the API reads the mirrors: filters, pages and look-ups, the same for every kind of object.
//!
//! The org of a row is found through the row's customer: `stripe_customer_links` → `org_refs` → `orgs`. If
//! the customer is not linked, the row belongs to no org, and only keys of the platform see it. Once the
//! customer is linked, the row is in the org's lists.

mod owners;
mod select;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::pg::{Pg, PgConnection};
use diesel::prelude::*;
use diesel::query_dsl::LoadQuery;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::mirror::Mirror;
use super::{acting_realms, raw};
use crate::error::Error;
use crate::time::Moment;
use select::Part;
pub(super) use select::{Children, Select, Where};

/// Narrows any list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Basics {
    /// Only of this connected account; empty for our own. Left out: our own and those that act
    /// (`COULOMB_STRIPE_ACCOUNTS`).
    pub account: Option<String>,
    /// Only live (true) or test mode (false). Left out: the mode that acts (`COULOMB_STRIPE_MODE`).
    pub livemode: Option<bool>,
    /// `all`: of every account and mode that is not named, those that do not act, too.
    pub realms: Option<acting_realms::ShownRealms>,
    /// Created at Stripe at or after.
    pub created_from: Option<Moment>,
    /// Created at Stripe before.
    pub created_before: Option<Moment>,
}

/// Narrows a list of what belongs to customers.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Owners {
    /// Only of customers linked to this org, by its id (`org_…`) or your own id of it. An org that there is
    /// not is 404.
    pub org: Option<String>,
    /// Only what is (true) or is not (false) linked to an org.
    pub linked: Option<bool>,
}

/// Which copy of an id is meant: the same id may exist in several accounts and in both modes.
/// Left out, our own account comes before connected ones, and live mode before test mode.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RealmQuery {
    /// The connected account; empty for our own. Left out: our own if it has the id, else the first that has.
    pub account: Option<String>,
    /// Live (true) or test mode (false). Left out: live if it has the id, else test.
    pub livemode: Option<bool>,
}

/// Where an object comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Mirrored from Stripe.
    Stripe,
    /// Made or recorded here.
    Own,
}

/// What may be shown inside the rows of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListPart {
    /// The lines, with at most 100 rows a page.
    Lines,
}

/// The page of a list that a request asks for.
#[derive(Clone, Debug)]
pub struct Listing<F> {
    /// Public id of the org whose rows are listed; `None`: the rows of every org and of none.
    pub org: Option<String>,
    /// Only rows that are (true) or are not (false) linked to an org.
    pub linked: Option<bool>,
    pub basics: Basics,
    pub filter: F,
    /// The last row of the page before.
    pub after: Option<Position>,
    pub limit: i64,
}

/// The object that a request asks for.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// Public id of the org whose key the request has: it sees no other org's objects. `None`: a key of the
    /// platform.
    pub own: Option<String>,
    pub id: String,
    /// Which copy of the id, if several realms have it.
    pub realm: RealmQuery,
    /// Whether to show the object's lines.
    pub lines: bool,
    /// Whether to show the object as Stripe sent it.
    pub raw: bool,
}

/// A row's place in its list: `created`, id, account, live mode. The newest come first, rows without
/// `created` last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position(Option<Moment>, String, String, bool);

impl Position {
    /// The place of a row of our own account.
    #[must_use]
    pub fn of_own(created: DateTime<Utc>, id: &str, livemode: bool) -> Self {
        Self(Some(Moment(created)), id.to_owned(), String::new(), livemode)
    }

    /// When the row was created, and its id; `None`: it has no `created`, and comes last.
    #[must_use]
    pub fn created_and_id(&self) -> Option<(DateTime<Utc>, &str)> {
        self.0.map(|at| (at.0, self.1.as_str()))
    }
}

/// The conditions that one kind of object adds to those of every list.
pub(super) trait ListFilter {
    /// Adds conditions on the row itself.
    fn narrow(&self, rows: &mut Where);

    /// Adds conditions that need a look-up in other tables first.
    fn narrow_by_lookup(&self, _: &mut PgConnection, _: &mut Where) -> Result<(), Error> {
        Ok(())
    }

    /// True when the conditions select few rows through an index of their own: then the list sorts these
    /// rows. Otherwise it walks the rows from the newest on and keeps those that fulfil the conditions.
    fn selects_few(&self) -> bool {
        false
    }

    /// Whether the rows of the page show their lines.
    fn expands_lines(&self) -> bool {
        false
    }

    /// Only rows of this customer.
    fn customer(&self) -> Option<&str> {
        None
    }

    /// Only rows whose payment pays this invoice.
    fn invoice_of_payment(&self) -> Option<&str> {
        None
    }
}

/// How a row belongs to a customer.
#[derive(Clone, Copy)]
pub(super) enum Belongs {
    /// It belongs to none: the catalogue.
    ToNobody,
    /// This column has the customer's id.
    By(&'static str),
    /// The column `customer_id` has it; if it is null, the customer of the invoice that the payment pays.
    LikePayments,
    /// Through the payment of the intent that the row names, or, if it names none, of its charge.
    ThroughPayment,
}

/// A kind of object that the API lists and shows. One generic handler serves them all; [`resource!`]
/// implements this trait for the row of a table.
pub(crate) trait Resource: 'static {
    /// The conditions of its own list, read from the query string.
    type Filter: Clone + DeserializeOwned + Send + 'static;
    /// A row as the API shows it.
    type View: Serialize + Send + 'static;
    /// The kinds of Stripe object that a row may come from. The first one also marks the cursors of the list.
    const OBJECTS: &'static [&'static str];
    /// Whether rows belong to customers, so that the list takes [`Owners`].
    const HAS_OWNER: bool;
    /// Whether a look-up takes `expand=lines`.
    const HAS_LINES: bool = false;

    /// The rows of a page, newest first, each with its position. There is one row more than the page holds if
    /// another page follows.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the page is too large for rows with lines; [`Error::NotFound`] when the filter
    /// names something that does not exist.
    fn list(
        conn: &mut PgConnection,
        listing: &Listing<Self::Filter>,
    ) -> Result<Vec<(Position, Self::View)>, Error>;

    /// # Errors
    /// [`Error::NotFound`] when the object does not exist, or belongs to another org.
    fn get(conn: &mut PgConnection, lookup: &Lookup) -> Result<Self::View, Error>;
}

/// A row of a table that [`list`] and [`get`] read; [`resource!`] implements it.
pub(super) trait ListedRow: Selectable<Pg> {
    const TABLE: &'static str;
    /// The name of one row in error texts.
    const NAME: &'static str;
    const BELONGS: Belongs;
    /// Account, live mode, id and time of creation.
    fn place(&self) -> (&str, bool, &str, Option<DateTime<Utc>>);
}

/// Implements [`Resource`] for the rows of a table. `views`: the function that turns rows into what the API
/// shows. Without it, the view's `From<OwnedRow<…>>` does that.
macro_rules! resource {
    (
        $row:ident in $table:ident, $view:ident by $filter:ident,
            name $name:literal, objects $($object:literal)|+, belongs $belongs:expr
            $(, lines $has_lines:literal)? $(, views $views:path)?
    ) => {
        impl $crate::billing::read::ListedRow for $row {
            const TABLE: &'static str = stringify!($table);
            const NAME: &'static str = $name;
            const BELONGS: $crate::billing::read::Belongs = $belongs;

            fn place(&self) -> (&str, bool, &str, Option<chrono::DateTime<chrono::Utc>>) {
                (&self.account, self.livemode, &self.id, self.created)
            }
        }

        impl $crate::billing::read::Resource for $row {
            type Filter = $filter;
            type View = $view;
            const OBJECTS: &'static [&'static str] = &[$($object),+];
            const HAS_OWNER: bool = !matches!($belongs, $crate::billing::read::Belongs::ToNobody);
            $(const HAS_LINES: bool = $has_lines;)?

            fn list(
                conn: &mut diesel::pg::PgConnection,
                listing: &$crate::billing::read::Listing<$filter>,
            ) -> Result<Vec<($crate::billing::read::Position, $view)>, $crate::error::Error> {
                $crate::billing::read::list(conn, listing, $crate::billing::read::views!($($views)?))
            }

            fn get(
                conn: &mut diesel::pg::PgConnection,
                lookup: &$crate::billing::read::Lookup,
            ) -> Result<$view, $crate::error::Error> {
                $crate::billing::read::get(conn, lookup, $crate::billing::read::views!($($views)?))
            }
        }
    };
}
pub(super) use resource;

macro_rules! views {
    () => {
        |_, rows, _| Ok(rows.into_iter().map(Into::into).collect())
    };
    ($views:path) => {
        $views
    };
}
pub(super) use views;

/// A row with its customer and org.
pub(super) struct OwnedRow<T> {
    pub(super) row: T,
    /// Stripe's id of the customer.
    pub(super) customer_id: Option<String>,
    /// Public id of the org that the customer is linked to.
    pub(super) org: Option<String>,
    /// The object as Stripe sent it, if the look-up asks for it.
    pub(super) raw: Option<Box<RawValue>>,
}

impl<T: ListedRow> OwnedRow<T> {
    fn position(&self) -> Position {
        let (account, livemode, id, created) = self.row.place();
        Position(created.map(Moment), id.to_owned(), account.to_owned(), livemode)
    }
}

/// The columns of a row, its customer's id and its org's public id.
type Found<T> = (T, Option<String>, Option<String>);

/// Turns rows into what the API shows, in the same order. The flag: with lines.
type Views<T, V> = fn(&mut PgConnection, Vec<OwnedRow<T>>, bool) -> Result<Vec<V>, Error>;

/// [`Resource::list`].
pub(super) fn list<T, F, V>(
    conn: &mut PgConnection,
    listing: &Listing<F>,
    views: Views<T, V>,
) -> Result<Vec<(Position, V)>, Error>
where
    T: ListedRow,
    F: ListFilter,
    for<'q> Select<T>: LoadQuery<'q, PgConnection, Found<T>>,
{
    let lines = listing.filter.expands_lines();
    if lines {
        check_limit_with_lines(listing.limit)?;
    }
    let rows = list_rows(conn, listing)?;
    let positions: Vec<Position> = rows.iter().map(OwnedRow::position).collect();
    Ok(positions.into_iter().zip(views(conn, rows, lines)?).collect())
}

/// [`Resource::get`].
pub(super) fn get<T, V>(conn: &mut PgConnection, lookup: &Lookup, views: Views<T, V>) -> Result<V, Error>
where
    T: ListedRow + Resource,
    for<'q> Select<T>: LoadQuery<'q, PgConnection, Found<T>>,
{
    let mut found = find(conn, lookup)?;
    if lookup.raw {
        let (account, livemode, id, _) = found.row.place();
        found.raw = raw::snapshot(conn, T::OBJECTS, (account, livemode, id))?;
    }
    views(conn, vec![found], lookup.lines)?.pop().ok_or(Error::NotFound(T::NAME))
}

/// The rows of a page and one more, which shows that another page follows.
fn list_rows<T, F>(conn: &mut PgConnection, listing: &Listing<F>) -> Result<Vec<OwnedRow<T>>, Error>
where
    T: ListedRow,
    F: ListFilter,
    for<'q> Select<T>: LoadQuery<'q, PgConnection, Found<T>>,
{
    let mut rows = Where::default();
    let (table, basics) = (T::TABLE, &listing.basics);
    rows.when(basics.account.as_deref(), &format!("{table}.account = {{}}"));
    rows.when(basics.livemode, &format!("{table}.livemode = {{}}"));
    if basics.realms.is_none() && (basics.account.is_none() || basics.livemode.is_none()) {
        let acting = acting_realms::load(conn)?;
        if basics.livemode.is_none() {
            rows.when(Some(acting.livemode()), &format!("{table}.livemode = {{}}"));
        }
        if basics.account.is_none() {
            let accounts = acting.accounts().to_vec();
            rows.with(&format!(" AND {table}.account = ANY ({{}})"), [select::Bind::Texts(accounts)]);
        }
    }
    rows.when(basics.created_from, &format!("{table}.created >= {{}}"));
    rows.when(basics.created_before, &format!("{table}.created < {{}}"));
    listing.filter.narrow(&mut rows);
    listing.filter.narrow_by_lookup(conn, &mut rows)?;
    if let Some(id) = listing.filter.customer() {
        owners::only::<T>(conn, &mut rows, &owners::Customers::anywhere(id))?;
    }
    if let Some(invoice) = listing.filter.invoice_of_payment() {
        owners::through_few_payments::<T>(&mut rows, &Where::new("p.invoice_id = {}", [invoice.into()]));
    }
    if let Some(org) = &listing.org
        && !matches!(T::BELONGS, Belongs::ToNobody)
    {
        let customers = owners::customers_of(conn, org)?;
        owners::only::<T>(conn, &mut rows, &customers)?;
    }
    if let Some(linked) = listing.linked {
        owners::linked::<T>(&mut rows, linked);
    }
    let few = listing.filter.selects_few();
    let mut found = Vec::new();
    let mut missing = listing.limit + 1;
    for part in Part::after(listing.after.as_ref()) {
        let mut rows = rows.clone();
        part.only(&mut rows, table, listing.after.as_ref());
        found.extend(load::<T>(conn, Select::newest_first(rows, few, missing))?);
        missing = listing.limit + 1 - found.len() as i64;
        if missing == 0 {
            break;
        }
    }
    Ok(found)
}

/// Refuses pages of more than 100 rows with lines.
///
/// # Errors
/// [`Error::Invalid`] naming `limit`.
pub(crate) fn check_limit_with_lines(limit: i64) -> Result<(), Error> {
    const MOST: i64 = 100;
    if limit <= MOST {
        return Ok(());
    }
    Err(Error::invalid("limit", format!("must be from 1 to {MOST} with expand=lines")))
}

/// The row of one object.
fn find<T>(conn: &mut PgConnection, lookup: &Lookup) -> Result<OwnedRow<T>, Error>
where
    T: ListedRow,
    for<'q> Select<T>: LoadQuery<'q, PgConnection, Found<T>>,
{
    let (mut rows, table) = (Where::default(), T::TABLE);
    rows.when(Some(&*lookup.id), &format!("{table}.id = {{}}"));
    rows.when(lookup.realm.account.as_deref(), &format!("{table}.account = {{}}"));
    rows.when(lookup.realm.livemode, &format!("{table}.livemode = {{}}"));
    if !matches!(T::BELONGS, Belongs::ToNobody) {
        rows.when(lookup.own.as_deref(), &format!("{} = {{}}", owners::org::<T>()));
    }
    load(conn, Select::own_account_first(rows))?.pop().ok_or(Error::NotFound(T::NAME))
}

fn load<T>(conn: &mut PgConnection, select: Select<T>) -> Result<Vec<OwnedRow<T>>, Error>
where
    T: ListedRow,
    for<'q> Select<T>: LoadQuery<'q, PgConnection, Found<T>>,
{
    let found: Vec<Found<T>> = select.load(conn)?;
    Ok(found
        .into_iter()
        .map(|(row, customer_id, org)| OwnedRow { row, customer_id, org, raw: None })
        .collect())
}

/// The lines or items of `parents`, in their order, one list for each parent.
pub(super) fn children<T, C>(
    conn: &mut PgConnection,
    parents: &[OwnedRow<T>],
) -> Result<impl Iterator<Item = Vec<C>> + use<T, C>, Error>
where
    T: ListedRow,
    C: Mirror + Selectable<Pg>,
    for<'q> Children<C>: LoadQuery<'q, PgConnection, C>,
{
    let keys: Vec<_> = parents
        .iter()
        .map(|parent| {
            let (account, livemode, id, _) = parent.row.place();
            (account.to_owned(), livemode, id.to_owned())
        })
        .collect();
    let mut found: BTreeMap<_, Vec<C>> = BTreeMap::new();
    for child in Children::<C>::new(&keys).load(conn)? {
        let (account, livemode, id, _) = child.key();
        found.entry((account.to_owned(), livemode, id.to_owned())).or_default().push(child);
    }
    Ok(keys.into_iter().map(move |key| found.remove(&key).unwrap_or_default()))
}
