//! What changed and may have effects beyond the mirrors. Owns `battery_effects_queue`: markers are written in
//! the transaction of the change, and taken by whoever works on effects once that is committed.

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text, Untyped};

use crate::db::prepared::{Prepared, statement};
use crate::realm::Realm;

/// Which Stripe customer an org has may have changed.
pub const CUSTOMER: &str = "customer";
/// An org may have come to have a name.
pub const ORG: &str = "org";
/// What a price buys may have changed.
pub const MAPPING: &str = "mapping";

/// Says that something changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Marker {
    pub realm: Realm,
    /// Kind of the Stripe object, or one of the constants here.
    pub kind: String,
    pub id: String,
}

statement!(Write -> Untyped: "INSERT INTO battery_effects_queue (account, livemode, kind, object_id) SELECT *
    FROM unnest(?, ?, ?, ?)");

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

/// Says that a customer's org may be another.
pub fn customer_changed(conn: &mut PgConnection, realm: &Realm, customer_id: &str) -> QueryResult<()> {
    let marker = Marker { realm: realm.clone(), kind: CUSTOMER.to_owned(), id: customer_id.to_owned() };
    write(conn, [&marker])
}

/// Says that these names belong to an org now.
pub fn org_named<'a>(conn: &mut PgConnection, names: impl IntoIterator<Item = &'a str>) -> QueryResult<()> {
    let of = |name: &str| Marker { realm: nowhere(), kind: ORG.to_owned(), id: name.to_owned() };
    let markers: Vec<Marker> = names.into_iter().map(of).collect();
    write(conn, &markers)
}

/// Says that what prices buy (plans, versions of plans, packs) may be something else.
pub fn mapping_changed(conn: &mut PgConnection) -> QueryResult<()> {
    write(conn, [&mapping()])
}

/// The word that what prices buy, or what they cost, may be something else.
#[must_use]
pub fn mapping() -> Marker {
    Marker { realm: nowhere(), kind: MAPPING.to_owned(), id: String::new() }
}

fn nowhere() -> Realm {
    Realm { account: String::new(), livemode: true }
}
