//! From what a request calls an org to the org. Every operation that names one comes through here: its id
//! (`org_…`) and its external id both do, an unknown one is not found, and the field that named it is told.
//!
//! What a key of an org calls an org is compared with that org's own names and with nothing else. So neither
//! the answer nor the time that it takes tells whether another name exists.

use std::borrow::Cow;
use std::sync::Arc;

use diesel::pg::PgConnection;
use diesel::prelude::*;

use super::directory::{Directory, OrgContext};
use crate::auth::Principal;
use crate::db::Scope as RowScope;
use crate::error::Error;
use crate::schema::org_refs;

/// An org, as requests that are answered together ask for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OrgRef {
    /// The key's own org, by row id.
    Own(i64),
    /// A public or external id.
    Named(String),
}

/// An org that a request is about, and the field that names it.
#[derive(Clone, Debug)]
pub struct OrgName {
    org: OrgRef,
    field: Cow<'static, str>,
}

impl OrgName {
    /// What an operator calls an org, who may name any.
    pub fn of_any(name: impl Into<String>, field: impl Into<Cow<'static, str>>) -> Self {
        Self { org: OrgRef::Named(name.into()), field: field.into() }
    }

    /// The same, as far as `principal` may name it.
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

    /// The org that `principal` names in `field`. One that names none is about its own org; a key of the
    /// platform that names none is about no org: `None`.
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

    /// As [`OrgName::of`], where there must be an org.
    ///
    /// # Errors
    /// Also [`Error::Invalid`] when a key of the platform names none.
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

    /// The org, held or read.
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

    /// The org's row id, for those who need nothing else of it.
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

    /// That there is none.
    #[must_use]
    pub fn unknown(&self) -> Error {
        Error::UnknownOrg(self.field.clone())
    }

    /// For requests that are answered together.
    #[must_use]
    pub fn into_ref(self) -> OrgRef {
        self.org
    }
}
