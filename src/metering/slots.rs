//! Slots: what is counted for quotas. Owns `quota_slots` and `quota_slot_orgs`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::windows::Window;
use crate::error::Error;
use crate::schema::{quota_slot_orgs, quota_slots};

/// The kind of period that a counter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum PeriodKind {
    /// An hour by UTC.
    Hour,
    /// A local day of the org.
    Day,
    /// Monday to Sunday in the org's zone.
    Week,
    /// A calendar month in the org's zone.
    Month,
    /// The billing period of the org's subscription; a calendar month while it has none.
    Billing,
    /// No period. Of a level meter: the level, which stays until it changes. Of any other meter: all usage
    /// ever recorded.
    Always,
    /// The last hours or days before any instant.
    Rolling(Window),
}

impl PeriodKind {
    /// The name in the database and in the API.
    #[must_use]
    pub fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Billing => "billing",
            Self::Always => "always",
            Self::Rolling(window) => return Cow::Owned(window.name()),
        })
    }

    /// The kind with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let named = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Billing, Self::Always];
        let named = named.into_iter().find(|kind| kind.name() == name);
        named.or_else(|| Window::parse(name).map(Self::Rolling))
    }

    /// The window, if it is one.
    #[must_use]
    pub fn window(self) -> Option<Window> {
        if let Self::Rolling(window) = self { Some(window) } else { None }
    }
}

impl From<PeriodKind> for String {
    fn from(kind: PeriodKind) -> Self {
        kind.name().into_owned()
    }
}

impl TryFrom<String> for PeriodKind {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let rule = "must be hour, day, week, month, billing or always, or a rolling window of";
        Self::parse(&name).ok_or_else(|| format!("{rule} {}", Window::RULE))
    }
}

impl PartialSchema for PeriodKind {
    fn schema() -> RefOr<Schema> {
        let meaning = "How long a counter runs. `hour`: by UTC. `day`, `week` (from Monday), `month`: in the \
            org's zone. `billing`: the billing period of its subscription; a month while it has none. \
            `always`: for ever; of a level meter the present level, of another meter all usage ever \
            recorded. `rolling_<n>h`, `rolling_<n>d`: the last n hours (1 to 744) or days (1 to 31) before \
            any instant, counted in segments of a 24th of the window.";
        let string = ObjectBuilder::new().schema_type(Type::String).description(Some(meaning));
        let pattern = "^(hour|day|week|month|billing|always|rolling_[1-9][0-9]{0,2}[hd])$";
        string.pattern(Some(pattern)).examples(["month", "rolling_24h"]).into()
    }
}

impl ToSchema for PeriodKind {}

/// What a counter counts: usage of a meter, with a filter, by a kind of period.
#[derive(Clone, Debug)]
pub struct Slot {
    pub slot_id: i32,
    /// A meter that adds up, or of `level`.
    pub meter_id: i32,
    /// Dimension to value: only usage with all of them counts.
    pub filter: BTreeMap<String, String>,
    /// One counter per subject instead of one for the org.
    pub per_subject: bool,
    pub period: PeriodKind,
    /// It counts for these orgs; `None`: for every org.
    pub orgs: Option<HashSet<i64>>,
}

impl Slot {
    /// Whether usage of this org with these dimensions is counted.
    #[must_use]
    pub fn counts(&self, org_id: i64, dimensions: &[(String, String)]) -> bool {
        self.orgs.as_ref().is_none_or(|orgs| orgs.contains(&org_id))
            && self.filter.iter().all(|(name, value)| dimensions.iter().any(|(n, v)| n == name && v == value))
    }
}

/// Every slot, in the order of their ids.
pub fn all(conn: &mut PgConnection) -> Result<Vec<Slot>, Error> {
    type SlotRow = (i32, i32, serde_json::Value, bool, String, bool);
    let rows: Vec<SlotRow> = quota_slots::table
        .select((
            quota_slots::slot_id,
            quota_slots::meter_id,
            quota_slots::filter,
            quota_slots::per_subject,
            quota_slots::period,
            quota_slots::everywhere,
        ))
        .order(quota_slots::slot_id)
        .load(conn)?;
    let mut orgs: BTreeMap<i32, HashSet<i64>> = BTreeMap::new();
    for (slot_id, org_id) in quota_slot_orgs::table
        .select((quota_slot_orgs::slot_id, quota_slot_orgs::org_id))
        .load::<(i32, i64)>(conn)?
    {
        orgs.entry(slot_id).or_default().insert(org_id);
    }
    rows.into_iter()
        .map(|(slot_id, meter_id, filter, per_subject, period, everywhere)| {
            let broken = |what: String| Error::Internal(format!("quota slot {slot_id}: {what}"));
            Ok(Slot {
                slot_id,
                meter_id,
                filter: serde_json::from_value(filter).map_err(|error| broken(error.to_string()))?,
                per_subject,
                period: PeriodKind::parse(&period).ok_or_else(|| broken(period.clone()))?,
                orgs: (!everywhere).then(|| orgs.remove(&slot_id).unwrap_or_default()),
            })
        })
        .collect()
}
