//! The org of a customer, as Stripe objects name it.

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
            // The later session counts; of two in one second, the one with the greater id.
            key: format!("{:012} {}", from.integer("created").unwrap_or(0), from.object.id),
        },
        name: None,
    })
}

fn org(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}
