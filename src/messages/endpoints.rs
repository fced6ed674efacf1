//! Endpoints: the servers that messages are sent to. Owns `message_endpoints`.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::kinds;
use super::secrets::{self, Signature};
use super::{NewMessage, lanes};
use crate::egress::TargetRules;
use crate::error::Error;
use crate::ids;
use crate::schema::{message_endpoints as e, message_lanes as l, orgs};

/// Endpoints of one org, or of the platform, at most.
const MOST: i64 = 50;
const MOST_KINDS: usize = 50;
const DESCRIPTION_LIMIT: usize = 500;

/// An endpoint, without its secret.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Endpoint {
    /// `mep_…`
    pub id: String,
    /// Public id of its org, whose messages it gets; null: the platform's, which gets those of every org.
    pub org: Option<String>,
    /// Where messages are sent to.
    pub url: String,
    /// A text for people.
    pub description: String,
    /// Kinds that it gets, or beginnings such as `invoice.`; empty: all.
    pub kinds: Vec<String>,
    /// Whether each org's messages come one after the other.
    pub ordered: bool,
    /// Whether messages bring the object that they are about.
    pub with_object: bool,
    /// How messages are signed.
    pub signature: Signature,
    /// Whether messages are sent.
    pub enabled: bool,
    /// Why it is not enabled: `by_hand`, `gone` (it answered 410), `failing` (for five days).
    pub disabled_reason: Option<String>,
    /// Since when it is not enabled.
    pub disabled_at: Option<DateTime<Utc>>,
    /// Since when every attempt has failed; null: the last one did not.
    pub failing_since: Option<DateTime<Utc>>,
    /// Number of its last delivery; the first is 1, and none is left out.
    pub last_sequence: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// An endpoint to make.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEndpoint {
    /// Public or external id of its org; the key's own, or the platform, when left out.
    #[serde(default)]
    pub org: Option<String>,
    /// An `https` URL. It is kept in its normal form: a host of other letters as punycode.
    #[schema(max_length = 2000)]
    pub url: String,
    /// A text for people.
    #[serde(default)]
    #[schema(max_length = 500)]
    pub description: String,
    /// Kinds that it gets, or beginnings that end in a full stop (`invoice.`); all when left out or empty.
    #[serde(default)]
    #[schema(max_items = 50)]
    pub kinds: Vec<String>,
    /// Sends the next message of an org only when the one before is delivered or given up.
    #[serde(default)]
    pub ordered: bool,
    /// Adds the object that the message is about.
    #[serde(default)]
    pub with_object: bool,
    /// `v1` when left out.
    #[serde(default = "symmetric")]
    pub signature: Signature,
}

fn symmetric() -> Signature {
    Signature::V1
}

/// Changes of an endpoint; what is left out stays.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointPatch {
    #[serde(default, deserialize_with = "given")]
    #[schema(max_length = 2000)]
    pub url: Option<String>,
    #[serde(default, deserialize_with = "given")]
    #[schema(max_length = 500)]
    pub description: Option<String>,
    #[serde(default, deserialize_with = "given")]
    #[schema(max_items = 50)]
    pub kinds: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    pub ordered: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    pub with_object: Option<bool>,
    /// While it is false, messages are not assigned to it, and those that wait stay. `replay` brings what
    /// came meanwhile.
    #[serde(default, deserialize_with = "given")]
    pub enabled: Option<bool>,
}

/// A field that may be left out, but not null.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

type EndpointRow = (
    (i64, String, Option<String>, String, String, Vec<Option<String>>, bool, bool, String),
    (bool, Option<String>, Option<DateTime<Utc>>, Option<DateTime<Utc>>, i64, DateTime<Utc>, DateTime<Utc>),
);

fn shown(row: EndpointRow) -> (i64, Endpoint) {
    let (org_id, id, org, url, description, kinds, ordered, with_object, signature) = row.0;
    let (enabled, disabled_reason, disabled_at, failing_since, last_sequence, created_at, updated_at) = row.1;
    let endpoint = Endpoint {
        id,
        org,
        url,
        description,
        kinds: kinds.into_iter().flatten().collect(),
        ordered,
        with_object,
        signature: Signature::from_name(&signature),
        enabled,
        disabled_reason,
        disabled_at,
        failing_since,
        last_sequence,
        created_at,
        updated_at,
    };
    (org_id, endpoint)
}

/// Selects endpoints.
#[derive(Clone, Debug, Default)]
pub struct EndpointFilter {
    /// Only of this org.
    pub org_id: Option<i64>,
    /// Only this one.
    pub id: Option<String>,
    /// Only those whose id comes after.
    pub after: Option<String>,
}

