//! What Stripe has, compared with what the mirrors were read from.

use std::collections::BTreeMap;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, Text};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::drift::DriftKind;
use super::kinds;
use crate::realm::Realm;
use crate::stripe::event;
use crate::stripe::inbox::Fetch;
use crate::stripe::order::normalise;

/// Paths of fields in a drift row, at most.
const MOST_FIELDS: usize = 20;

/// How a fetch compares with the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    /// The daemon did not have the object.
    New,
    /// Equal: the row of the inbox that shows the same.
    Same { inbox_id: i64 },
    /// The daemon had the same, without lists that no event has.
    Completed,
    /// It differs.
    Differs(Difference),
    /// Deleted at Stripe and in the mirror.
    StillDeleted,
    /// It belongs to an org that was erased here: it is not brought back.
    Erased,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) kind: DriftKind,
    /// Paths of fields, such as `status` or `items.data.0.quantity`.
    pub(super) fields: Vec<String>,
    /// SHA-256 of both normalised objects, in hexadecimal.
    pub(super) ours: String,
    pub(super) theirs: String,
    /// Unix second of Stripe's clock at which our state was made.
    pub(super) ours_made: i64,
}

#[derive(QueryableByName)]
struct WinnerRow {
    #[diesel(sql_type = Text)]
    object: String,
    #[diesel(sql_type = Text)]
    object_id: String,
    #[diesel(sql_type = BigInt)]
    inbox_id: i64,
    #[diesel(sql_type = BigInt)]
    created: i64,
    #[diesel(sql_type = Bool)]
    ambiguous: bool,
    #[diesel(sql_type = Bool)]
    deleted: bool,
    #[diesel(sql_type = Bool)]
    erased: bool,
    #[diesel(sql_type = Nullable<Text>)]
    api_version: Option<String>,
    #[diesel(sql_type = Binary)]
    body: Vec<u8>,
}

/// Compares fetches of one realm with the objects as mirrored, in their order.
pub(super) fn compare(
    conn: &mut PgConnection,
    realm: &Realm,
    fetches: &[Fetch],
) -> QueryResult<Vec<Comparison>> {
    let rows: Vec<WinnerRow> = diesel::sql_query(
        "SELECT o.object, o.object_id, i.inbox_id, o.created, o.ambiguous, o.deleted, i.api_version, i.body,
             EXISTS (SELECT FROM stripe_inbox_erased e WHERE e.inbox_id = i.inbox_id) AS erased
         FROM unnest($3::text[], $4::text[]) AS k (object, object_id)
         JOIN stripe_objects o USING (object, object_id)
         JOIN stripe_inbox i USING (inbox_id)
         WHERE (o.account, o.livemode) = ($1, $2)",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Array<Text>, _>(fetches.iter().map(|fetch| &*fetch.object).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(fetches.iter().map(|fetch| &*fetch.id).collect::<Vec<_>>())
    .load(conn)?;
    let winners: BTreeMap<(&str, &str), &WinnerRow> =
        rows.iter().map(|row| ((&*row.object, &*row.object_id), row)).collect();
    let erased = erased_customers(conn)?;
    let one = |fetch: &Fetch| match winners.get(&(&*fetch.object, &*fetch.id)) {
        None if erased.iter().any(|quoted| fetch.json.get().contains(quoted)) => Comparison::Erased,
        None => Comparison::New,
        Some(winner) if winner.erased => Comparison::Erased,
        Some(winner) => compare_one(winner, fetch),
    };
    Ok(fetches.iter().map(one).collect())
}

#[derive(QueryableByName)]
struct CustomerRow {
    #[diesel(sql_type = Text)]
    customer: String,
}

/// The ids of the customers of erased orgs, in quotes, as JSON has them.
fn erased_customers(conn: &mut PgConnection) -> QueryResult<Vec<String>> {
    let rows: Vec<CustomerRow> =
        diesel::sql_query("SELECT unnest(customers) AS customer FROM org_erasures").load(conn)?;
    Ok(rows.into_iter().map(|row| format!("\"{}\"", row.customer)).collect())
}

fn compare_one(winner: &WinnerRow, fetch: &Fetch) -> Comparison {
    let contents = event::contents(&winner.body, true);
    let ours = normalise(&(&contents.snapshot).into());
    let (our_more, their_more) = (Value::from(&contents.more), more(fetch));
    let theirs: Value = serde_json::from_str(fetch.json.get()).unwrap_or_default();
    let theirs = normalise(&theirs);
    let is_deleted = theirs["deleted"] == true;
    if is_deleted && winner.deleted {
        return Comparison::StillDeleted;
    }
    if !winner.deleted && ours == theirs && our_more == their_more {
        return Comparison::Same { inbox_id: winner.inbox_id };
    }
    if !winner.deleted && ours == theirs && our_more.is_null() && adds_left_out_lists(fetch, &their_more) {
        return Comparison::Completed;
    }
    let same_version = winner.api_version == fetch.version || winner.api_version.is_none();
    let kind = match () {
        () if is_deleted => DriftKind::Deleted,
        () if winner.ambiguous => DriftKind::AmbiguousResolved,
        () if ours == theirs => DriftKind::IncompleteLines,
        () if winner.created > fetch.observed => DriftKind::TheirsOlder,
        () if !same_version => DriftKind::UnknownVersion,
        () => DriftKind::MissedEvent,
    };
    let mut fields = Vec::new();
    if ours == theirs {
        fields.extend(their_more.as_object().into_iter().flat_map(|more| more.keys().cloned()));
    } else {
        differences(&ours, &theirs, "", &mut fields);
    }
    Comparison::Differs(Difference {
        kind,
        fields,
        ours: digest(&ours),
        theirs: digest(&theirs),
        ours_made: winner.created,
    })
}

fn more(fetch: &Fetch) -> Value {
    fetch.more.as_ref().and_then(|more| serde_json::from_str(more.get()).ok()).unwrap_or_default()
}

/// Whether everything beside the object is a list that no event has.
fn adds_left_out_lists(fetch: &Fetch, more: &Value) -> bool {
    more.as_object().is_some_and(|lists| lists.keys().all(|list| kinds::is_left_out(&fetch.object, list)))
}

fn digest(object: &Value) -> String {
    hex::encode(Sha256::digest(object.to_string()))
}

/// Adds the paths at which two objects differ, until there are enough.
fn differences(ours: &Value, theirs: &Value, path: &str, fields: &mut Vec<String>) {
    if ours == theirs || fields.len() >= MOST_FIELDS {
        return;
    }
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                let side =
                    |side: &serde_json::Map<String, Value>| side.get(name).cloned().unwrap_or_default();
                differences(&side(a), &side(b), &below(name), fields);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (n, (a, b)) in a.iter().zip(b).enumerate() {
                differences(a, b, &below(&n.to_string()), fields);
            }
        }
        _ => fields.push(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differing_fields_are_named_by_their_paths() {
        let ours = json!({"status": "open", "total": 5, "items": [{"q": 1}, {"q": 2}], "a": [1]});
        let theirs =
            json!({"status": "paid", "total": 5, "items": [{"q": 1}, {"q": 3}], "a": [1, 2], "n": 1});
        let mut fields = Vec::new();
        differences(&ours, &theirs, "", &mut fields);
        assert_eq!(fields, ["a", "items.1.q", "n", "status"]);
    }
}
