//! Orgs: who is billed. [`super::org_plan`] decides which plan an org has.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, Text, Timestamptz};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::directory::{self, Change};
use super::markers;
use super::org_plan::{AsOf, clock, with_plan};
use super::standing::{self, OrgStanding};
use crate::error::Error;
use crate::ids;
use crate::money;
use crate::schema::{org_refs, orgs, plans};

/// An org.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Org {
    /// `org_…`.
    pub id: String,
    /// The id that your own systems know it by; Stripe's metadata may use it too.
    pub external_id: Option<String>,
    /// What people call it.
    pub name: String,
    /// IANA zone in which its days and months begin.
    pub time_zone: String,
    /// ISO 4217, lower case. Usage costs in it where the meter has a rate card in it; null: it costs in the
    /// currency of the meter.
    pub currency: Option<String>,
    /// When it was made here.
    pub created_at: DateTime<Utc>,
    /// Whatever you keep with it.
    #[schema(value_type = Object)]
    pub metadata: Value,
    /// Its plan: that of its Stripe subscription while that is `trialing` or `active` (`past_due`: for a
    /// grace), or of its local subscription while that runs; of several the one of the highest rank. Else the
    /// default plan.
    pub plan: Option<String>,
    /// The version of the plan that its subscription bought, or was moved to.
    pub plan_version: Option<i32>,
    /// The subscription that counts: one that gives a plan, by its rank, then of Stripe before local, then
    /// the best standing, then the latest.
    pub subscription: Option<OrgSubscription>,
    /// Stripe customers linked to it.
    pub customers: Vec<CustomerRef>,
    /// Whether it may use anything.
    pub standing: OrgStanding,
}

/// The subscription of an org, in short.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OrgSubscription {
    /// Stripe's id, or `lsub_…`.
    pub id: String,
    /// `stripe` or `local`.
    pub source: String,
    /// One of Stripe's eight statuses: incomplete, incomplete_expired, trialing, active, past_due, canceled,
    /// unpaid, paused. Of a local one: trial, active, past_due (its grace runs), expired, cancelled.
    pub status: String,
}

/// A Stripe customer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CustomerRef {
    /// Connected account, empty for our own.
    pub account: String,
    /// Live or test mode.
    pub livemode: bool,
    /// Stripe's id.
    pub id: String,
    /// Whether Stripe has told of this customer, by an event of it or of something of it. False: it is linked
    /// over the API, and nothing has come of it so far: is it the right id, and the right mode?
    pub known: bool,
}

/// What a new org is to be.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOrg {
    /// What people call it.
    #[schema(min_length = 1, max_length = 200, pattern = r"\S")]
    pub name: String,
    /// The id that your own systems know it by.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200, pattern = r"\S")]
    pub external_id: Option<String>,
    /// IANA zone such as `Europe/Berlin`; `UTC` when left out.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// ISO 4217, lower case: usage costs in it where the meter has a rate card in it. A billing profile sets
    /// it, too.
    #[serde(default)]
    #[schema(pattern = "^[a-z]{3}$")]
    pub currency: Option<String>,
    /// Whatever you keep with it.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub metadata: serde_json::Map<String, Value>,
}

/// Changes to an org; what is left out stays.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OrgPatch {
    /// A new name.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200, pattern = r"\S")]
    pub name: Option<String>,
    /// Another zone.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// Another currency, for usage that arrives from then on.
    #[serde(default)]
    #[schema(pattern = "^[a-z]{3}$")]
    pub currency: Option<String>,
    /// Replaces the metadata.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<serde_json::Map<String, Value>>,
}

const NAME_LIMIT: usize = 200;

fn check_text(field: &'static str, text: &str) -> Result<(), Error> {
    let length = text.chars().count();
    if text.trim().is_empty() || length > NAME_LIMIT || crate::text::has_nul(text) {
        return Err(Error::invalid(field, format!("must be 1 to {NAME_LIMIT} characters, and not blank")));
    }
    Ok(())
}

fn check_zone(conn: &mut PgConnection, zone: &str) -> Result<(), Error> {
    let known: bool = diesel::select(
        diesel::dsl::sql::<Bool>("EXISTS (SELECT FROM pg_timezone_names WHERE name = ")
            .bind::<Text, _>(zone)
            .sql(")"),
    )
    .get_result(conn)?;
    // The daemon computes with its own table of zones, so both must know the zone.
    if known && zone.parse::<chrono_tz::Tz>().is_ok() {
        Ok(())
    } else {
        Err(Error::invalid("time_zone", format!("`{zone}` is not an IANA time zone such as Europe/Berlin")))
    }
}

