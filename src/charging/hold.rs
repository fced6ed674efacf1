//! Which daemon charges an account. Owns `stripe_charging`.

use chrono::NaiveDate;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Date, Nullable, Text};

use crate::realm::Realm;
use crate::stripe::sync::accounts::{self, Held};

/// Takes the account, or holds it for longer. False: another daemon holds it.
pub(super) fn hold(conn: &mut PgConnection, realm: &Realm, holder: &str) -> QueryResult<bool> {
    diesel::sql_query(
        "INSERT INTO stripe_charging (account, livemode)
         SELECT $1, $2 WHERE NOT EXISTS (SELECT FROM stripe_charging WHERE (account, livemode) = ($1, $2))
         ON CONFLICT DO NOTHING",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .execute(conn)?;
    accounts::hold(conn, Held::Charging, realm, holder)
}

/// The day of the last nightly comparison.
pub(super) fn compared_on(conn: &mut PgConnection, realm: &Realm) -> QueryResult<Option<NaiveDate>> {
    #[derive(QueryableByName)]
    struct Compared {
        #[diesel(sql_type = Nullable<Date>)]
        compared_on: Option<NaiveDate>,
    }
    let row: Compared =
        diesel::sql_query("SELECT compared_on FROM stripe_charging WHERE (account, livemode) = ($1, $2)")
            .bind::<Text, _>(&realm.account)
            .bind::<Bool, _>(realm.livemode)
            .get_result(conn)?;
    Ok(row.compared_on)
}

/// Notes that the comparison of this day was done.
pub(super) fn note_compared(conn: &mut PgConnection, realm: &Realm, on: NaiveDate) -> QueryResult<()> {
    diesel::sql_query("UPDATE stripe_charging SET compared_on = $3 WHERE (account, livemode) = ($1, $2)")
        .bind::<Text, _>(&realm.account)
        .bind::<Bool, _>(realm.livemode)
        .bind::<Date, _>(on)
        .execute(conn)
        .map(drop)
}
