//! The `coulomb` command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use coulomb::db::embedded::{GuardArgs, run_guard};

/// A billing and metering daemon beside one PostgreSQL.
#[derive(Parser)]
#[command(name = "coulomb", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the private PostgreSQL server of a data directory until standard input ends.
    #[command(hide = true)]
    Postgres(GuardArgs),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Postgres(args) => run_guard(&args),
    }
}
