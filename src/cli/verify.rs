//! `coulomb verify`

use std::process::ExitCode;
use std::time::Instant;

use chrono::{Datelike, NaiveDate};
use clap::Args;
use diesel::pg::PgConnection;

use super::progress::Bar;
use super::{Failure, Usage, open, out};
use crate::billing::directory::Directory;
use crate::billing::org_name::OrgName;
use crate::config::Config;
use crate::erasure;
use crate::integrity::derived_tables::parts::CheckedRange;
use crate::integrity::{self, Checked};
use crate::time::Clock;

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
    let checked = integrity::verify(&mut database.conn, config, &clock, &scope, &mut |what, done, all| {
        bar.show(what, done, all);
    })?;
    bar.end();
    let erased = erasure::erased_events(&mut database.conn)?;
    if erased > 0 {
        eprintln!("{erased} Stripe events are erased: what is compared is what they still say");
    }
    print(&checked, started)
}

fn scope(conn: &mut PgConnection, directory: &Directory, args: &VerifyArgs) -> Result<CheckedRange, Failure> {
    let named = args.org.clone().map(|org| OrgName::of_any(org, "--org"));
    let org_id = named.map(|org| org.find(directory, conn)).transpose()?.map(|org| org.org_id);
    Ok(CheckedRange { org_id, from: args.from, before: args.to })
}

/// Differences go to standard output, what was compared to standard error.
fn print(checked: &[Checked], started: Instant) -> Result<ExitCode, Failure> {
    let mut differences = 0;
    for check in checked {
        for difference in &check.differences {
            out::line(difference)?;
        }
        differences += check.differences.len();
    }
    for Checked { check, compared, differences } in checked {
        eprintln!("{check}: {} differences; {compared}", differences.len());
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
