//! What Stripe objects say of the org behind a customer.

use super::fields::ObjectFields;
use crate::billing::links::{Link, LinkSource};

/// `metadata.org_id` of a customer.
pub(in crate::stripe) fn from_customer(from: ObjectFields<'_>) -> Option<Link> {
    Some(Link {
        realm: from.object.realm.clone(),
        customer_id: from.object.id.to_owned(),
        source: LinkSource::Metadata { org: org(from.at("metadata").text("org_id")) },
        name: from.text("name").or_else(|| from.text("email")),
    })
}

/// `client_reference_id` of a checkout session that has a customer.
pub(in crate::stripe) fn from_session(from: ObjectFields<'_>) -> Option<Link> {
    Some(Link {
        realm: from.object.realm.clone(),
        customer_id: from.id("customer")?,
        source: LinkSource::Session {
            org: org(from.text("client_reference_id")),
            // Later sessions count more; the id decides within a second.
            key: format!("{:012} {}", from.integer("created").unwrap_or(0), from.object.id),
        },
        name: None,
    })
}

fn org(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}