/// Refuses NUL, which PostgreSQL's jsonb cannot store.
fn check_metadata(metadata: &serde_json::Map<String, Value>) -> Result<Value, Error> {
    let value = Value::Object(metadata.clone());
    if value.to_string().contains("\\u0000") {
        return Err(Error::invalid("metadata", crate::text::NO_NUL));
    }
    Ok(value)
}

/// Creates an org and returns its row id and public id.
///
/// # Errors
/// [`Error::Invalid`] for a bad field, [`Error::Conflict`] when the external id is taken.
pub fn create(conn: &mut PgConnection, new: &NewOrg, now: DateTime<Utc>) -> Result<(i64, String), Error> {
    check_text("name", &new.name)?;
    crate::panics::panic_if_test_asks("blocking", || new.name.as_str());
    if let Some(external_id) = &new.external_id {
        check_text("external_id", external_id)?;
    }
    let zone = new.time_zone.as_deref().unwrap_or("UTC");
    check_zone(conn, zone)?;
    if let Some(currency) = &new.currency {
        money::check_currency("currency", currency)?;
    }
    let metadata = check_metadata(&new.metadata)?;
    let (org_id, public_id) = insert(conn, &new.name, new.external_id.as_deref(), zone, &metadata, now)?;
    if let Some(currency) = &new.currency {
        set_currency(conn, org_id, currency)?;
    }
    Ok((org_id, public_id))
}

/// Sets the currency in which usage of the org costs, where meters have prices in it.
pub fn set_currency(conn: &mut PgConnection, org_id: i64, currency: &str) -> Result<(), Error> {
    let others = orgs::table.find(org_id).filter(orgs::currency.is_distinct_from(currency));
    if diesel::update(others).set(orgs::currency.eq(currency)).execute(conn)? > 0 {
        directory::changed(conn, [Change::Org(org_id)])?;
    }
    Ok(())
}

/// Creates an org with this external id, unless an org has that name already.
pub fn ensure(
    conn: &mut PgConnection,
    external_id: &str,
    name: &str,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let is_there: bool =
        diesel::select(diesel::dsl::exists(org_refs::table.find(external_id))).get_result(conn)?;
    if is_there {
        return Ok(());
    }
    let name: String = name.chars().take(NAME_LIMIT).collect();
    insert(conn, &name, Some(external_id), "UTC", &Value::Object(serde_json::Map::new()), now).map(drop)
}

fn insert(
    conn: &mut PgConnection,
    name: &str,
    external_id: Option<&str>,
    zone: &str,
    metadata: &Value,
    now: DateTime<Utc>,
) -> Result<(i64, String), Error> {
    let public_id = ids::fresh("org");
    let conflict = |error: Error| match error.constraint() {
        Some("orgs_external_id_key" | "org_refs_pkey") => Error::conflict(
            "external_id_taken",
            "another org has this external_id: use that org, or another id",
        ),
        _ => error,
    };
    let org_id: i64 = diesel::insert_into(orgs::table)
        .values((
            orgs::public_id.eq(&public_id),
            orgs::external_id.eq(external_id),
            orgs::name.eq(name),
            orgs::time_zone.eq(zone),
            orgs::created_at.eq(now),
            orgs::metadata.eq(metadata),
        ))
        .returning(orgs::org_id)
        .get_result(conn)
        .map_err(|error| conflict(error.into()))?;
    let refs: Vec<_> = [Some(public_id.as_str()), external_id]
        .into_iter()
        .flatten()
        .map(|name| (org_refs::ref_.eq(name.to_owned()), org_refs::org_id.eq(org_id)))
        .collect();
    diesel::insert_into(org_refs::table)
        .values(refs)
        .execute(conn)
        .map_err(|error| conflict(error.into()))?;
    markers::org_named(conn, [Some(public_id.as_str()), external_id].into_iter().flatten())?;
    Ok((org_id, public_id))
}

/// # Errors
/// [`Error::Invalid`] for a bad field.
pub fn update(conn: &mut PgConnection, org_id: i64, patch: &OrgPatch) -> Result<(), Error> {
    standing::lock_unerased(conn, org_id)?;
    if let Some(name) = &patch.name {
        check_text("name", name)?;
    }
    if let Some(zone) = &patch.time_zone {
        check_zone(conn, zone)?;
    }
    if let Some(currency) = &patch.currency {
        money::check_currency("currency", currency)?;
    }
    let metadata = patch.metadata.as_ref().map(check_metadata).transpose()?;
    if let Some(name) = &patch.name {
        diesel::update(orgs::table.find(org_id)).set(orgs::name.eq(name)).execute(conn)?;
    }
    if let Some(zone) = &patch.time_zone {
        diesel::update(orgs::table.find(org_id)).set(orgs::time_zone.eq(zone)).execute(conn)?;
        directory::changed(conn, [Change::Org(org_id)])?;
    }
    if let Some(currency) = &patch.currency {
        set_currency(conn, org_id, currency)?;
    }
    if let Some(metadata) = metadata {
        diesel::update(orgs::table.find(org_id)).set(orgs::metadata.eq(metadata)).execute(conn)?;
    }
    Ok(())
}

