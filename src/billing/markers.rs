//! Markers: each names a change that may have effects on batteries. Owns `battery_effects_queue`. A change
//! writes its markers in its own transaction; the worker of effects takes them after the commit.

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text, Untyped};

use crate::db::prepared::{Prepared, statement};
use crate::realm::Realm;

/// A customer may belong to another org now.
pub const CUSTOMER: &str = "customer";
/// This name belongs to an org from now on.
pub const ORG: &str = "org";
/// Prices may buy something else now.
pub const MAPPING: &str = "mapping";

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Marker {
    pub realm: Realm,
    /// Kind of the Stripe object, or one of the constants above.
    pub kind: String,
    pub id: String,
}

statement!(Write -> Untyped: "INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
    SELECT * FROM unnest(?, ?, ?, ?)");

/// Writes markers in the caller's transaction.
pub fn write<'a>(conn: &mut PgConnection, markers: impl IntoIterator<Item = &'a Marker>) -> QueryResult<()> {
    let markers: Vec<&Marker> = markers.into_iter().collect();
    if markers.is_empty() {
        return Ok(());
    }
    Prepared::<Write>::new()
        .bind::<Text, _>(markers.iter().map(|marker| &*marker.realm.account).collect())
        .bind::<Bool, _>(markers.iter().map(|marker| marker.realm.livemode).collect())
        .bind::<Text, _>(markers.iter().map(|marker| &*marker.kind).collect())
        .bind::<Text, _>(markers.iter().map(|marker| &*marker.id).collect())
        .execute(conn)?;
    Ok(())
}

/// Marks a customer that may belong to another org now.
pub fn customer_changed(conn: &mut PgConnection, realm: &Realm, customer_id: &str) -> QueryResult<()> {
    let marker = Marker { realm: realm.clone(), kind: CUSTOMER.to_owned(), id: customer_id.to_owned() };
    write(conn, [&marker])
}

/// Marks names that belong to an org from now on.
pub fn org_named<'a>(conn: &mut PgConnection, names: impl IntoIterator<Item = &'a str>) -> QueryResult<()> {
    let marker = |name: &str| Marker { realm: nowhere(), kind: ORG.to_owned(), id: name.to_owned() };
    let markers: Vec<Marker> = names.into_iter().map(marker).collect();
    write(conn, &markers)
}

/// Marks that plans, their versions or packs have changed, so that prices may buy something else now.
pub fn mapping_changed(conn: &mut PgConnection) -> QueryResult<()> {
    write(conn, [&mapping()])
}

/// The marker of [`mapping_changed`].
#[must_use]
pub fn mapping() -> Marker {
    Marker { realm: nowhere(), kind: MAPPING.to_owned(), id: String::new() }
}

/// The realm of markers that concern no realm alone.
fn nowhere() -> Realm {
    Realm { account: String::new(), livemode: true }
}
