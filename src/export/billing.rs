//! The SQL of exports of billing: rows of Stripe's objects, and of our own with the same columns.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Nullable, Text, Timestamptz};

use super::params::{ExportRequest, Void};
use super::query::{Bind, Conditions, Part, bind};
use crate::billing::acting_realms;
use crate::billing::exports::{Definition, Filters, Kind};
use crate::billing::read::Origin;
use crate::db::Scope;
use crate::error::Error;
use crate::invoicing::exports as own;
use crate::realm::ActingRealms;

/// The rows of each origin that the request asks for.
pub(super) fn parts(
    conn: &mut PgConnection,
    request: &ExportRequest,
    kind: Kind,
    scope: Scope,
) -> Result<Vec<Part>, Error> {
    let acting = acting_realms::load(conn)?;
    let org = request.org_within(conn, scope)?;
    let mut sources = Vec::new();
    for origin in [Origin::Stripe, Origin::Own] {
        let Some(definition) = definition(origin, kind).filter(|_| asks_for(request, origin, &acting)) else {
            continue;
        };
        let mut conditions = Conditions::default();
        if origin == Origin::Stripe {
            add_realm(&mut conditions, request, &acting);
        }
        if let Some(org_id) = org {
            conditions.add("o.org_id = ?", [Bind::Number(org_id)]);
        }
        sources.push((origin, definition, conditions));
    }
    let after = match &request.after {
        Some(after) => Some(find(conn, kind, &sources, after)?),
        None => None,
    };
    let part = |(_, definition, mut conditions): Source| {
        conditions.add(definition.kept, []);
        narrow(&mut conditions, &definition.filters, request);
        if let Some(place) = &after {
            add_after(&mut conditions, definition.order, place);
        }
        let Definition { columns, from, order, .. } = definition;
        Part { columns, tables: (*from).to_owned(), order, conditions }
    };
    Ok(sources.into_iter().map(part).collect())
}

/// An origin, what its rows are made of, and the conditions that a row fulfils for ever, so that `after`
/// still finds a row whose status has changed.
type Source = (Origin, &'static Definition, Conditions);

/// What rows of an origin are made of; `None`: it has no such kind.
fn definition(origin: Origin, kind: Kind) -> Option<&'static Definition> {
    match origin {
        Origin::Stripe => Some(kind.definition()),
        Origin::Own => own::definition(kind),
    }
}

/// Whether rows of an origin can be among those asked for. Our own have no connected account, and the mode
/// that acts.
fn asks_for(request: &ExportRequest, origin: Origin, acting: &ActingRealms) -> bool {
    let is_elsewhere =
        request.account.is_some() || request.livemode.is_some_and(|mode| mode != acting.livemode());
    request.origin.is_none_or(|asked| asked == origin) && (origin == Origin::Stripe || !is_elsewhere)
}

/// The conditions of the parameters. One that does not apply to the kind was refused before.
fn narrow(conditions: &mut Conditions, filters: &Filters, request: &ExportRequest) {
    conditions.add_period("d.created", request.created);
    for (column, period) in
        [(filters.issued, request.issued), (filters.paid, request.paid), (filters.due, request.due)]
    {
        if let Some(column) = column {
            conditions.add_period(column, period);
        }
    }
    if let (Some(overdue), Some(wanted)) = (filters.overdue, request.overdue) {
        let is = if wanted { "IS TRUE" } else { "IS NOT TRUE" };
        conditions.add(&format!("({overdue}) {is}"), [Bind::Time(request.now)]);
    }
    match (filters.void, request.void) {
        (None, _) | (_, Void::Include) => {}
        (Some(void), Void::Exclude) => conditions.add(&format!("({void}) IS NOT TRUE"), []),
        (Some(void), Void::Only) => conditions.add(void, []),
    }
    for (column, texts) in [(Some("d.status"), &request.statuses), (filters.currency, &request.currencies)] {
        if let (Some(column), Some(texts)) = (column, texts) {
            conditions.add(&format!("{column} = ANY (?)"), [Bind::Texts(texts.clone())]);
        }
    }
    for (column, text) in [
        (Some(filters.customer), &request.customer),
        (filters.subscription, &request.subscription),
        (filters.number, &request.number),
    ] {
        if let (Some(column), Some(text)) = (column, text) {
            conditions.add(&format!("? = {column}"), [Bind::Text(text.clone())]);
        }
    }
}

