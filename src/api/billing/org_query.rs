//! The org that a request is about, as lists and look-ups of one org's rows take it.

use serde::Deserialize;
use utoipa::IntoParams;

use crate::auth::Principal;
use crate::billing::org_name::OrgName;
use crate::error::Error;

/// Whose rows are meant.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OrgQuery {
    /// The org, by its id (`org_…`) or your own id of it. An org's key may leave it out; a key of the
    /// platform must not.
    pub org: Option<String>,
}

impl OrgQuery {
    /// The org, as far as the caller may name it.
    ///
    /// # Errors
    /// As [`OrgName::must`].
    pub fn name(self, principal: &Principal) -> Result<OrgName, Error> {
        OrgName::must(principal, self.org, "org")
    }
}
