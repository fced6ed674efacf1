//! The types that the steps share, and the rules that need nothing but one of these types. Pure.

pub(crate) mod clawbacks;
pub(crate) mod decision;
pub(crate) mod facts;
pub(crate) mod line_keys;
pub(crate) mod source;

pub(crate) use clawbacks::{CauseKind, ClawbackCause, GrantClawbacks};
pub(crate) use decision::{
    Decision, EffectKind, Expiry, LineGrant, LineWait, UnusedTimeClawback, WaitReason,
};
pub(crate) use decision::{RepeatedLines, SourceDecision};
pub(crate) use facts::Facts;
pub(crate) use source::{SaleSource, SourceKind};

use chrono::TimeDelta;

use crate::error::Error;

/// How long a line waits for a fact that may never come. After that it is decided without the fact.
pub(crate) const GRACE: TimeDelta = TimeDelta::days(1);

/// Units that a decimal cannot hold.
pub(crate) fn units_too_large() -> Error {
    Error::Internal("the battery units of an effect are too large for a decimal".to_owned())
}
