//! `coulomb stripe …`

mod meters;
mod preview;
mod sync;

use clap::Subcommand;

use super::inbox::{self, InboxCommand};
use super::{Failure, Usage};
use crate::config::Config;
use crate::stripe::client::StripeClient;

/// What to do with Stripe.
#[derive(Subcommand)]
pub(super) enum StripeCommand {
    /// The inbox: Stripe events as received
    #[command(subcommand)]
    Inbox(InboxCommand),
    /// Bring in a whole account, and print what was found
    ///
    /// Needs STRIPE_SECRET_KEY. It reads the account itself, or watches the daemon that reads it. It goes on
    /// where an earlier run was stopped.
    Sync(sync::SyncArgs),
    /// List where the mirrors differed from Stripe, newest first, as JSON lines
    Drift(sync::DriftArgs),
    /// Which way the usage of each meter goes to Stripe
    #[command(subcommand)]
    Meters(meters::MetersCommand),
    /// Show what the next Stripe invoice of an org will hold, by our books
    Preview(preview::PreviewArgs),
}

pub(super) fn run(config: &Config, command: StripeCommand) -> Result<(), Failure> {
    match command {
        StripeCommand::Inbox(command) => inbox::run(config, command),
        StripeCommand::Sync(args) => sync::sync(config, &args),
        StripeCommand::Drift(args) => sync::list_drift(config, args),
        StripeCommand::Meters(command) => meters::run(config, command),
        StripeCommand::Preview(args) => preview::run(config, &args),
    }
}

/// The client of the settings.
fn client(config: &Config) -> Result<StripeClient, Failure> {
    StripeClient::from_config(config).ok_or_else(|| {
        Usage::new(
            "this calls Stripe, and there is no key: set STRIPE_SECRET_KEY to a secret or restricted key",
        )
    })
}