/// Which orgs a list shows: those that fulfil every condition given.
#[derive(Clone, Debug, Default)]
pub struct OrgFilter {
    /// Row id.
    pub org_id: Option<i64>,
    pub external_id: Option<String>,
    /// Archived and erased orgs too.
    pub archived: bool,
    /// Id of the plan that the org has now.
    pub plan: Option<String>,
    /// Included.
    pub created_from: Option<DateTime<Utc>>,
    /// Not included.
    pub created_before: Option<DateTime<Utc>>,
    /// The last org of the page before: its `created_at` and row id.
    pub after: Option<(DateTime<Utc>, i64)>,
}

#[derive(QueryableByName)]
struct OrgWithPlanRow {
    #[diesel(embed)]
    org: OrgRow,
    #[diesel(sql_type = Nullable<Text>)]
    plan_id: Option<String>,
    #[diesel(sql_type = Nullable<Integer>)]
    plan_version: Option<i32>,
    #[diesel(sql_type = Nullable<Text>)]
    source: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    subscription_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    subscription_status: Option<String>,
}

#[derive(QueryableByName)]
#[diesel(table_name = orgs)]
struct OrgRow {
    org_id: i64,
    public_id: String,
    external_id: Option<String>,
    name: String,
    time_zone: String,
    currency: Option<String>,
    created_at: DateTime<Utc>,
    metadata: Value,
    suspended_at: Option<DateTime<Utc>>,
    suspension_reason: Option<String>,
    suspension_usage: Option<String>,
    archived_at: Option<DateTime<Utc>>,
    erased_at: Option<DateTime<Utc>>,
}

/// Orgs with their row ids, newest first, at most `limit`.
///
/// # Errors
/// [`Error::Invalid`] when the filter names an unknown plan.
pub fn list(
    conn: &mut PgConnection,
    filter: &OrgFilter,
    limit: i64,
    as_of: AsOf,
) -> Result<Vec<(i64, Org)>, Error> {
    if let Some(plan) = &filter.plan
        && !diesel::select(diesel::dsl::exists(plans::table.filter(plans::plan_id.eq(plan))))
            .get_result(conn)?
    {
        return Err(Error::invalid("plan", "must be the id of a plan (`GET /v1/plans` lists them)"));
    }
    const SQL: &str = concat!(
        "WITH ",
        clock!("$9", "$10"),
        " SELECT * FROM (",
        with_plan!(),
        ") o
         WHERE ($1::bigint IS NULL OR org_id = $1)
             AND ($2::text IS NULL OR external_id = $2)
             AND ($3::text IS NULL OR plan_id = $3)
             AND ($4::timestamptz IS NULL OR created_at >= $4)
             AND ($5::timestamptz IS NULL OR created_at < $5)
             AND ($11 OR archived_at IS NULL AND erased_at IS NULL)
             AND ($6::timestamptz IS NULL OR (created_at, org_id) < ($6, $7))
         ORDER BY created_at DESC, org_id DESC
         LIMIT $8"
    );
    let rows: Vec<OrgWithPlanRow> = diesel::sql_query(SQL)
        .bind::<Nullable<BigInt>, _>(filter.org_id)
        .bind::<Nullable<Text>, _>(&filter.external_id)
        .bind::<Nullable<Text>, _>(&filter.plan)
        .bind::<Nullable<Timestamptz>, _>(filter.created_from)
        .bind::<Nullable<Timestamptz>, _>(filter.created_before)
        .bind::<Nullable<Timestamptz>, _>(filter.after.map(|(at, _)| at))
        .bind::<Nullable<BigInt>, _>(filter.after.map(|(_, id)| id))
        .bind::<BigInt, _>(limit)
        .bind::<Timestamptz, _>(as_of.now)
        .bind::<Integer, _>(i32::from(as_of.grace_days))
        .bind::<Bool, _>(filter.archived || filter.org_id.is_some())
        .load(conn)?;
    let mut customers = customers_of(conn, &rows.iter().map(|row| row.org.org_id).collect::<Vec<_>>())?;
    Ok(rows.into_iter().map(|row| (row.org.org_id, org_of(row, &mut customers))).collect())
}

/// # Errors
/// [`Error::NotFound`] when there is no such org.
pub fn find(conn: &mut PgConnection, org_id: i64, as_of: AsOf) -> Result<Org, Error> {
    let filter = OrgFilter { org_id: Some(org_id), ..OrgFilter::default() };
    list(conn, &filter, 1, as_of)?.pop().map(|(_, org)| org).ok_or(Error::NotFound("org"))
}

