//! The orgs that a batch of requests is about.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use diesel::pg::PgConnection;

use super::QuotaContext;
use crate::billing::directory::{Directory, OrgContext};
use crate::billing::org_name::OrgRef;
use crate::error::Error;
use crate::group_commit::{Session, Work};
use crate::panics;

/// Orgs by their name in the requests, and by row id.
#[derive(Default)]
pub(super) struct Orgs {
    by_ref: HashMap<OrgRef, Arc<OrgContext>>,
    by_id: HashMap<i64, Arc<OrgContext>>,
}

impl Orgs {
    /// The orgs from memory, or else from the database; names that no org has are left out.
    pub(super) fn find<'a>(
        conn: &mut PgConnection,
        directory: &Directory,
        refs: impl Iterator<Item = &'a OrgRef>,
    ) -> Result<Self, Error> {
        let mut found = Self::default();
        let (mut names, mut ids) = (Vec::new(), Vec::new());
        for org in refs.collect::<std::collections::HashSet<_>>() {
            let in_memory = match org {
                OrgRef::Own(id) => directory.by_id(*id),
                OrgRef::Named(name) => directory.by_ref(name),
            };
            match (in_memory, org) {
                (Some(context), _) => found.insert(org.clone(), context),
                (None, OrgRef::Own(id)) => ids.push(*id),
                (None, OrgRef::Named(name)) => names.push(name.clone()),
            }
        }
        if !names.is_empty() || !ids.is_empty() {
            for (name, context) in directory.load(conn, &names, &ids)? {
                let org = if name.is_empty() { OrgRef::Own(context.org_id) } else { OrgRef::Named(name) };
                found.insert(org, context);
            }
        }
        Ok(found)
    }

    fn insert(&mut self, org: OrgRef, context: Arc<OrgContext>) {
        self.by_id.insert(context.org_id, Arc::clone(&context));
        self.by_ref.insert(org, context);
    }

    /// Adds orgs by row id.
    pub(super) fn load(
        &mut self,
        conn: &mut PgConnection,
        directory: &Directory,
        ids: impl Iterator<Item = i64>,
    ) -> Result<(), Error> {
        for id in ids {
            if let Entry::Vacant(place) = self.by_id.entry(id) {
                place.insert(directory.find(conn, id)?);
            }
        }
        Ok(())
    }

    pub(super) fn get(&self, org: &OrgRef) -> Option<&Arc<OrgContext>> {
        self.by_ref.get(org)
    }

    pub(super) fn by_id(&self, id: i64) -> Option<&Arc<OrgContext>> {
        self.by_id.get(&id)
    }

    pub(super) fn id(&self, org: &OrgRef) -> Option<i64> {
        self.by_ref.get(org).map(|context| context.org_id)
    }

    pub(super) fn ids(&self) -> BTreeSet<i64> {
        self.by_id.keys().copied().collect()
    }
}

/// Orgs by the name that a request has for them; names without an org are left out.
pub type FoundOrgs = HashMap<OrgRef, Arc<OrgContext>>;

/// Reads orgs that are not in memory, for usage. Look-ups that arrive together, as after a change of many
/// orgs, share a query.
pub(super) struct OrgLookup(pub(super) Arc<QuotaContext>);

impl Work for OrgLookup {
    type Input = Vec<OrgRef>;
    type Output = Result<FoundOrgs, Error>;

    fn run(
        &mut self,
        session: &mut Session,
        requests: &mut [Vec<OrgRef>],
    ) -> Result<Vec<Self::Output>, Error> {
        let (conn, requests) = (session.connection()?, &*requests);
        requests.iter().for_each(|refs| panics::panic_if_test_asks("org-reader", || format!("{refs:?}")));
        let orgs = Orgs::find(conn, &self.0.directory, requests.iter().flatten())?;
        let found = |refs: &Vec<OrgRef>| {
            let context = |org: &OrgRef| Some((org.clone(), Arc::clone(orgs.get(org)?)));
            Ok(refs.iter().filter_map(context).collect())
        };
        Ok(requests.iter().map(found).collect())
    }
}
