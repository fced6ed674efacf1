//! Scopes: what a key may do.

use std::sync::Arc;

use super::keyring::KeyState;
use crate::db::Scope as RowScope;
use crate::error::Error;
use crate::shares::Holder;

/// One permission of an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    UsageWrite,
    /// Post usage older than the window allows.
    UsageBackfill,
    /// Set the cost of usage that it posts.
    UsagePrice,
    /// Read usage, quotas and balances.
    UsageRead,
    /// Read orgs, invoices, payments and exports.
    BillingRead,
    /// Change orgs, links and plans.
    BillingWrite,
    /// Make, rotate and revoke keys that may do no more than itself; of an org: keys of that org.
    KeysWrite,
    /// Ask whether a key is valid, and whose it is.
    KeysVerify,
    /// Everything, keys and the Stripe inbox included. The platform's keys only.
    Admin,
}

impl Scope {
    pub const ALL: [Self; 9] = [
        Self::UsageWrite,
        Self::UsageBackfill,
        Self::UsagePrice,
        Self::UsageRead,
        Self::BillingRead,
        Self::BillingWrite,
        Self::KeysWrite,
        Self::KeysVerify,
        Self::Admin,
    ];

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UsageWrite => "usage:write",
            Self::UsageBackfill => "usage:backfill",
            Self::UsagePrice => "usage:price",
            Self::UsageRead => "usage:read",
            Self::BillingRead => "billing:read",
            Self::BillingWrite => "billing:write",
            Self::KeysWrite => "keys:write",
            Self::KeysVerify => "keys:verify",
            Self::Admin => "admin",
        }
    }

    /// The scope of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

impl Scope {
    /// Checks that a key with these scopes may do no more than whoever makes it.
    ///
    /// # Errors
    /// [`Error::Beyond`] names the first scope that its maker lacks, and the `field` that asks for it.
    pub fn must_be_within(asked: &[Self], of_maker: &[Self], field: &str) -> Result<(), Error> {
        if of_maker.contains(&Self::Admin) {
            return Ok(());
        }
        match asked.iter().find(|scope| !of_maker.contains(scope)) {
            Some(lacking) => Err(Error::Beyond { field: field.to_owned().into(), scope: lacking.name() }),
            None => Ok(()),
        }
    }
}

impl std::str::FromStr for Scope {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::parse(name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("`{name}` is no scope; the scopes are {known}")
        })
    }
}

/// The bearer of a valid key.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Public id of the key.
    pub key_id: String,
    /// Whose rows it may see.
    pub rows: RowScope,
    /// Public id of its org; `None`: the platform.
    pub org: Option<String>,
    /// External id of its org, where that has one.
    pub external_id: Option<String>,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// What this daemon knows of the key.
    pub state: Arc<KeyState>,
}

impl Principal {
    /// # Errors
    /// [`Error::Forbidden`] without `scope` (or `admin`, which includes all).
    pub fn require(&self, scope: Scope) -> Result<(), Error> {
        if self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin) {
            Ok(())
        } else {
            Err(Error::Forbidden(scope.name()))
        }
    }

    /// As [`Principal::require`], and the key must be the platform's.
    ///
    /// # Errors
    /// [`Error::Forbidden`] otherwise.
    pub fn require_platform(&self, scope: Scope) -> Result<(), Error> {
        self.require(scope)?;
        if self.rows == RowScope::Platform { Ok(()) } else { Err(Error::Forbidden("of a platform key")) }
    }

    /// True when `name` is the public or external id of the key's own org.
    #[must_use]
    pub fn is_own(&self, name: &str) -> bool {
        [&self.org, &self.external_id].into_iter().flatten().any(|own| own == name)
    }

    /// Whose share of a limited resource a request of this key takes.
    #[must_use]
    pub fn holder(&self) -> Holder {
        match self.rows {
            RowScope::Platform => Holder::key(&self.key_id),
            RowScope::Org(org_id) => Holder::Org(org_id),
        }
    }

    /// Row id of the one org whose rows the key sees; `None`: it is the platform's and sees everybody's.
    #[must_use]
    pub fn own_org_id(&self) -> Option<i64> {
        match self.rows {
            RowScope::Platform => None,
            RowScope::Org(org_id) => Some(org_id),
        }
    }

    /// The key's own org, [`PLATFORM`](crate::auth::PLATFORM) for the platform.
    #[must_use]
    pub fn org_id(&self) -> i64 {
        match self.rows {
            RowScope::Platform => crate::auth::PLATFORM,
            RowScope::Org(org_id) => org_id,
        }
    }
}
