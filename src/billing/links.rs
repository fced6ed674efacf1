//! Which org a Stripe customer belongs to.
//!
//! A link names its org by a *ref*: the org's public id or its external id. The ref is resolved when the link
//! is read, so customer, session, org and link may come in any order. A link may have several sources, and
//! the first of these counts: a call of the API, the customer's `metadata.org_id`, `client_reference_id` of
//! its latest checkout session, the org created for the customer.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text, Untyped};

use super::acting_realms::{self, acts};
use super::directory::{self, Change};
use super::{markers, orgs};
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::realm::{Realm, RealmSelector, UnclearRealm};
use crate::schema::stripe_customer_links as t;

/// What one Stripe object says of its customer's org.
#[derive(Clone, Debug)]
pub struct Link {
    /// Account and mode of the customer.
    pub realm: Realm,
    pub customer_id: String,
    pub source: LinkSource,
    /// The name for an org that is created for the customer.
    pub name: Option<String>,
}

/// Who says which org a customer belongs to.
#[derive(Clone, Debug)]
pub enum LinkSource {
    Metadata {
        /// `metadata.org_id`.
        org: Option<String>,
    },
    Session {
        /// `client_reference_id`.
        org: Option<String>,
        /// Greater for a later session of the customer.
        key: String,
    },
}

/// Writes the links of a batch. `org_per_customer`: creates an org for each customer that names none.
pub fn write(
    conn: &mut PgConnection,
    links: &[Link],
    org_per_customer: bool,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    // In key order, so that two batches never deadlock.
    let mut links: Vec<&Link> = links.iter().collect();
    links.sort_by(|a, b| (&a.realm, &a.customer_id).cmp(&(&b.realm, &b.customer_id)));
    let metadata: Vec<(&Link, Option<&String>)> = links
        .iter()
        .filter_map(|link| match &link.source {
            LinkSource::Metadata { org } => Some((*link, org.as_ref())),
            LinkSource::Session { .. } => None,
        })
        .collect();
    let names_an_org = |link: &&&Link| !matches!(link.source, LinkSource::Session { org: None, .. });
    let watch =
        Watch::begin(conn, links.iter().filter(names_an_org).map(|link| (&link.realm, &*link.customer_id)))?;
    write_metadata(conn, &metadata)?;
    for link in &links {
        if let LinkSource::Session { org: Some(org), key } = &link.source {
            write_session(conn, link, org, key)?;
        }
    }
    if org_per_customer {
        for (link, _) in metadata {
            make_own_org(conn, link, now)?;
        }
    }
    watch.end(conn)
}

statement!(Make -> Untyped: concat!(
    "INSERT INTO stripe_customer_links (account, livemode, customer_id, trusted)
     SELECT k.account, k.livemode, k.customer_id, ", acts!("k"), "
     FROM unnest(?, ?, ?) AS k (account, livemode, customer_id)
     ON CONFLICT DO NOTHING"));
statement!(Refs -> Nullable<Text>: "SELECT coalesce(l.ref, l.idle_ref)
    FROM unnest(?, ?, ?) AS k (account, livemode, customer_id)
    JOIN stripe_customer_links l USING (account, livemode, customer_id)
    ORDER BY account, livemode, customer_id
    FOR UPDATE OF l");

/// Watches links while they are written. Then it announces that the orgs changed that lost or got a customer.
struct Watch<'a> {
    /// Account, live mode and customer, in the order in which links are locked.
    keys: BTreeSet<(&'a str, bool, &'a str)>,
    /// The ref of each link before the change.
    refs: Vec<Option<String>>,
}

impl<'a> Watch<'a> {
    /// Inserts links that are missing, and locks all of them.
    fn begin(
        conn: &mut PgConnection,
        customers: impl Iterator<Item = (&'a Realm, &'a str)>,
    ) -> QueryResult<Self> {
        let keys = customers.map(|(realm, id)| (realm.account.as_str(), realm.livemode, id)).collect();
        let mut watch = Self { keys, refs: Vec::new() };
        if !watch.keys.is_empty() {
            watch.bound::<Make>().execute(conn)?;
            watch.refs = watch.bound::<Refs>().load(conn)?;
        }
        Ok(watch)
    }

    /// Announces what has changed since [`Watch::begin`].
    fn end(self, conn: &mut PgConnection) -> Result<(), Error> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let now: Vec<Option<String>> = self.bound::<Refs>().load(conn)?;
        let moved = self.refs.iter().zip(&now).filter(|(before, now)| before != now);
        let refs = moved.flat_map(|(before, now)| before.iter().chain(now));
        Ok(directory::changed(conn, refs.cloned().map(Change::Ref))?)
    }

    /// A statement with the keys bound.
    fn bound<Q: crate::db::prepared::StatementText>(&self) -> Prepared<'a, Q> {
        Prepared::new()
            .bind::<Text, _>(self.keys.iter().map(|key| key.0).collect())
            .bind::<Bool, _>(self.keys.iter().map(|key| key.1).collect())
            .bind::<Text, _>(self.keys.iter().map(|key| key.2).collect())
    }
}

