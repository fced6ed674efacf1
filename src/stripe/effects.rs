//! What projected objects cause beyond their own mirrors: the link between a Stripe customer and its org.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use serde_json::Value;

use super::shape::{self, ObjectRef};
use crate::billing::links::{self, Link};
use crate::error::Error;

/// The effects of a batch, gathered before they are written.
#[derive(Default)]
pub struct Effects {
    links: Vec<Link>,
}

impl Effects {
    /// Takes note of what the winning `snapshot` of `object` causes.
    pub fn consider(&mut self, object: &ObjectRef<'_>, snapshot: &Value) {
        self.links.extend(shape::link(object, snapshot));
    }

    /// Writes them, in the caller's transaction.
    ///
    /// # Errors
    /// When the database fails.
    pub fn write(
        &self,
        conn: &mut PgConnection,
        org_per_customer: bool,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        links::write(conn, &self.links, org_per_customer, now)
    }
}
