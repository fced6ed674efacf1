//! The lock of effects: an advisory lock that ends with the transaction.
//!
//! Who works on payments shares it. Who changes what payments wait for holds it alone: it then sees every
//! line that was left waiting before, and everybody after it sees the change.

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::BigInt;

use crate::error::Error;

/// Any number that no other advisory lock uses.
const LOCK: i64 = 2_685_668;

pub(super) fn share(conn: &mut PgConnection) -> Result<(), Error> {
    diesel::sql_query("SELECT pg_advisory_xact_lock_shared($1)").bind::<BigInt, _>(LOCK).execute(conn)?;
    Ok(())
}

pub(super) fn hold_alone(conn: &mut PgConnection) -> Result<(), Error> {
    diesel::sql_query("SELECT pg_advisory_xact_lock($1)").bind::<BigInt, _>(LOCK).execute(conn)?;
    Ok(())
}