/// Endpoints by id, each with the row id of its org, at most `limit`. Reads the lanes, which orgs may not: it
/// belongs in a transaction of the platform.
pub fn list(
    conn: &mut PgConnection,
    filter: &EndpointFilter,
    limit: i64,
) -> Result<Vec<(i64, Endpoint)>, Error> {
    let mut query = e::table
        .inner_join(l::table.on(l::org_id.eq(e::org_id).and(l::endpoint_id.eq(e::endpoint_id))))
        .left_join(orgs::table.on(orgs::org_id.eq(e::org_id)))
        .select((
            (
                e::org_id,
                e::endpoint_id,
                orgs::public_id.nullable(),
                e::url,
                e::description,
                e::kinds,
                e::ordered,
                e::with_object,
                e::signature,
            ),
            (
                e::enabled,
                e::disabled_reason,
                e::disabled_at,
                l::failing_since,
                l::last_sequence,
                e::created_at,
                e::updated_at,
            ),
        ))
        .order(e::endpoint_id)
        .limit(limit)
        .into_boxed();
    if let Some(org_id) = filter.org_id {
        query = query.filter(e::org_id.eq(org_id));
    }
    if let Some(id) = &filter.id {
        query = query.filter(e::endpoint_id.eq(id));
    }
    if let Some(after) = &filter.after {
        query = query.filter(e::endpoint_id.gt(after));
    }
    let rows: Vec<EndpointRow> = query.load(conn)?;
    Ok(rows.into_iter().map(shown).collect())
}

/// An endpoint with the row id of its org; of `own` only if that is given.
///
/// # Errors
/// [`Error::NotFound`] when there is none.
pub fn find(conn: &mut PgConnection, own: Option<i64>, id: &str) -> Result<(i64, Endpoint), Error> {
    let filter = EndpointFilter { org_id: own, id: Some(id.to_owned()), after: None };
    list(conn, &filter, 1)?.pop().ok_or(Error::NotFound("endpoint"))
}

/// Makes an endpoint. Returns its id and what the receiver needs to verify signatures.
///
/// # Errors
/// [`Error::Invalid`] names the field that breaks a rule; [`Error::Conflict`] when there are too many.
pub fn create(
    conn: &mut PgConnection,
    rules: &TargetRules,
    org_id: i64,
    new: &NewEndpoint,
    now: DateTime<Utc>,
) -> Result<(String, String), Error> {
    let url = check_url(rules, &new.url)?;
    check_texts(&new.description, &new.kinds)?;
    let count: i64 = e::table.filter(e::org_id.eq(org_id)).count().get_result(conn)?;
    if count >= MOST {
        let detail = format!("there are {MOST} endpoints already: delete one, or let one get more kinds");
        return Err(Error::conflict("too_many_endpoints", detail).about("org"));
    }
    let id = ids::fresh("mep");
    diesel::insert_into(e::table)
        .values((
            (e::org_id.eq(org_id), e::endpoint_id.eq(&id), e::url.eq(url)),
            (e::description.eq(&new.description), e::kinds.eq(&new.kinds), e::ordered.eq(new.ordered)),
            (e::with_object.eq(new.with_object), e::signature.eq(new.signature.name()), e::enabled.eq(true)),
            (e::created_at.eq(now), e::updated_at.eq(now)),
        ))
        .execute(conn)?;
    lanes::create(conn, (org_id, &id))?;
    let secret = secrets::add(conn, (org_id, &id), new.signature, TimeDelta::zero(), now)?;
    Ok((id, secret))
}

/// Changes an endpoint.
///
/// # Errors
/// [`Error::Invalid`] names the field that breaks a rule; [`Error::NotFound`].
pub fn update(
    conn: &mut PgConnection,
    rules: &TargetRules,
    (own, id): (Option<i64>, &str),
    patch: &EndpointPatch,
    now: DateTime<Utc>,
) -> Result<(i64, Endpoint), Error> {
    let (org_id, endpoint) = find(conn, own, id)?;
    let url = patch.url.as_ref().map(|url| check_url(rules, url)).transpose()?;
    let description = patch.description.as_ref().unwrap_or(&endpoint.description);
    let kinds = patch.kinds.as_ref().unwrap_or(&endpoint.kinds);
    check_texts(description, kinds)?;
    diesel::update(e::table.find((org_id, id)))
        .set((
            e::url.eq(url.as_ref().unwrap_or(&endpoint.url)),
            e::description.eq(description),
            e::kinds.eq(kinds),
            e::ordered.eq(patch.ordered.unwrap_or(endpoint.ordered)),
            e::with_object.eq(patch.with_object.unwrap_or(endpoint.with_object)),
            e::updated_at.eq(now),
        ))
        .execute(conn)?;
    match patch.enabled {
        Some(true) if !endpoint.enabled => enable(conn, (org_id, id))?,
        Some(false) => {
            disable(conn, (org_id, id), "by_hand", now)?;
        }
        _ => {}
    }
    find(conn, own, id)
}

fn enable(conn: &mut PgConnection, (org_id, id): (i64, &str)) -> Result<(), Error> {
    diesel::update(e::table.find((org_id, id)))
        .set((
            e::enabled.eq(true),
            e::disabled_reason.eq(None::<String>),
            e::disabled_at.eq(None::<DateTime<Utc>>),
        ))
        .execute(conn)?;
    lanes::forget_failures(conn, (org_id, id))
}

