//! The Stripe object as Stripe sent it: the snapshot that a mirrored row was read from.

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, Binary, Bool, Text};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::Error;

#[derive(QueryableByName)]
struct Body {
    #[diesel(sql_type = Binary)]
    body: Vec<u8>,
}

#[derive(Deserialize)]
struct Event {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    object: Box<RawValue>,
}

/// The winning snapshot of an object, as Stripe sent it. `objects`: the kinds of object that may have this
/// id; the first kind found counts. `None` if no event is about the object itself, such as a refund that only
/// its charge lists.
pub(crate) fn snapshot(
    conn: &mut PgConnection,
    objects: &[&str],
    (account, livemode, id): (&str, bool, &str),
) -> Result<Option<Box<RawValue>>, Error> {
    let found: Option<Body> = diesel::sql_query(
        "SELECT i.body
         FROM stripe_objects o
         JOIN stripe_inbox i USING (inbox_id)
         WHERE o.account = $1 AND o.livemode = $2 AND o.object_id = $3 AND o.object = ANY ($4)
         ORDER BY array_position($4, o.object)
         LIMIT 1",
    )
    .bind::<Text, _>(account)
    .bind::<Bool, _>(livemode)
    .bind::<Text, _>(id)
    .bind::<Array<Text>, _>(objects)
    .get_result(conn)
    .optional()?;
    Ok(found.and_then(|found| object(&found.body)))
}

fn object(body: &[u8]) -> Option<Box<RawValue>> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    serde_json::from_slice::<Event>(body).ok().map(|event| event.data.object)
}

#[cfg(test)]
mod tests {
    use super::object;

    #[test]
    fn the_object_keeps_every_byte() {
        let body = b"\xef\xbb\xbf{\"data\":{\"previous_attributes\":{},\"object\":{\"b\": 1.10, \
            \"a\":\"\\u0000\"}},\"id\":\"evt_1\"}";
        assert_eq!(object(body).expect("there").get(), r#"{"b": 1.10, "a":"\u0000"}"#);
        assert!(object(b"{\"data\":3}").is_none());
    }
}
