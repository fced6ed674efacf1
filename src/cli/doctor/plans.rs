//! Checks the orgs' plans: which plan orgs without one have, and who pays for several.

use chrono::Utc;
use diesel::prelude::*;

use super::{Finding, is_there};
use crate::billing::org_plan::AsOf;
use crate::billing::{orgs, plans};
use crate::config::Config;
use crate::error::Error;

/// Orgs to name at most.
const NAMED: i64 = 5;

pub(super) fn look(conn: &mut PgConnection, config: &Config) -> Result<Finding, Error> {
    if !is_there(conn, "plans")? {
        return Ok(Finding::Note(
            "not there yet: `coulomb serve` or `coulomb migrate` creates it".to_owned(),
        ));
    }
    if plans::ids(conn)?.is_empty() {
        return Ok(Finding::Good("there are none, so none limits any org".to_owned()));
    }
    let as_of = AsOf { now: Utc::now(), grace_days: config.past_due_grace_days };
    let default = match plans::default_plan(conn)? {
        Some(plan) => format!("orgs without a plan have `{plan}`"),
        None => {
            "no plan is the default one, so orgs without a plan (new, cancelled, expired, never paid) have \
                 no limits of a plan: mark one with `default = true` in the plans file"
                .to_owned()
        }
    };
    let (several, names) = orgs::pay_several_times(conn, as_of, NAMED)?;
    Ok(match several {
        0 if default.starts_with("orgs") => Finding::Good(default),
        0 => Finding::Note(default),
        _ => Finding::Note(format!(
            "{several} org(s) have several subscriptions that give a plan, such as {}: the plan of the \
             highest rank counts, and `paying` in their entitlements lists them; cancel those that are not \
             needed. Also, {default}",
            names.join(", ")
        )),
    })
}
