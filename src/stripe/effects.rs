//! What projected objects cause beyond their own mirrors: the link between a Stripe customer and its org.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use serde_json::Value;

use super::shape::{ObjectRef, Reader};
use crate::billing::links::{self, Link, Source};
use crate::error::Error;

/// The effects of a batch, gathered before they are written.
#[derive(Default)]
pub struct Effects {
    links: Vec<Link>,
}

impl Effects {
    /// Takes note of what the winning `snapshot` of `object` causes.
    pub fn consider(&mut self, object: &ObjectRef<'_>, snapshot: &Value) {
        let reader = Reader::new(snapshot);
        match object.object {
            "customer" => self.links.push(Link {
                realm: object.realm.clone(),
                customer_id: object.id.to_owned(),
                source: Source::Metadata { org: reader.text("metadata.org_id") },
                name: reader.text("name").or_else(|| reader.text("email")),
            }),
            "checkout.session" => {
                if let Some(customer_id) = reader.id("customer") {
                    self.links.push(Link {
                        realm: object.realm.clone(),
                        customer_id,
                        source: Source::Session {
                            org: reader.text("client_reference_id"),
                            // Later sessions count more; the id decides within a second.
                            key: format!("{:012} {}", reader.seconds("created").unwrap_or(0), object.id),
                        },
                        name: None,
                    });
                }
            }
            _ => {}
        }
    }

    /// Writes them, in the caller's transaction.
    ///
    /// # Errors
    /// When the database fails.
    pub fn write(&self, conn: &mut PgConnection, org_per_customer: bool, now: DateTime<Utc>) -> Result<(), Error> {
        links::write(conn, &self.links, org_per_customer, now)
    }
}