/// The accounts and modes at Stripe.
fn add_realm(conditions: &mut Conditions, request: &ExportRequest, acting: &ActingRealms) {
    match &request.account {
        Some(account) => conditions.add("d.account = ?", [Bind::Text(account.clone())]),
        None if request.every_realm => {}
        None => conditions.add("d.account = ANY (?)", [Bind::Texts(acting.accounts().to_vec())]),
    }
    match request.livemode {
        None if request.every_realm => {}
        mode => conditions.add("d.livemode = ?", [Bind::Bool(mode.unwrap_or(acting.livemode()))]),
    }
}

/// A row's place in the order.
#[derive(QueryableByName)]
struct Place {
    #[diesel(sql_type = Nullable<Timestamptz>)]
    created: Option<DateTime<Utc>>,
    #[diesel(sql_type = Text)]
    id: String,
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Bool)]
    livemode: bool,
}

/// Finds the row that `after` names; for lines also the number of the line.
fn find(
    conn: &mut PgConnection,
    kind: Kind,
    sources: &[Source],
    after: &str,
) -> Result<(Place, Option<i64>), Error> {
    // Of a line it looks for the document only: its number gives its place, even when the line is gone.
    let (of, id, number) = match kind.definition().lines_of {
        None => (kind, after, None),
        Some(documents) => {
            let place = after.rsplit_once('/').and_then(|(id, number)| Some((id, number.parse().ok()?)));
            let (id, number): (&str, i64) = place.ok_or_else(|| {
                let rule = "must be the document's id and the line's number, such as in_1/0";
                Error::invalid("after", rule)
            })?;
            (documents, id, Some(number))
        }
    };
    let mut found: Vec<Place> = Vec::new();
    for (origin, _, conditions) in sources {
        let Some(definition) = definition(*origin, of) else { continue };
        let mut wanted = conditions.all.clone();
        wanted.push(format!("d.id = ${}", conditions.binds.len() + 1));
        let sql = format!(
            "SELECT d.created, d.id, d.account, d.livemode FROM {} WHERE {} LIMIT 2",
            definition.from,
            wanted.join(" AND ")
        );
        let query = bind(sql, &conditions.binds).bind::<Text, _>(id.to_owned());
        found.extend(query.load::<Place>(conn)?);
    }
    match (found.pop(), found.is_empty()) {
        (Some(place), true) => Ok((place, number)),
        (Some(_), false) => {
            Err(Error::invalid("after", "names several rows: narrow the export by `account` and `livemode`"))
        }
        (None, _) => Err(Error::invalid(
            "after",
            "names no row here: give the id of the last complete row, as the export shows it",
        )),
    }
}

/// Keeps the rows after this one. Rows without `created` come last, as PostgreSQL sorts them.
fn add_after(conditions: &mut Conditions, order: &str, (place, number): &(Place, Option<i64>)) {
    let mut rest =
        vec![Bind::Text(place.id.clone()), Bind::Text(place.account.clone()), Bind::Bool(place.livemode)];
    rest.extend(number.map(Bind::Number));
    let marks = if number.is_some() { "?, ?, ?, ?" } else { "?, ?, ?" };
    match place.created {
        Some(created) => {
            let condition = format!("(d.created IS NULL OR ({order}) > (?, {marks}))");
            conditions.add(&condition, std::iter::once(Bind::Time(created)).chain(rest));
        }
        None => {
            let order = order.trim_start_matches("d.created, ");
            conditions.add(&format!("d.created IS NULL AND ({order}) > ({marks})"), rest);
        }
    }
}