fn write_metadata(conn: &mut PgConnection, links: &[(&Link, Option<&String>)]) -> Result<(), Error> {
    if links.is_empty() {
        return Ok(());
    }
    diesel::sql_query(concat!(
        "INSERT INTO stripe_customer_links AS l (account, livemode, customer_id, metadata_ref, trusted)
         SELECT k.*, ",
        acts!("k"),
        " FROM unnest($1::text[], $2::boolean[], $3::text[], $4::text[])
             AS k (account, livemode, customer_id, metadata_ref)
         ON CONFLICT (account, livemode, customer_id) DO UPDATE SET metadata_ref = excluded.metadata_ref
         WHERE l.metadata_ref IS DISTINCT FROM excluded.metadata_ref"
    ))
    .bind::<Array<Text>, _>(links.iter().map(|(link, _)| link.realm.account.as_str()).collect::<Vec<_>>())
    .bind::<Array<Bool>, _>(links.iter().map(|(link, _)| link.realm.livemode).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(links.iter().map(|(link, _)| link.customer_id.as_str()).collect::<Vec<_>>())
    .bind::<Array<Nullable<Text>>, _>(
        links.iter().map(|(_, org)| org.map(String::as_str)).collect::<Vec<_>>(),
    )
    .execute(conn)?;
    Ok(())
}

fn write_session(conn: &mut PgConnection, link: &Link, org: &str, key: &str) -> Result<(), Error> {
    diesel::sql_query(concat!(
        "INSERT INTO stripe_customer_links AS l
             (account, livemode, customer_id, session_ref, session_key, trusted)
         SELECT k.*, ",
        acts!("k"),
        " FROM (VALUES ($1, $2, $3, $4, $5))
             AS k (account, livemode, customer_id, session_ref, session_key)
         ON CONFLICT (account, livemode, customer_id)
         DO UPDATE SET session_ref = excluded.session_ref, session_key = excluded.session_key
         WHERE l.session_key IS NULL OR l.session_key <= excluded.session_key"
    ))
    .bind::<Text, _>(&link.realm.account)
    .bind::<Bool, _>(link.realm.livemode)
    .bind::<Text, _>(&link.customer_id)
    .bind::<Text, _>(org)
    .bind::<Text, _>(key)
    .execute(conn)?;
    Ok(())
}

/// Creates an org for a customer that no other source links to an org. Its external id is the customer's id.
fn make_own_org(conn: &mut PgConnection, link: &Link, now: DateTime<Utc>) -> Result<(), Error> {
    let own = t::table.find((&link.realm.account, link.realm.livemode, &link.customer_id));
    let (named, acts): (Option<String>, bool) = own.select((t::ref_, t::trusted)).first(conn)?;
    if named.is_some() || !acts {
        return Ok(());
    }
    let external_id = if link.realm.account.is_empty() {
        link.customer_id.clone()
    } else {
        format!("{}/{}", link.realm.account, link.customer_id)
    };
    orgs::ensure(conn, &external_id, link.name.as_deref().unwrap_or(&link.customer_id), now)?;
    diesel::update(own).set(t::own_ref.eq(external_id)).execute(conn)?;
    Ok(())
}

/// Realms in which an event showed the customer, or an object of the customer.
pub fn realms_of(conn: &mut PgConnection, customer_id: &str) -> Result<Vec<Realm>, Error> {
    let rows: Vec<RealmRow> = diesel::sql_query(
        "SELECT account, livemode FROM customers WHERE id = $1
         UNION SELECT account, livemode FROM subscriptions WHERE customer_id = $1
         UNION SELECT account, livemode FROM invoices WHERE customer_id = $1
         UNION SELECT account, livemode FROM payments WHERE customer_id = $1
         UNION SELECT account, livemode FROM checkout_sessions WHERE customer_id = $1",
    )
    .bind::<Text, _>(customer_id)
    .load(conn)?;
    Ok(rows.into_iter().map(RealmRow::realm).collect())
}

/// Realms in which a call of the API has linked the customer to the org.
pub fn linked_in(conn: &mut PgConnection, org_id: i64, customer_id: &str) -> Result<Vec<Realm>, Error> {
    let rows: Vec<RealmRow> = diesel::sql_query(
        "SELECT l.account, l.livemode
         FROM org_refs r
         JOIN stripe_customer_links l ON l.ref = r.ref
         WHERE r.org_id = $1 AND l.customer_id = $2 AND l.api_ref IS NOT NULL",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Text, _>(customer_id)
    .load(conn)?;
    Ok(rows.into_iter().map(RealmRow::realm).collect())
}

#[derive(QueryableByName)]
struct RealmRow {
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Bool)]
    livemode: bool,
}

