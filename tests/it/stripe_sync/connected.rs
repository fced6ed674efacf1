//! Connected accounts that the settings name are read like our own.

use super::{as_texts, settings, wait_for_projection, wait_until};
use crate::support::fake_stripe::FakeStripe;
use crate::support::{Daemon, Database};

#[test]
fn connected_accounts_are_read_too() {
    let fake = FakeStripe::start();
    fake.connect("acct_shop");
    fake.account("").populate(30, 1);
    fake.account("acct_shop").populate(60, 2);
    let database = Database::new();
    let mut settings = settings(&fake);
    settings.push(("COULOMB_STRIPE_ACCOUNTS", "acct_shop".to_owned()));
    let _daemon = Daemon::with(&database, &as_texts(&settings));
    wait_until("both runs end", || {
        database.number("SELECT count(*) FROM stripe_sync_runs WHERE state = 'done'") == 2
    });
    wait_for_projection(&database);
    let theirs = fake.account("acct_shop").ids("customer").len();
    let ours = "SELECT count(*) FROM customers WHERE account = 'acct_shop' AND NOT deleted";
    assert_eq!(database.number(ours), i64::try_from(theirs).expect("a count"));
    assert_eq!(
        database.number("SELECT count(*) FROM stripe_inbox WHERE account NOT IN ('', 'acct_shop')"),
        0
    );
}
