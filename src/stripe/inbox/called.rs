//! Puts into the inbox what the daemon itself read at Stripe: events that no webhook told, and *fetches*, the
//! objects as Stripe's API gave them. Both are inputs like a webhook's event, and wait on the projection's
//! queue.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, Text, Timestamptz};
use serde_json::json;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::realm::Realm;
use crate::stripe::event::{self, Envelope};

/// The type of a fetch, in the place of an event's type.
pub const FETCH: &str = "fetch";

/// An object as Stripe's API gave it.
#[derive(Clone, Debug)]
pub struct Fetch {
    pub realm: Realm,
    /// Its kind, such as `invoice`.
    pub object: String,
    pub id: String,
    /// Unix second of Stripe's clock at which the object certainly was not read yet. It is the fetch's place
    /// among the events of the object.
    pub observed: i64,
    /// The version of the shapes.
    pub version: Option<String>,
    /// The object.
    pub json: Box<RawValue>,
    /// Further entries of its lists, as an object of arrays.
    pub more: Option<Box<RawValue>>,
    /// The row of the inbox whose object is the same. Then only this is stored.
    pub same_as: Option<i64>,
}

/// An event that is new in the inbox.
#[derive(Debug)]
pub struct AddedEvent {
    pub inbox_id: i64,
    pub envelope: Envelope,
}

#[derive(QueryableByName)]
struct AddedRow {
    #[diesel(sql_type = BigInt)]
    inbox_id: i64,
    #[diesel(sql_type = Text)]
    event_id: String,
}

/// Adds events of Stripe's list that the inbox does not have yet, and queues them for projection, in the
/// caller's transaction. Returns those that are new.
pub fn add_events(
    conn: &mut PgConnection,
    realm: &Realm,
    events: &[&RawValue],
    now: DateTime<Utc>,
) -> QueryResult<Vec<AddedEvent>> {
    let mut bodies: Vec<(Envelope, String)> = events
        .iter()
        .map(|event| of_account(event.get(), &realm.account))
        .map(|body| (event::open(body.as_bytes()).envelope, body))
        .collect();
    bodies.sort_by(|(a, _), (b, _)| a.event_id.cmp(&b.event_id));
    bodies.dedup_by(|(a, _), (b, _)| a.event_id == b.event_id);
    let rows: Vec<NewRow<'_>> = bodies
        .iter()
        .map(|(envelope, body)| NewRow {
            envelope,
            origin: "api",
            body: body.as_bytes(),
            body_of: None,
            received_at: now,
        })
        .collect();
    let mut added = insert(conn, &rows)?;
    added.sort_unstable_by(|a, b| a.event_id.cmp(&b.event_id));
    let mut added = added.into_iter().peekable();
    let new = |(envelope, _): (Envelope, String)| {
        let row = added.next_if(|row| row.event_id == envelope.event_id)?;
        Some(AddedEvent { inbox_id: row.inbox_id, envelope })
    };
    Ok(bodies.into_iter().filter_map(new).collect())
}

/// The event with the account in it, as a webhook has it. Stripe's list of a connected account's events
/// leaves it out (<https://docs.stripe.com/api/events/object#event_object-account>).
fn of_account(event: &str, account: &str) -> String {
    if account.is_empty() || !event::open(event.as_bytes()).envelope.realm.account.is_empty() {
        return event.to_owned();
    }
    event.replacen('{', &format!("{{\"account\":{},", json!(account)), 1)
}

/// Adds fetches and queues them for projection, in the caller's transaction. Returns the row of each; `None`
/// if exactly this fetch was there already.
pub fn add_fetches(
    conn: &mut PgConnection,
    fetches: &[Fetch],
    now: DateTime<Utc>,
) -> QueryResult<Vec<Option<i64>>> {
    let bodies: Vec<(Envelope, Vec<u8>)> = fetches
        .iter()
        .map(|fetch| {
            let key = key(fetch);
            let body = if fetch.same_as.is_some() { Vec::new() } else { body(fetch, &key).into_bytes() };
            (envelope(fetch, key), body)
        })
        .collect();
    let rows: Vec<NewRow<'_>> = bodies
        .iter()
        .zip(fetches)
        .map(|((envelope, body), fetch)| NewRow {
            envelope,
            origin: "fetch",
            body,
            body_of: fetch.same_as,
            received_at: now,
        })
        .collect();
    let added = insert(conn, &rows)?;
    let id = |(envelope, _): &(Envelope, Vec<u8>)| {
        added.iter().find(|row| row.event_id == envelope.event_id).map(|row| row.inbox_id)
    };
    Ok(bodies.iter().map(id).collect())
}

