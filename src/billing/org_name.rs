//! How requests name an org. Every operation on an org uses this module: it accepts the id (`org_…`) and the
//! external id. For an unknown name it returns an error with the field that has the name.
//!
//! A request with an org's key may name only that org: the name is compared with that org's own names, never
//! looked up. So neither the answer nor its time shows whether another org has the name.

use std::borrow::Cow;
use std::sync::Arc;

use diesel::pg::PgConnection;
use diesel::prelude::*;

use super::directory::{Directory, OrgContext};
use crate::auth::Principal;
use crate::db::Scope as RowScope;
use crate::error::Error;
use crate::schema::org_refs;

/// An org, as requests of one batch name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OrgRef {
    /// The key's own org, by row id.
    Own(i64),
    /// A public or external id.
    Named(String),
}

/// The org that a request is about, and the field that names it.
#[derive(Clone, Debug)]
pub struct OrgName {
    org: OrgRef,
    field: Cow<'static, str>,
}

impl OrgName {
    /// A name from somebody who may name any org.
    pub fn of_any(name: impl Into<String>, field: impl Into<Cow<'static, str>>) -> Self {
        Self { org: OrgRef::Named(name.into()), field: field.into() }
    }

    /// This name, if `principal` may use it.
    ///
    /// # Errors
    /// [`Error::UnknownOrg`] when a key of an org names anything but its own org.
    pub fn within(self, principal: &Principal) -> Result<Self, Error> {
        match (principal.rows, &self.org) {
            (RowScope::Org(org_id), OrgRef::Named(name)) if principal.is_own(name) => {
                Ok(Self { org: OrgRef::Own(org_id), ..self })
            }
            (RowScope::Org(own), OrgRef::Own(org_id)) if own == *org_id => Ok(self),
            (RowScope::Org(_), _) => Err(self.unknown()),
            (RowScope::Platform, _) => Ok(self),
        }
    }

    /// The org that `principal` names in `field`. Without a name a key of an org means its own org, and a key
    /// of the platform means no org: `None`.
    ///
    /// # Errors
    /// [`Error::UnknownOrg`] when a key of an org names anything but its own org.
    pub fn of(
        principal: &Principal,
        name: Option<String>,
        field: impl Into<Cow<'static, str>>,
    ) -> Result<Option<Self>, Error> {
        let field = field.into();
        match (principal.rows, name) {
            (_, Some(name)) => Self::of_any(name, field).within(principal).map(Some),
            (RowScope::Org(org_id), None) => Ok(Some(Self { org: OrgRef::Own(org_id), field })),
            (RowScope::Platform, None) => Ok(None),
        }
    }

    /// Like [`OrgName::of`], for requests that need an org.
    ///
    /// # Errors
    /// As [`OrgName::of`]; also [`Error::Invalid`] when a key of the platform names no org.
    pub fn must(
        principal: &Principal,
        name: Option<String>,
        field: impl Into<Cow<'static, str>>,
    ) -> Result<Self, Error> {
        let field = field.into();
        Self::of(principal, name, field.clone())?.ok_or_else(|| {
            Error::invalid(field, "must be given with a key of the platform: the org's id or external id")
        })
    }

    /// The org, from the cache or the database.
    ///
    /// # Errors
    /// [`Error::UnknownOrg`] when there is none.
    pub fn find(&self, directory: &Directory, conn: &mut PgConnection) -> Result<Arc<OrgContext>, Error> {
        let found = match &self.org {
            OrgRef::Own(org_id) => directory.find(conn, *org_id).map(Some),
            OrgRef::Named(name) => directory.find_ref(conn, name),
        };
        found?.ok_or_else(|| self.unknown())
    }

    /// The org's row id, without reading the rest of it.
    ///
    /// # Errors
    /// As [`OrgName::find`].
    pub fn row_id(&self, conn: &mut PgConnection) -> Result<i64, Error> {
        match &self.org {
            OrgRef::Own(org_id) => Ok(*org_id),
            OrgRef::Named(name) if crate::text::has_nul(name) => Err(self.unknown()),
            OrgRef::Named(name) => {
                let found = org_refs::table.find(name).select(org_refs::org_id).first(conn).optional()?;
                found.ok_or_else(|| self.unknown())
            }
        }
    }

    /// The error for a name that no org has.
    #[must_use]
    pub fn unknown(&self) -> Error {
        Error::UnknownOrg(self.field.clone())
    }

    /// The name without its field, for a batch of requests.
    #[must_use]
    pub fn into_ref(self) -> OrgRef {
        self.org
    }
}