/// Disables an endpoint, and writes the message about it unless somebody did it by hand. Returns whether it
/// was enabled.
pub(super) fn disable(
    conn: &mut PgConnection,
    (org_id, id): (i64, &str),
    reason: &str,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let url: Option<String> = diesel::update(e::table.find((org_id, id)).filter(e::enabled))
        .set((e::enabled.eq(false), e::disabled_reason.eq(reason), e::disabled_at.eq(now)))
        .returning(e::url)
        .get_result(conn)
        .optional()?;
    let Some(url) = url else { return Ok(false) };
    if reason != "by_hand" {
        let org: Option<String> = orgs::table.find(org_id).select(orgs::public_id).first(conn).optional()?;
        let message = NewMessage {
            org_id,
            kind: "endpoint.disabled",
            dedupe_key: format!("endpoint:{id}:disabled:{}", now.timestamp_micros()),
            data: json!({ "org": org, "endpoint": id, "url": url, "reason": reason }),
            object: None,
        };
        super::write(conn, vec![message], now)?;
    }
    Ok(true)
}

/// Deletes an endpoint with its deliveries and their attempts. Returns the row id of its org.
///
/// # Errors
/// [`Error::NotFound`] when there is none.
pub fn delete(conn: &mut PgConnection, own: Option<i64>, id: &str) -> Result<i64, Error> {
    let (org_id, _) = find(conn, own, id)?;
    // A dispatcher locks in this order, too.
    diesel::delete(e::table.find((org_id, id))).execute(conn)?;
    lanes::delete(conn, (org_id, id))?;
    Ok(org_id)
}

/// Gives an endpoint a new secret. The old one signs beside it for `overlap_h` hours more.
///
/// # Errors
/// [`Error::Invalid`] when the hours are out of range; [`Error::NotFound`].
pub fn roll_secret(
    conn: &mut PgConnection,
    own: Option<i64>,
    id: &str,
    overlap_h: i64,
    now: DateTime<Utc>,
) -> Result<(i64, String), Error> {
    if !(0..=secrets::LONGEST_OVERLAP_H).contains(&overlap_h) {
        let rule = format!("must be from 0 to {}", secrets::LONGEST_OVERLAP_H);
        return Err(Error::invalid("overlap_hours", rule));
    }
    let (org_id, endpoint) = find(conn, own, id)?;
    // Two at once would give their secrets the same number.
    let locked: Option<String> =
        e::table.find((org_id, id)).select(e::endpoint_id).for_no_key_update().first(conn).optional()?;
    locked.ok_or(Error::NotFound("endpoint"))?;
    let overlap = TimeDelta::hours(overlap_h);
    Ok((org_id, secrets::add(conn, (org_id, id), endpoint.signature, overlap, now)?))
}

/// An endpoint as the dispatcher needs it: org, id, kinds.
pub(super) type Wanting = (i64, String, Vec<Option<String>>);

/// Enabled endpoints that may want messages of these orgs. They stay until the transaction ends.
pub(super) fn wanting(conn: &mut PgConnection, orgs: &[i64]) -> QueryResult<Vec<Wanting>> {
    e::table
        .filter(e::enabled.and(e::org_id.eq_any(orgs)))
        .select((e::org_id, e::endpoint_id, e::kinds))
        .order((e::org_id, e::endpoint_id))
        .for_key_share()
        .load(conn)
}

/// The URL in its normal form.
fn check_url(rules: &TargetRules, url: &str) -> Result<String, Error> {
    rules.check_url(url).map(String::from).map_err(|rule| Error::invalid("url", rule))
}

fn check_texts(description: &str, asked: &[String]) -> Result<(), Error> {
    if description.chars().count() > DESCRIPTION_LIMIT || description.chars().any(char::is_control) {
        let rule = format!("must be at most {DESCRIPTION_LIMIT} characters, without control characters");
        return Err(Error::invalid("description", rule));
    }
    if asked.len() > MOST_KINDS {
        return Err(Error::invalid("kinds", format!("must be at most {MOST_KINDS}")));
    }
    match asked.iter().find(|kind| !kinds::is_known(kind)) {
        None => Ok(()),
        Some(kind) => Err(Error::invalid(
            "kinds",
            format!(
                "must name kinds of /v1/message_kinds, or beginnings that end in a full stop; there is no \
                 `{kind}`"
            ),
        )),
    }
}

/// An endpoint as the sender needs it.
#[derive(Clone, Debug, Queryable)]
pub(super) struct Sending {
    pub(super) org_id: i64,
    pub(super) id: String,
    pub(super) url: String,
    pub(super) ordered: bool,
    pub(super) with_object: bool,
    pub(super) signature: String,
}

/// Those of these endpoints that are enabled.
pub(super) fn sending(conn: &mut PgConnection, ids: &[&str]) -> QueryResult<Vec<Sending>> {
    e::table
        .filter(e::endpoint_id.eq_any(ids).and(e::enabled))
        .select((e::org_id, e::endpoint_id, e::url, e::ordered, e::with_object, e::signature))
        .load(conn)
}
