//! The org that a request is about, as lists and look-ups of one org's rows take it.

use std::sync::Arc;

use diesel::pg::PgConnection;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::auth::Principal;
use crate::billing::directory::{Directory, OrgContext};
use crate::billing::org_name::OrgName;
use crate::error::Error;

/// Whose.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OrgQuery {
    /// The org, by its id (`org_…`) or your own id of it. An org's key may leave it out; a key of the
    /// platform must not.
    pub org: Option<String>,
}

impl OrgQuery {
    /// The org.
    ///
    /// # Errors
    /// As [`OrgName::must`] and [`OrgName::find`].
    pub fn find(
        &self,
        directory: &Directory,
        conn: &mut PgConnection,
        principal: &Principal,
    ) -> Result<Arc<OrgContext>, Error> {
        OrgName::must(principal, self.org.clone(), "org")?.find(directory, conn)
    }
}
