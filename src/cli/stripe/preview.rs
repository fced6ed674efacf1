//! `coulomb stripe preview`

use clap::Args;

use crate::billing::directory::Directory;
use crate::billing::org_name::OrgName;
use crate::charging::preview;
use crate::cli::{Failure, as_usage, open};
use crate::config::Config;
use crate::time::Clock;

#[derive(Args)]
pub(in crate::cli) struct PreviewArgs {
    /// The org, by public or external id
    #[arg(long)]
    org: String,
    /// A connected account (acct_…) that the settings name; our own when left out
    #[arg(long, default_value = "")]
    account: String,
}

pub(in crate::cli) fn run(config: &Config, args: &PreviewArgs) -> Result<(), Failure> {
    let realm = config.acting_realms().of_account(args.account.clone()).map_err(as_usage)?;
    let mut database = open::Database::open(config)?;
    let clock = Clock::system();
    let directory = Directory::new(clock.clone(), config.past_due_grace_days);
    let org = OrgName::of_any(args.org.clone(), "org").find(&directory, &mut database.conn)?;
    let shown = preview::of_org(&mut database.conn, &org, &realm, clock.now())?;
    println!("{}", serde_json::to_string_pretty(&shown)?);
    Ok(())
}
