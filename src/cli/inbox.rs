//! `coulomb stripe inbox …`

use std::io::Write;

use clap::{Args, Subcommand};

use super::{Failure, open};
use crate::config::Config;
use crate::stripe::inbox::{self, State};

#[derive(Subcommand)]
pub(super) enum InboxCommand {
    /// List events, newest first, as JSON lines
    List(ListArgs),
    /// List acknowledged deliveries that are not in the inbox yet, as JSON lines; failed ones first
    Unfiled {
        /// At most this many
        #[arg(long, default_value_t = 50)]
        limit: i64,
    },
    /// Count stored and quarantined events by type
    Types,
    /// Print an event, why it failed, and its body as received
    Show {
        /// Its number in the inbox
        inbox_id: i64,
        /// Print nothing but the body
        #[arg(long)]
        body: bool,
    },
    /// Project an event again; with --quarantined, all quarantined ones
    Retry {
        /// Its number in the inbox
        #[arg(required_unless_present = "quarantined")]
        inbox_id: Option<i64>,
        /// Every quarantined event
        #[arg(long, conflicts_with = "inbox_id")]
        quarantined: bool,
    },
}

#[derive(Args)]
pub(super) struct ListArgs {
    /// Only events in this state: pending, quarantined, done or needs_fetch
    #[arg(long)]
    state: Option<State>,
    /// Only events with this id, type or object id
    #[arg(long, value_name = "ID_OR_TYPE")]
    about: Option<String>,
    /// At most this many
    #[arg(long, default_value_t = 50)]
    limit: i64,
}

pub(super) fn run(config: &Config, command: InboxCommand) -> Result<(), Failure> {
    let mut database = open::Database::open(config)?;
    let conn = &mut database.conn;
    let mut out = std::io::stdout().lock();
    match command {
        InboxCommand::List(args) => {
            for entry in inbox::list(conn, args.state, args.about.as_deref(), None, args.limit)? {
                writeln!(out, "{}", serde_json::to_string(&entry)?)?;
            }
        }
        InboxCommand::Unfiled { limit } => {
            for delivery in inbox::unfiled(conn, limit)? {
                writeln!(out, "{}", serde_json::to_string(&delivery)?)?;
            }
        }
        InboxCommand::Types => {
            for count in inbox::count_by_type(conn)? {
                writeln!(out, "{}", serde_json::to_string(&count)?)?;
            }
        }
        InboxCommand::Show { inbox_id, body } => {
            let (entry, bytes, redeliveries) = inbox::find(conn, inbox_id)?;
            if !body {
                writeln!(out, "{}\nredeliveries: {redeliveries}", serde_json::to_string_pretty(&entry)?)?;
            }
            out.write_all(&bytes)?;
            writeln!(out)?;
        }
        InboxCommand::Retry { inbox_id: Some(inbox_id), .. } => {
            inbox::retry(conn, inbox_id)?;
            writeln!(out, "1 event is on the queue")?;
        }
        InboxCommand::Retry { .. } => writeln!(out, "{} events are on the queue", inbox::retry_all(conn)?)?,
    }
    Ok(())
}
