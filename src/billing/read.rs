//! How finance reads the mirrors: filters, pages and look-ups, the same for every kind of object.
//!
//! A row's org is found through its customer: `stripe_customer_links` → `org_refs` → `orgs`. Whatever is not
//! linked belongs to nobody and is shown to the platform alone; it appears in the org's lists as soon as the
//! link does.

mod owners;
mod select;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::pg::{Pg, PgConnection};
use diesel::prelude::*;
use diesel::query_dsl::LoadQuery;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::mirror::Mirror;
use super::trust;
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
    pub realms: Option<trust::ShownRealms>,
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

/// What may be shown inside the rows of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListPart {
    /// The lines, with at most 100 rows a page.
    Lines,
}

/// A page of a list as asked for.
#[derive(Clone, Debug)]
pub struct Listing<F> {
    /// Public id of the only org whose rows are meant; `None`: everybody's.
    pub org: Option<String>,
    /// Only what is (true) or is not (false) linked to an org.
    pub linked: Option<bool>,
    /// What every list is narrowed by.
    pub basics: Basics,
    /// What this list alone is narrowed by.
    pub filter: F,
    /// The row that the page comes after.
    pub after: Option<Position>,
    /// Rows of a page at most.
    pub limit: i64,
}

impl<F> Listing<F> {
    /// The same page, narrowed otherwise.
    pub(super) fn narrowed_by<G>(&self, filter: G) -> Listing<G> {
        Listing {
            org: self.org.clone(),
            linked: self.linked,
            basics: self.basics.clone(),
            filter,
            after: self.after.clone(),
            limit: self.limit,
        }
    }
}

/// One object as asked for.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// Public id of the org of an org's key, which sees nothing else; `None`: everything.
    pub own: Option<String>,
    pub id: String,
    /// Which copy of it.
    pub realm: RealmQuery,
    /// Whether its lines are to be shown.
    pub lines: bool,
}

/// A row's place in its list: newest first, rows without `created` last.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Position(Option<Moment>, String, String, bool);

/// Conditions of one kind of object.
pub(super) trait ListFilter {
    /// Adds those on the row itself.
    fn narrow(&self, rows: &mut Where);

    /// True when the conditions pick few rows by an index of their own. These are sorted then, where
    /// otherwise the newest rows are searched for those that fulfil the conditions.
    fn picks_few(&self) -> bool {
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

/// How rows of a table belong to a customer.
#[derive(Clone, Copy)]
pub(super) enum Belongs {
    /// Not at all: the catalogue.
    ToNobody,
    /// The column with the customer's id.
    By(&'static str),
    /// By `customer_id`, else by that of its invoice.
    LikePayments,
    /// Through its payment: that of its intent, or, where it names none, that of its charge.
    ThroughPayment,
}

/// A mirrored object that can be listed and looked up; [`readable!`] implements it.
pub(super) trait Read: Selectable<Pg> {
    /// The table.
    const TABLE: &'static str;
    /// What people call one row.
    const NAME: &'static str;
    /// Where the customer is.
    const BELONGS: Belongs;
    /// Account, live mode, id and time of creation.
    fn place(&self) -> (&str, bool, &str, Option<DateTime<Utc>>);
}

macro_rules! readable {
    ($type:ident in $table:ident, $name:literal, $belongs:expr) => {
        impl $crate::billing::read::Read for $type {
            const TABLE: &'static str = stringify!($table);
            const NAME: &'static str = $name;
            const BELONGS: $crate::billing::read::Belongs = $belongs;

            fn place(&self) -> (&str, bool, &str, Option<chrono::DateTime<chrono::Utc>>) {
                (&self.account, self.livemode, &self.id, self.created)
            }
        }
    };
}
pub(super) use readable;

/// A row as the API shows it, which may carry Stripe's own words; [`shown!`] implements it.
pub(crate) trait Shown: Serialize + Send + 'static {
    /// The kinds of Stripe object that it mirrors.
    const OBJECTS: &'static [&'static str];
    /// Account, live mode and id.
    fn key(&self) -> (&str, bool, &str);
    /// Puts Stripe's words in.
    fn set_raw(&mut self, raw: Option<Box<RawValue>>);
}

macro_rules! shown {
    ($view:ident, $($object:literal)|+) => {
        impl $crate::billing::read::Shown for $view {
            const OBJECTS: &'static [&'static str] = &[$($object),+];

            fn key(&self) -> (&str, bool, &str) {
                (&self.row.account, self.row.livemode, &self.row.id)
            }

            fn set_raw(&mut self, raw: Option<Box<serde_json::value::RawValue>>) {
                self.raw = raw;
            }
        }
    };
}
pub(super) use shown;

