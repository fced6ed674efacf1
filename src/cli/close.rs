//! `coulomb close`

use std::io::Write;

use clap::Args;
use diesel::pg::PgConnection;
use serde_json::json;

use super::keys::{actor, record};
use super::{Failure, Usage, open, out};
use crate::closing::exports::{self, ClosedRows};
use crate::closing::month::{self, Maker, StoredManifest};
use crate::config::Config;
use crate::db;
use crate::time::{Clock, Month};

#[derive(Args)]
pub(super) struct CloseArgs {
    /// The month, such as 2026-10
    #[arg(required_unless_present = "show")]
    month: Option<Month>,
    /// Close nothing: print the manifest of this closed month
    #[arg(long, value_name = "MONTH", conflicts_with = "month")]
    show: Option<Month>,
    /// With --show: print rows of the month instead, as CSV: usage, documents or entries
    #[arg(long, value_name = "KIND", requires = "show")]
    of: Option<String>,
}

pub(super) fn run(config: &Config, args: &CloseArgs) -> Result<(), Failure> {
    let of = args
        .of
        .as_deref()
        .map(ClosedRows::parse)
        .transpose()
        .map_err(|error| Usage::new(error.to_string()))?;
    let mut database = open::Database::open(config)?;
    let conn = &mut database.conn;
    if let (Some(month), Some(of)) = (args.show, of) {
        return export(conn, month, of);
    }
    if let Some(month) = args.show {
        return print(&month::find(conn, month)?);
    }
    let Some(wanted) = args.month else {
        return Err(Usage::new("say which month to close, such as 2026-10"));
    };
    let now = Clock::system().now();
    db::run_once(conn, |conn| {
        month::close(conn, wanted, &actor(), now)?;
        record(conn, "month.close", &wanted.to_string(), json!({ "month": wanted }), now)
    })?;
    let manifest = month::complete(conn, wanted, &Maker::new(config, actor(), now)?)?;
    if manifest.signature.is_none() {
        eprintln!(
            "{wanted} is closed; its manifest is not signed, for COULOMB_CLOSING_KEY is not set: keep its \
             SHA-256 elsewhere"
        );
    }
    print(&manifest)
}

/// Writes rows of a closed month to standard output. The audit log gets an entry first.
fn export(conn: &mut PgConnection, month: Month, of: ClosedRows) -> Result<(), Failure> {
    let manifest = month::find(conn, month)?;
    let detail = json!({ "of": of.name(), "sha256": manifest.manifest[of.name()]["sha256"] });
    db::run_once(conn, |conn| {
        record(conn, "month.export", &month.to_string(), detail.clone(), Clock::system().now())
    })?;
    let mut rows = std::io::BufWriter::new(std::io::stdout().lock());
    conn.build_transaction()
        .repeatable_read()
        .read_only()
        .run(|conn| exports::write(conn, of, month.first_day(), &mut rows))?;
    Ok(rows.flush()?)
}

fn print(manifest: &StoredManifest) -> Result<(), Failure> {
    out::line(serde_json::to_string_pretty(manifest)?)
}
