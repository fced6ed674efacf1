//! `coulomb audit`

use clap::Args;

use super::{Failure, open, out};
use crate::audit::read::{self, Filter};
use crate::billing::org_name::OrgName;
use crate::config::Config;
use crate::time::Moment;

#[derive(Args)]
pub(super) struct AuditArgs {
    /// Only entries that concern this org: its id (`org_…`) or your own id of it
    #[arg(long)]
    org: Option<String>,
    /// Only what this actor did: key:<id>, cli:<user>, stranger
    #[arg(long)]
    actor: Option<String>,
    /// Only this action, such as quota.update, or all of a noun: quota.
    #[arg(long)]
    action: Option<String>,
    /// Only what was done to the thing with this id
    #[arg(long)]
    target: Option<String>,
    /// Only what the request with this id did
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// At or after this time, such as 2026-11-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<Moment>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    before: Option<Moment>,
    /// At most this many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
}

pub(super) fn run(config: &Config, args: AuditArgs) -> Result<(), Failure> {
    let mut database = open::Database::open(config)?;
    let conn = &mut database.conn;
    let org_id = args.org.map(|org| OrgName::of_any(org, "--org").row_id(conn)).transpose()?;
    let filter = Filter {
        org_id,
        actor: args.actor,
        action: args.action,
        target: args.target,
        request_id: args.request_id,
        from: args.from.map(|at| at.0),
        before: args.before.map(|at| at.0),
        ..Filter::default()
    };
    for entry in read::list(conn, &filter, args.limit)? {
        out::line(serde_json::to_string(&entry)?)?;
    }
    Ok(())
}