/// A mirrored row with whom it belongs to.
pub(super) struct Owned<T> {
    pub(super) row: T,
    /// Stripe's id of the customer.
    pub(super) customer_id: Option<String>,
    /// Public id of the org.
    pub(super) org: Option<String>,
}

impl<T: Read> Owned<T> {
    /// Its place in the list.
    pub(super) fn position(&self) -> Position {
        let (account, livemode, id, created) = self.row.place();
        Position(created.map(Moment), id.to_owned(), account.to_owned(), livemode)
    }
}

type Found<T> = (T, Option<String>, Option<String>);

/// The rows of a page and one more, which tells that another page follows.
pub(super) fn list<T, F>(conn: &mut PgConnection, listing: &Listing<F>) -> Result<Vec<Owned<T>>, Error>
where
    T: Read,
    F: ListFilter,
    for<'q> Select<T>: LoadQuery<'q, PgConnection, Found<T>>,
{
    let mut rows = Where::default();
    let (table, basics) = (T::TABLE, &listing.basics);
    rows.when(basics.account.as_deref(), &format!("{table}.account = {{}}"));
    rows.when(basics.livemode, &format!("{table}.livemode = {{}}"));
    if basics.realms.is_none() && (basics.account.is_none() || basics.livemode.is_none()) {
        let trusted = trust::load(conn)?;
        if basics.livemode.is_none() {
            rows.when(Some(trusted.livemode()), &format!("{table}.livemode = {{}}"));
        }
        if basics.account.is_none() {
            let accounts = trusted.accounts().to_vec();
            rows.with(&format!(" AND {table}.account = ANY ({{}})"), [select::Bind::Texts(accounts)]);
        }
    }
    rows.when(basics.created_from, &format!("{table}.created >= {{}}"));
    rows.when(basics.created_before, &format!("{table}.created < {{}}"));
    listing.filter.narrow(&mut rows);
    if let Some(id) = listing.filter.customer() {
        owners::only::<T>(conn, &mut rows, &owners::Customers::anywhere(id))?;
    }
    if let Some(invoice) = listing.filter.invoice_of_payment() {
        owners::through_few_payments::<T>(&mut rows, &Where::of("p.invoice_id = {}", [invoice.into()]));
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
    let few = listing.filter.picks_few();
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

/// Refuses pages with lines that would be too large.
///
/// # Errors
/// [`Error::Invalid`] above 100 rows.
pub(super) fn check_limit_with_lines(limit: i64) -> Result<(), Error> {
    const MOST: i64 = 100;
    if limit <= MOST {
        return Ok(());
    }
    Err(Error::invalid("limit", format!("must be from 1 to {MOST} with expand=lines")))
}

/// One object.
///
/// # Errors
/// [`Error::NotFound`] when there is none, or it is another org's.
pub(super) fn find<T>(conn: &mut PgConnection, lookup: &Lookup) -> Result<Owned<T>, Error>
where
    T: Read,
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

fn load<T>(conn: &mut PgConnection, select: Select<T>) -> Result<Vec<Owned<T>>, Error>
where
    T: Read,
    for<'q> Select<T>: LoadQuery<'q, PgConnection, Found<T>>,
{
    let found: Vec<Found<T>> = select.load(conn)?;
    Ok(found.into_iter().map(|(row, customer_id, org)| Owned { row, customer_id, org }).collect())
}

/// The lines or items of these rows, in their order, by the row's place in `parents`.
pub(super) fn children<T, C>(
    conn: &mut PgConnection,
    parents: &[Owned<T>],
) -> Result<impl Iterator<Item = Vec<C>> + use<T, C>, Error>
where
    T: Read,
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
    for child in Children::<C>::of(&keys).load(conn)? {
        let (account, livemode, id, _) = child.key();
        found.entry((account.to_owned(), livemode, id.to_owned())).or_default().push(child);
    }
    Ok(keys.into_iter().map(move |key| found.remove(&key).unwrap_or_default()))
}
