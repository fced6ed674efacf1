//! The org that a request is about, as lists and look-ups of one org's rows take it.

use std::sync::Arc;

use diesel::pg::PgConnection;
use serde::Deserialize;
use utoipa::IntoParams;

use super::directory::{Directory, OrgContext};
use crate::auth::Principal;
use crate::db::Scope as RowScope;
use crate::error::Error;

/// Whose.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OrgQuery {
    /// The org, by its id (`org_…`) or your own id of it. An org's key may leave it out; a key of the platform must not.
    pub org: Option<String>,
}

impl OrgQuery {
    /// The org. What is not the key's own is not there.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Invalid`] when a key of the platform names none.
    pub fn find(
        &self,
        directory: &Directory,
        conn: &mut PgConnection,
        principal: &Principal,
    ) -> Result<Arc<OrgContext>, Error> {
        match (principal.rows, &self.org) {
            (RowScope::Org(org_id), None) => directory.find(conn, org_id),
            (RowScope::Org(org_id), Some(name)) => {
                let org = directory.find_ref(conn, name)?;
                if org.org_id == org_id { Ok(org) } else { Err(Error::NotFound("org")) }
            }
            (RowScope::Platform, Some(name)) => directory.find_ref(conn, name),
            (RowScope::Platform, None) => {
                Err(Error::invalid("org", "must be given with a key of the platform: name the org"))
            }
        }
    }
}