impl RealmRow {
    fn realm(self) -> Realm {
        Realm { account: self.account, livemode: self.livemode }
    }
}

/// Links a customer to an org by a call of the API, and returns the realm. This source counts before all
/// others. A selector that names no realm selects the one in which the customer is known. For an unknown
/// customer it must name the mode.
///
/// # Errors
/// [`Error::Invalid`] for a text that cannot be the id of a customer, and when customers of several realms
/// fit; [`Error::Conflict`] in a realm that does not act.
pub fn link(
    conn: &mut PgConnection,
    selector: &RealmSelector,
    customer_id: &str,
    org: &str,
) -> Result<Realm, Error> {
    check_ids(selector, customer_id)?;
    let realm = match selector.select(realms_of(conn, customer_id)?) {
        Ok(realm) => realm,
        Err(UnclearRealm::Nowhere) => {
            let livemode = selector.livemode.ok_or_else(|| {
                let rule = "must be given, for Stripe has not told of this customer yet: true is live mode, \
                    false test mode";
                Error::invalid("livemode", rule)
            })?;
            Realm { account: selector.account.clone().unwrap_or_default(), livemode }
        }
        Err(unclear) => return Err(which(unclear)),
    };
    if !acting_realms::load(conn)?.acts(&realm) {
        let detail = "what Stripe sends of this account and mode is mirrored and does nothing: name it by \
            COULOMB_STRIPE_MODE and COULOMB_STRIPE_ACCOUNTS, and start the daemon again";
        return Err(Error::conflict("realm_not_trusted", detail));
    }
    set_explicit(conn, &realm, customer_id, Some(org))?;
    Ok(realm)
}

/// Removes the link that a call of the API made, and returns the realm. Then metadata and sessions count
/// again.
///
/// # Errors
/// [`Error::NotFound`] when no call of the API made such a link; [`Error::Invalid`] as in [`link`].
pub fn unlink(
    conn: &mut PgConnection,
    selector: &RealmSelector,
    customer_id: &str,
    org_id: i64,
) -> Result<Realm, Error> {
    check_ids(selector, customer_id)?;
    let realm = selector.select(linked_in(conn, org_id, customer_id)?).map_err(|unclear| match unclear {
        UnclearRealm::Nowhere => Error::NotFound("link of this org that was made over the API to a customer"),
        unclear => which(unclear),
    })?;
    set_explicit(conn, &realm, customer_id, None)?;
    Ok(realm)
}

/// # Errors
/// [`Error::Invalid`] for an id that Stripe cannot have given.
fn check_ids(selector: &RealmSelector, customer_id: &str) -> Result<(), Error> {
    if !is_id(customer_id, "cus_") {
        let rule = "must be the id of a Stripe customer: `cus_` with letters and digits after it";
        return Err(Error::invalid("customer_id", rule));
    }
    if selector.account.as_deref().is_some_and(|account| !account.is_empty() && !is_id(account, "acct_")) {
        let rule = "must be the id of a connected account (`acct_` with letters and digits after it), or \
            empty for our own";
        return Err(Error::invalid("account", rule));
    }
    Ok(())
}

/// Whether a text may be an id of Stripe's with this prefix. Stripe's ids have at most 255 characters.
fn is_id(text: &str, prefix: &str) -> bool {
    let rest = text.strip_prefix(prefix).filter(|rest| !rest.is_empty() && text.len() <= 255);
    rest.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

/// The error that asks for what is missing to select one realm.
#[must_use]
pub fn which(unclear: UnclearRealm) -> Error {
    match unclear {
        UnclearRealm::Account => {
            Error::invalid("account", "must be given: the id is known in several accounts")
        }
        UnclearRealm::Mode | UnclearRealm::Nowhere => Error::invalid(
            "livemode",
            "must be given, for the id is known in both modes: true for live mode, false for test mode",
        ),
    }
}

fn set_explicit(
    conn: &mut PgConnection,
    realm: &Realm,
    customer_id: &str,
    org: Option<&str>,
) -> Result<(), Error> {
    let watch = Watch::begin(conn, std::iter::once((realm, customer_id)))?;
    diesel::update(t::table.find((&realm.account, realm.livemode, customer_id)))
        .set(t::api_ref.eq(org))
        .execute(conn)?;
    watch.end(conn)?;
    markers::customer_changed(conn, realm, customer_id)?;
    Ok(())
}