fn key(fetch: &Fetch) -> String {
    let mut digest = Sha256::new();
    let observed = fetch.observed.to_string();
    let mode = if fetch.realm.livemode { "live" } else { "test" };
    let more = fetch.more.as_ref().map_or("", |more| more.get());
    for part in [&*fetch.realm.account, mode, &fetch.object, &fetch.id, &observed, fetch.json.get(), more] {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    format!("fetch:{}", hex::encode(digest.finalize()))
}

fn envelope(fetch: &Fetch, key: String) -> Envelope {
    Envelope {
        realm: fetch.realm.clone(),
        event_id: key,
        event_type: FETCH.to_owned(),
        api_version: fetch.version.clone(),
        created: fetch.observed,
        object: Some(fetch.object.clone()),
        object_id: Some(fetch.id.clone()),
        thin: false,
        twin_event_id: None,
    }
}

/// The envelope as JSON, in the form of an event. The object keeps every byte.
fn body(fetch: &Fetch, key: &str) -> String {
    let more = fetch.more.as_ref().map_or(String::new(), |more| format!(",\"more\":{}", more.get()));
    let account = match &*fetch.realm.account {
        "" => String::new(),
        account => format!("\"account\":{},", json!(account)),
    };
    format!(
        "{{\"id\":{},\"type\":\"{FETCH}\",{account}\"livemode\":{},\"created\":{},\"api_version\":{},\
         \"data\":{{\"object\":{}{more}}}}}",
        json!(key),
        fetch.realm.livemode,
        fetch.observed,
        json!(fetch.version),
        fetch.json.get(),
    )
}

/// Whether some row that the daemon read itself was not projected yet. Failed ones do not count.
pub fn any_unprojected(conn: &mut PgConnection) -> QueryResult<bool> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = Bool)]
        found: bool,
    }
    diesel::sql_query(
        "SELECT EXISTS (SELECT FROM stripe_inbox_queue
             WHERE attempts = 0 AND quarantined_at IS NULL) AS found",
    )
    .get_result::<Found>(conn)
    .map(|row| row.found)
}

/// A row to insert.
struct NewRow<'a> {
    envelope: &'a Envelope,
    origin: &'static str,
    body: &'a [u8],
    body_of: Option<i64>,
    received_at: DateTime<Utc>,
}

/// Inserts rows whose event is not there yet, and queues them. They must be in the order of their keys where
/// another transaction may insert the same ones.
fn insert(conn: &mut PgConnection, rows: &[NewRow<'_>]) -> QueryResult<Vec<AddedRow>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let each = || rows.iter().map(|row| row.envelope);
    diesel::sql_query(
        "WITH new AS (
             INSERT INTO stripe_inbox (account, livemode, event_id, event_type, api_version, created, object,
                 object_id, thin, twin_event_id, signature, received_at, origin, body, body_of)
             SELECT account, livemode, event_id, event_type, api_version, created, object, object_id, thin,
                 twin_event_id, '', received_at, origin, body, body_of
             FROM unnest($1::text[], $2::boolean[], $3::text[], $4::text[], $5::text[], $6::bigint[],
                     $7::text[], $8::text[], $9::boolean[], $10::text[], $11::timestamptz[], $12::text[],
                     $13::bytea[], $14::bigint[])
                 AS n (account, livemode, event_id, event_type, api_version, created, object, object_id, thin,
                     twin_event_id, received_at, origin, body, body_of)
             ON CONFLICT (account, livemode, event_id) DO NOTHING
             RETURNING inbox_id, event_id),
         queued AS (INSERT INTO stripe_inbox_queue (inbox_id) SELECT inbox_id FROM new)
         SELECT inbox_id, event_id FROM new",
    )
    .bind::<Array<Text>, _>(each().map(|one| &*one.realm.account).collect::<Vec<_>>())
    .bind::<Array<Bool>, _>(each().map(|one| one.realm.livemode).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(each().map(|one| &*one.event_id).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(each().map(|one| &*one.event_type).collect::<Vec<_>>())
    .bind::<Array<Nullable<Text>>, _>(each().map(|one| one.api_version.as_deref()).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(each().map(|one| one.created).collect::<Vec<_>>())
    .bind::<Array<Nullable<Text>>, _>(each().map(|one| one.object.as_deref()).collect::<Vec<_>>())
    .bind::<Array<Nullable<Text>>, _>(each().map(|one| one.object_id.as_deref()).collect::<Vec<_>>())
    .bind::<Array<Bool>, _>(each().map(|one| one.thin).collect::<Vec<_>>())
    .bind::<Array<Nullable<Text>>, _>(each().map(|one| one.twin_event_id.as_deref()).collect::<Vec<_>>())
    .bind::<Array<Timestamptz>, _>(rows.iter().map(|row| row.received_at).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(rows.iter().map(|row| row.origin).collect::<Vec<_>>())
    .bind::<Array<Binary>, _>(rows.iter().map(|row| row.body).collect::<Vec<_>>())
    .bind::<Array<Nullable<BigInt>>, _>(rows.iter().map(|row| row.body_of).collect::<Vec<_>>())
    .load(conn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_reads_like_an_event() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).expect("JSON");
        let fetch = Fetch {
            realm: Realm { account: "acct_1".into(), livemode: true },
            object: "invoice".into(),
            id: "in_1".into(),
            observed: 1_767_323_045,
            version: Some("2026-10-28.endive".into()),
            json: raw(r#"{"object":"invoice","id":"in_1","total": 1.0}"#),
            more: Some(raw(r#"{"lines":[{"id":"il_11"}]}"#)),
            same_as: None,
        };
        let key = key(&fetch);
        let body = body(&fetch, &key);
        let opened = event::open(body.as_bytes());
        assert_eq!(opened.envelope, envelope(&fetch, key));
        assert!(body.contains(r#""total": 1.0"#), "the object keeps its bytes");
        let more = opened.contents.more.to_string();
        assert_eq!(more, r#"{"lines":[{"id":"il_11"}]}"#);
    }

    #[test]
    fn an_event_of_a_connected_account_names_it_once() {
        let named = of_account(r#"{"id":"evt_1"}"#, "acct_1");
        assert_eq!(event::open(named.as_bytes()).envelope.realm.account, "acct_1");
        assert_eq!(of_account(&named, "acct_1"), named);
        assert_eq!(of_account(r#"{"id":"evt_1"}"#, ""), r#"{"id":"evt_1"}"#);
    }
}
