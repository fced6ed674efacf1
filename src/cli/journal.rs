//! `coulomb journal`

use std::fs;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::keys::record;
use super::{Failure, Usage, open};
use crate::closing::accounts_file::AccountsFile;
use crate::closing::chart::Receivables;
use crate::closing::journal::{self, JournalFormat, JournalOutput, JournalRequest};
use crate::config::Config;
use crate::db;
use crate::error::Error;
use crate::time::{Clock, Month};

#[derive(Args)]
pub(super) struct JournalArgs {
    /// The month, such as 2026-10
    #[arg(long)]
    month: Month,
    /// hledger, beancount, datev or csv
    #[arg(long)]
    format: String,
    /// TOML file that says which accounts to use; that of COULOMB_JOURNAL_ACCOUNTS when left out
    #[arg(long, value_name = "FILE")]
    accounts: Option<PathBuf>,
    /// Only what this seller booked
    #[arg(long)]
    seller: Option<String>,
    /// per-org: a receivable account for each org; single: one for all
    #[arg(long, default_value = "per-org")]
    receivables: String,
    /// The file to write; standard output when left out
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(config: &Config, args: &JournalArgs) -> Result<(), Failure> {
    let file = args.accounts.as_deref().or(config.journal_accounts.as_deref());
    let request = JournalRequest {
        month: args.month,
        format: JournalFormat::parse(&args.format).map_err(as_usage)?,
        seller: args.seller.clone(),
        receivables: Receivables::parse(&args.receivables).map_err(as_usage)?,
        accounts: file.map(AccountsFile::load).transpose().map_err(as_usage)?.unwrap_or_default(),
    };
    let mut database = open::Database::open(config)?;
    let now = Clock::system().now();
    let conn = &mut database.conn;
    let detail = json!({ "format": args.format, "seller": args.seller });
    db::run_once(conn, |conn| record(conn, "journal.export", &args.month.to_string(), detail.clone(), now))?;
    let mut write = |out: JournalOutput<'_>| {
        let mut snapshot = conn.build_transaction().repeatable_read().read_only();
        snapshot.run(|conn| journal::write(conn, &request, now, out)).map_err(as_usage)
    };
    let Some(path) = &args.out else {
        write(Box::new(BufWriter::new(io::stdout())))?;
        return Ok(());
    };
    // A file of this name is always complete.
    let failed = |error: io::Error| format!("{} cannot be written: {error}", path.display());
    let part = part_of(path);
    let out = fs::File::create(&part).map_err(failed)?;
    let entries = write(Box::new(BufWriter::new(out)))
        .and_then(|entries| {
            fs::File::open(&part).and_then(|file| file.sync_all()).map_err(failed)?;
            fs::rename(&part, path).map_err(failed)?;
            Ok(entries)
        })
        .inspect_err(|_| drop(fs::remove_file(&part)))?;
    eprintln!("{}: {entries} entries", path.display());
    Ok(())
}

fn part_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// A wrong argument or accounts file is an error of the command line.
fn as_usage(error: Error) -> Failure {
    match error {
        Error::Invalid { .. } => Usage::new(error.to_string()),
        error => error.into(),
    }
}
