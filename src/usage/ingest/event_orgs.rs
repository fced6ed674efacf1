//! The orgs that the events of a request belong to.

use std::collections::HashSet;
use std::sync::Arc;

use crate::billing::directory::OrgContext;
use crate::billing::org_name::OrgRef;
use crate::error::Error;
use crate::metering::event::{Rejection, UsageEvent};
use crate::metering::resolve::Caller;
use crate::quota::Quotas;
use crate::shares::Holder;

/// Which org each event belongs to.
pub(super) enum EventOrgs {
    /// The key of an org: its own. The name in an event is compared with that org's names alone, so that
    /// neither the answer nor its time says whether another name exists.
    Own(Arc<OrgContext>),
    /// A key of the platform: the org that each event names, in their order. `None` also where there is no
    /// such org.
    Named(Vec<Option<Arc<OrgContext>>>),
}

impl EventOrgs {
    pub(super) async fn find(
        quotas: &Quotas,
        (holder, caller): (Holder, &Caller),
        events: &[Result<UsageEvent<'_>, Rejection>],
    ) -> Result<Self, Error> {
        match caller.org_id {
            Some(org_id) => find_own(quotas, holder, org_id).await.map(Self::Own),
            None => find_named(quotas, holder, events).await.map(Self::Named),
        }
    }

    /// The org of the event at `position` of the request.
    pub(super) fn get(&self, position: usize, event: &UsageEvent<'_>) -> Result<&Arc<OrgContext>, Rejection> {
        let unknown = |name: &str| {
            Rejection::new(
                "org",
                "unknown_org",
                format!("there is no org `{name}`: create it, or correct the name"),
            )
        };
        match (self, &event.org) {
            (Self::Own(own), None) => Ok(own),
            (Self::Own(own), Some(name)) if own.is_called(name) => Ok(own),
            (Self::Named(orgs), Some(name)) => orgs[position].as_ref().ok_or_else(|| unknown(name)),
            (Self::Own(_), Some(name)) => Err(unknown(name)),
            (Self::Named(_), None) => Err(Rejection::new(
                "org",
                "no_org",
                "a platform key must name the org, by its id or external id",
            )),
        }
    }
}

async fn find_own(quotas: &Quotas, holder: Holder, org_id: i64) -> Result<Arc<OrgContext>, Error> {
    if let Some(own) = quotas.context.directory.by_id(org_id) {
        return Ok(own);
    }
    let own = OrgRef::Own(org_id);
    let found = quotas.orgs(holder, vec![own.clone()]).await?.remove(&own);
    found.ok_or(Error::NotFound("org"))
}

/// Orgs in memory first; all others with one look-up.
async fn find_named(
    quotas: &Quotas,
    holder: Holder,
    events: &[Result<UsageEvent<'_>, Rejection>],
) -> Result<Vec<Option<Arc<OrgContext>>>, Error> {
    let mut missing: HashSet<OrgRef> = HashSet::new();
    let in_memory = |event| {
        let name = org_name(event)?;
        let org = quotas.context.directory.by_ref(name);
        if org.is_none() {
            missing.insert(OrgRef::Named(name.to_owned()));
        }
        org
    };
    let mut orgs: Vec<Option<Arc<OrgContext>>> = events.iter().map(in_memory).collect();
    if !missing.is_empty() {
        let found = quotas.orgs(holder, missing.into_iter().collect()).await?;
        for (event, org) in events.iter().zip(&mut orgs).filter(|(_, org)| org.is_none()) {
            *org = org_name(event).and_then(|name| found.get(&OrgRef::Named(name.to_owned())).cloned());
        }
    }
    Ok(orgs)
}

fn org_name<'a>(event: &'a Result<UsageEvent<'_>, Rejection>) -> Option<&'a str> {
    event.as_ref().ok()?.org.as_deref()
}
