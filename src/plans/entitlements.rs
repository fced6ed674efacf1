//! What an org is entitled to, in one answer: plan, features, subscription, quotas with their use.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::billing::directory::{OrgContext, Pause, Paying};
use crate::billing::plans::Features;
use crate::quota::entitlements::{EntitledBattery, EntitledQuota, OrgEntitlements};

/// What an org is entitled to.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Entitlements {
    /// Public id of the org.
    pub org: String,
    /// Its plan; null: none.
    pub plan: Option<PlanInForce>,
    /// When the plan ends by itself: a grace is over, or a local subscription.
    pub plan_until: Option<DateTime<Utc>>,
    /// Features of the plan, as they were put: an object, or a list of names.
    #[schema(value_type = Features)]
    pub features: Value,
    /// The subscription that counts; null: the org has none.
    pub subscription: Option<SubscriptionInForce>,
    /// Where several subscriptions give the org a plan, all of them: it pays more than once. The plan of the
    /// highest rank counts.
    pub paying: Vec<Paying>,
    /// Every limit that holds for it.
    pub quotas: Vec<EntitledQuota>,
    /// What its battery holds.
    pub battery: EntitledBattery,
}

/// A plan in the version that the org has.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PlanInForce {
    /// Its key.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The version that its subscription bought, or was moved to.
    pub version: i32,
    /// No subscription gives the org a plan: this is the default one.
    pub default: bool,
}

/// A subscription, in short.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SubscriptionInForce {
    /// `sub_…` or `lsub_…`.
    pub id: String,
    /// `stripe` or `local`.
    pub source: String,
    /// As Stripe says it; of a local one: trial, active, past_due (its grace runs), expired or cancelled.
    pub status: String,
    /// End of its trial, also of a past one.
    pub trial_end: Option<DateTime<Utc>>,
    /// Start of its present period.
    pub current_period_start: Option<DateTime<Utc>>,
    /// End of its present period.
    pub current_period_end: Option<DateTime<Utc>>,
    /// Whether it ends with its period.
    pub cancel_at_period_end: bool,
    /// When it will be canceled.
    pub cancel_at: Option<DateTime<Utc>>,
    /// Its invoices are not collected meanwhile, and the plan stays; null: they are.
    pub pause_collection: Option<Pause>,
}

impl Entitlements {
    /// The answer at `now`.
    #[must_use]
    pub fn new(entitlements: OrgEntitlements, now: DateTime<Utc>) -> Self {
        let OrgEntitlements { org, plan, quotas, battery } = entitlements;
        let in_force = plan.as_ref().map(|plan| PlanInForce {
            id: org.plan.clone().unwrap_or_default(),
            name: plan.name.clone(),
            version: plan.version.version,
            default: org.by_default,
        });
        Self {
            org: org.public_id.to_string(),
            plan: in_force,
            plan_until: org.plan_until,
            features: plan.map_or_else(|| json!({}), |plan| plan.version.terms.features.clone()),
            subscription: subscription(&org, now),
            paying: org.paying.to_vec(),
            quotas,
            battery,
        }
    }
}

fn subscription(org: &Arc<OrgContext>, now: DateTime<Utc>) -> Option<SubscriptionInForce> {
    let counting = org.subscription.clone()?;
    let period = if counting.source == "local" {
        org.billing_bounds(now).filter(|_| counting.period.is_some())
    } else {
        counting.period
    };
    Some(SubscriptionInForce {
        id: counting.id,
        source: counting.source,
        status: counting.status,
        trial_end: counting.trial_end,
        current_period_start: period.map(|(start, _)| start),
        current_period_end: period.map(|(_, end)| end),
        cancel_at_period_end: counting.cancel_at_period_end,
        cancel_at: counting.cancel_at,
        pause_collection: counting.pause,
    })
}

/// The entity tag of a body. It is weak, for the answer may be compressed.
#[must_use]
pub fn etag(body: &[u8]) -> String {
    format!("W/\"{}\"", hex::encode(&Sha256::digest(body)[..16]))
}

/// Whether one of the tags of an `If-None-Match` is this one (RFC 9110, 13.1.2: compared weakly).
#[must_use]
pub fn is_named_by(tag: &str, if_none_match: &str) -> bool {
    fn opaque(tag: &str) -> &str {
        tag.strip_prefix("W/").unwrap_or(tag)
    }
    if_none_match.split(',').map(str::trim).any(|named| named == "*" || opaque(named) == opaque(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_weakly() {
        let tag = etag(b"{}");
        let strong = tag.trim_start_matches("W/");
        for (named, is) in [
            (tag.clone(), true),
            (strong.to_owned(), true),
            (format!("\"other\", {tag}"), true),
            ("*".to_owned(), true),
            ("\"other\"".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_named_by(&tag, &named), is, "{named}");
        }
        assert_ne!(tag, etag(b"[]"));
    }
}
