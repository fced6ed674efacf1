//! The orgs that a batch of requests is about.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use diesel::pg::PgConnection;

use super::Rulebook;
use super::group_commit::Work;
use crate::billing::directory::{Directory, OrgContext};
use crate::billing::org_name::OrgRef;
use crate::error::Error;
use crate::panics;

/// Orgs by what they are called.
#[derive(Default)]
pub(super) struct Orgs {
    by_ref: HashMap<OrgRef, Arc<OrgContext>>,
    by_id: HashMap<i64, Arc<OrgContext>>,
}

impl Orgs {
    /// Those orgs, held or read; names that nobody has are left out.
    pub(super) fn find<'a>(
        conn: &mut PgConnection,
        directory: &Directory,
        refs: impl Iterator<Item = &'a OrgRef>,
    ) -> Result<Self, Error> {
        let mut found = Self::default();
        let (mut names, mut ids) = (Vec::new(), Vec::new());
        for org in refs.collect::<std::collections::HashSet<_>>() {
            let held = match org {
                OrgRef::Own(id) => directory.by_id(*id),
                OrgRef::Named(name) => directory.by_ref(name),
            };
            match (held, org) {
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

/// Orgs by how they were asked for; those that are not there are left out.
pub type Found = HashMap<OrgRef, Arc<OrgContext>>;

/// Looks orgs up for requests that do not come here otherwise. When many are no longer held, as after a
/// change, those that come together share a query.
pub(super) struct Lookups(pub(super) Arc<Rulebook>);

impl Work<Vec<OrgRef>, Found> for Lookups {
    fn run(&self, conn: &mut PgConnection, jobs: &[Vec<OrgRef>]) -> Result<Vec<Result<Found, Error>>, Error> {
        jobs.iter().for_each(|job| panics::panic_if_test_asks("org-reader", || format!("{job:?}")));
        let orgs = Orgs::find(conn, &self.0.directory, jobs.iter().flatten())?;
        let found = |wanted: &Vec<OrgRef>| {
            let context = |org: &OrgRef| Some((org.clone(), Arc::clone(orgs.get(org)?)));
            Ok(wanted.iter().filter_map(context).collect())
        };
        Ok(jobs.iter().map(found).collect())
    }
}