/// How many orgs have more than one subscription that gives a plan, and the public ids of at most `limit` of
/// them.
pub fn pay_several_times(
    conn: &mut PgConnection,
    as_of: AsOf,
    limit: i64,
) -> QueryResult<(i64, Vec<String>)> {
    #[derive(QueryableByName)]
    struct PayingOrg {
        #[diesel(sql_type = BigInt)]
        number: i64,
        #[diesel(sql_type = Text)]
        public_id: String,
    }
    const SQL: &str = concat!(
        "WITH ",
        clock!("$1", "$2"),
        " SELECT count(*) OVER () AS number, public_id FROM (",
        with_plan!(),
        ") o WHERE paying IS NOT NULL ORDER BY org_id LIMIT $3"
    );
    let rows: Vec<PayingOrg> = diesel::sql_query(SQL)
        .bind::<Timestamptz, _>(as_of.now)
        .bind::<Integer, _>(i32::from(as_of.grace_days))
        .bind::<BigInt, _>(limit)
        .load(conn)?;
    Ok((rows.first().map_or(0, |row| row.number), rows.into_iter().map(|row| row.public_id).collect()))
}

fn org_of(row: OrgWithPlanRow, customers: &mut BTreeMap<i64, Vec<CustomerRef>>) -> Org {
    let subscription = row
        .subscription_id
        .zip(row.source.zip(row.subscription_status))
        .map(|(id, (source, status))| OrgSubscription { id, source, status });
    let standing = standing_of(&row.org);
    Org {
        standing,
        customers: customers.remove(&row.org.org_id).unwrap_or_default(),
        id: row.org.public_id,
        external_id: row.org.external_id,
        name: row.org.name,
        time_zone: row.org.time_zone,
        currency: row.org.currency,
        created_at: row.org.created_at,
        metadata: row.org.metadata,
        plan: row.plan_id,
        plan_version: row.plan_version,
        subscription,
    }
}

fn standing_of(org: &OrgRow) -> OrgStanding {
    let of = |status, since: Option<DateTime<Utc>>| OrgStanding { status, since, reason: None, usage: None };
    if org.erased_at.is_some() {
        of("erased", org.erased_at)
    } else if org.archived_at.is_some() {
        of("archived", org.archived_at)
    } else if org.suspended_at.is_some() {
        let (reason, usage) = (org.suspension_reason.clone(), org.suspension_usage.clone());
        OrgStanding { reason, usage, ..of("suspended", org.suspended_at) }
    } else {
        of("active", None)
    }
}

#[derive(QueryableByName)]
struct CustomerRow {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Bool)]
    livemode: bool,
    #[diesel(sql_type = Text)]
    customer_id: String,
    #[diesel(sql_type = Bool)]
    known: bool,
}

fn customers_of(conn: &mut PgConnection, org_ids: &[i64]) -> Result<BTreeMap<i64, Vec<CustomerRef>>, Error> {
    let rows: Vec<CustomerRow> = diesel::sql_query(
        "SELECT r.org_id, l.account, l.livemode, l.customer_id,
             num_nonnulls(l.metadata_ref, l.session_ref, l.own_ref) > 0
             OR EXISTS (SELECT FROM customers x
                 WHERE (x.account, x.livemode, x.id) = (l.account, l.livemode, l.customer_id))
             OR EXISTS (SELECT FROM subscriptions x
                 WHERE (x.account, x.livemode, x.customer_id) = (l.account, l.livemode, l.customer_id))
             OR EXISTS (SELECT FROM invoices x
                 WHERE (x.account, x.livemode, x.customer_id) = (l.account, l.livemode, l.customer_id))
             OR EXISTS (SELECT FROM payments x
                 WHERE (x.account, x.livemode, x.customer_id) = (l.account, l.livemode, l.customer_id))
             OR EXISTS (SELECT FROM checkout_sessions x
                 WHERE (x.account, x.livemode, x.customer_id) = (l.account, l.livemode, l.customer_id))
             AS known
         FROM org_refs r JOIN stripe_customer_links l USING (ref)
         WHERE r.org_id = ANY ($1)
         ORDER BY r.org_id, l.account, l.livemode, l.customer_id",
    )
    .bind::<Array<BigInt>, _>(org_ids)
    .load(conn)?;
    let mut customers: BTreeMap<i64, Vec<CustomerRef>> = BTreeMap::new();
    for row in rows {
        customers.entry(row.org_id).or_default().push(CustomerRef {
            account: row.account,
            livemode: row.livemode,
            id: row.customer_id,
            known: row.known,
        });
    }
    Ok(customers)
}
