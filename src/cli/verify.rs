//! `coulomb verify`

use std::process::ExitCode;
use std::time::Instant;

use chrono::{Datelike, NaiveDate};
use clap::Args;
use diesel::pg::PgConnection;

use super::progress::Bar;
use super::{Failure, Usage, open, out};
use crate::battery::{audit, effects};
use crate::billing::directory::Directory;
use crate::billing::org_name::OrgName;
use crate::config::Config;
use crate::time::Clock;
use crate::usage::derived_tables::Given;
use crate::usage::derived_tables::parts::Scope;
use crate::verify::{mirrors, usage};

#[derive(Args)]
pub(super) struct VerifyArgs {
    /// Only usage and quotas of this org, by its id (org_…) or external id
    #[arg(long, value_name = "ORG")]
    org: Option<String>,
    /// Only usage and quotas counted to this month or day, or later: 2026-10 or 2026-10-01
    #[arg(long, value_name = "MONTH", value_parser = day)]
    from: Option<NaiveDate>,
    /// Only usage and quotas counted before this month or day
    #[arg(long, value_name = "MONTH", value_parser = day)]
    to: Option<NaiveDate>,
}

/// The first day of a month, or a day.
fn day(text: &str) -> Result<NaiveDate, String> {
    let whole = if text.len() == "2026-10".len() { format!("{text}-01") } else { text.to_owned() };
    let written = whole.len() == "2026-10-01".len() && whole.is_ascii();
    let day = NaiveDate::parse_from_str(&whole, "%Y-%m-%d")
        .ok()
        .filter(|day| written && (1..=9999).contains(&day.year()));
    day.ok_or_else(|| "write a month as 2026-10, a day as 2026-10-01".to_owned())
}

/// The result of a part of the check.
struct Part {
    name: &'static str,
    compared: String,
    differences: Vec<String>,
}

pub(super) fn run(config: &Config, args: &VerifyArgs) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    if args.from.zip(args.to).is_some_and(|(from, to)| from >= to) {
        return Err(Usage::new("--from must be before --to: nothing was compared"));
    }
    let mut database = open::Database::open(config)?;
    let clock = Clock::system();
    let directory = Directory::new(clock.clone(), config.past_due_grace_days);
    let scope = scope(&mut database.conn, &directory, args)?;
    let bar = Bar::new();
    let conn = &mut database.conn;
    let mut parts = Vec::new();
    if scope.is_everything() {
        let found = mirrors::verify(conn, config.projection_batch, clock.now(), &mut |what, done, all| {
            bar.show(what, done, all);
        })?;
        let waiting = match found.waiting {
            0 => String::new(),
            waiting => format!(", {waiting} that wait or are quarantined left out"),
        };
        parts.push(Part {
            name: "mirrors",
            compared: format!(
                "{} Stripe events replayed{waiting}, {} rows compared",
                found.events, found.rows
            ),
            differences: found.differences,
        });
    }
    let found = usage::verify(conn, Given::new(config, clock.now()), &scope, &mut |what, done, all| {
        bar.show(what, done, all)
    })?;
    parts.push(Part {
        name: "usage",
        compared: format!("{} orgs, {} months counted again", found.orgs, found.months),
        differences: found.usage,
    });
    parts.push(Part {
        name: "quotas",
        compared: format!("{} counted quantities of {} orgs", found.slots, found.orgs),
        differences: found.quotas,
    });
    if scope.is_everything() {
        let found = audit::verify(conn, |done, all| bar.show("batteries", done, all))?;
        parts.push(Part {
            name: "batteries",
            compared: format!("{} ledgers added up", found.accounts),
            differences: found.differences,
        });
        let found = effects::verify::verify(conn, |done| bar.show("battery_effects", done, done))?;
        parts.push(Part {
            name: "effects",
            compared: format!("{} payments computed again", found.sources),
            differences: found.differences,
        });
    }
    bar.end();
    report(&parts, started)
}

fn scope(conn: &mut PgConnection, directory: &Directory, args: &VerifyArgs) -> Result<Scope, Failure> {
    let named = args.org.clone().map(|org| OrgName::of_any(org, "--org"));
    let org_id = named.map(|org| org.find(directory, conn)).transpose()?.map(|org| org.org_id);
    Ok(Scope { org_id, from: args.from, before: args.to })
}

/// Prints the differences on standard output, and what was compared on standard error.
fn report(parts: &[Part], started: Instant) -> Result<ExitCode, Failure> {
    let mut differences = 0;
    for part in parts {
        for difference in &part.differences {
            out::line(difference)?;
        }
        differences += part.differences.len();
    }
    for part in parts {
        eprintln!("{}: {} differences; {}", part.name, part.differences.len(), part.compared);
    }
    eprintln!("{differences} differences in {:.1} s", started.elapsed().as_secs_f64());
    Ok(ExitCode::from(if differences == 0 { 0 } else { 3 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_and_days_are_read() {
        let read = |text: &str| day(text).ok().map(|day| day.to_string());
        assert_eq!(read("2026-10").as_deref(), Some("2026-10-01"));
        assert_eq!(read("2026-10-31").as_deref(), Some("2026-10-31"));
        for wrong in ["", "2026", "2026-13", "2026-1-1", "2026-10-32", "+262142-01", "0000-01", "2026-10-1"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
