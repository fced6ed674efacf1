//! The orgs that a daemon has in memory, and when it reads them again.

use std::time::Duration;

use coulomb::billing::directory::{self, Change, Directory};
use coulomb::time::Clock;
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use reqwest::Method;
use serde_json::json;

use crate::support::daemon::answer;
use crate::support::events::{customer, event, subscription};
use crate::support::{Daemon, Database};

/// A directory with the orgs of these names, and the connection on which it listens.
struct Listener {
    directory: Directory,
    conn: PgConnection,
    names: Vec<String>,
}

impl Listener {
    fn of(database: &Database, names: &[&str]) -> Self {
        let directory = Directory::new(Clock::system(), 14);
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let mut listener = Self { directory, conn: database.platform(), names };
        listener.dropped();
        listener
    }

    /// The orgs that notifications have dropped from memory; reads all orgs again afterwards.
    fn dropped(&mut self) -> String {
        self.directory.listen(&mut self.conn).expect("listens");
        let gone = |name: &&String| self.directory.by_ref(name).is_none();
        let dropped: Vec<&str> = self.names.iter().filter(gone).map(String::as_str).collect();
        let dropped = dropped.join(" ");
        self.directory.load(&mut self.conn, &self.names, &[]).expect("reads");
        dropped
    }
}

/// A change of one org does not make a daemon read all orgs again.
#[tokio::test]
async fn only_the_orgs_that_changed_are_read_again() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read,billing:write", None);
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(daemon.org(&key, name, "UTC").await);
    }
    let mut held = Listener::of(&database, &["a", "b", "c"]);
    assert_eq!(held.dropped(), "", "no notification came");

    // Links: new ones, one that stays, one that moves to another org, and a command that overrides it.
    daemon.deliver(&event("evt_1", "customer.created", 1, customer("cus_a", Some("a")))).await;
    daemon.projected().await;
    assert_eq!(held.dropped(), "a");
    daemon.deliver(&event("evt_2", "customer.updated", 2, customer("cus_a", Some("a")))).await;
    daemon.projected().await;
    assert_eq!(held.dropped(), "", "its link did not change");
    daemon.deliver(&event("evt_3", "customer.created", 1, customer("cus_b", Some("a")))).await;
    daemon.projected().await;
    assert_eq!(held.dropped(), "a");
    daemon.deliver(&event("evt_4", "customer.updated", 2, customer("cus_b", Some("b")))).await;
    daemon.projected().await;
    assert_eq!(held.dropped(), "a b", "the org that loses the customer and the org that gets it");
    let path = format!("/v1/orgs/{}/stripe_customers/cus_b", ids[2]);
    answer(daemon.request(Method::PUT, &path, &key)).await;
    assert_eq!(held.dropped(), "b c");
    answer(daemon.request(Method::DELETE, &path, &key)).await;
    assert_eq!(held.dropped(), "b c");

    // Subscriptions of a customer with a link and of one without.
    for (n, (id, of, dropped)) in
        [("sub_a", "cus_a", "a"), ("sub_b", "cus_b", "b"), ("sub_n", "cus_n", "")].into_iter().enumerate()
    {
        let object = subscription(id, of, "active", "price_pro");
        daemon.deliver(&event(&format!("evt_s{n}"), "customer.subscription.created", 10, object)).await;
        daemon.projected().await;
        assert_eq!(held.dropped(), dropped, "{id}");
    }
    let past_due = subscription("sub_a", "cus_a", "past_due", "price_pro");
    daemon.deliver(&event("evt_s9", "customer.subscription.updated", 11, past_due)).await;
    daemon.projected().await;
    assert_eq!(held.dropped(), "a", "its price is the same");
    // The customer gets its link long after its subscription.
    daemon.deliver(&event("evt_5", "customer.created", 20, customer("cus_n", Some("c")))).await;
    daemon.projected().await;
    assert_eq!(held.dropped(), "c");

    let zone = json!({ "time_zone": "Europe/Berlin" });
    answer(daemon.request(Method::PATCH, &format!("/v1/orgs/{}", ids[1]), &key).json(&zone)).await;
    assert_eq!(held.dropped(), "b");
    let plan = json!({ "name": "Pro", "stripe_prices": ["price_pro"] });
    answer(daemon.request(Method::PUT, "/v1/plans/pro", &key).json(&plan)).await;
    assert_eq!(held.dropped(), "a b c", "a change of plans concerns all orgs");
    database.execute("NOTIFY coulomb_orgs, 'of a later release'");
    assert_eq!(held.dropped(), "a b c", "an unknown notification may concern any org");
}

/// Two transactions write a link and a subscription and do not see each other. Whichever commits last, the
/// org has the plan.
#[tokio::test]
async fn a_link_and_a_subscription_that_are_written_at_once_reach_the_org() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read,billing:write", None);
    daemon.org(&key, "a", "UTC").await;
    let plan = json!({ "name": "Pro", "stripe_prices": ["price_pro"] });
    answer(daemon.request(Method::PUT, "/v1/plans/pro", &key).json(&plan)).await;
    let ended = subscription("sub_1", "cus_1", "canceled", "price_pro");
    daemon.deliver(&event("evt_1", "customer.subscription.created", 10, ended)).await;
    daemon.projected().await;
    let mut held = Listener::of(&database, &["a"]);
    let bought = |held: &Listener| held.directory.by_ref("a").expect("held").plan.clone();
    let mut slow = database.platform();

    // The subscription is written before the link exists, and commits after the link's notification.
    slow.batch_execute("BEGIN; UPDATE subscriptions SET status = 'active'").expect("writes");
    let subscribed = Change::Subscription(String::new(), false, "sub_1".to_owned());
    directory::changed(&mut slow, [subscribed]).expect("tells");
    daemon.deliver(&event("evt_2", "customer.created", 1, customer("cus_1", Some("a")))).await;
    daemon.projected().await;
    assert_eq!(held.dropped(), "a");
    assert_eq!(bought(&held), None);
    slow.batch_execute("COMMIT").expect("commits");
    assert_eq!(held.dropped(), "a");
    assert_eq!(bought(&held).as_deref(), Some("pro"));
}

/// A daemon reads orgs in use again before they are too old, so no request waits for the read.
#[tokio::test]
async fn what_is_in_use_is_renewed_ahead() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read,billing:write", None);
    for name in ["a", "b", "c"] {
        daemon.org(&key, name, "UTC").await;
    }
    let org_id =
        |name: &str| database.number(&format!("SELECT org_id FROM orgs WHERE external_id = '{name}'"));
    let (b, c) = (org_id("b"), org_id("c"));
    let mut held = Listener::of(&database, &["a", "b", "c"]);
    held.directory = Directory::new(Clock::system(), 14).renewed_from(Duration::ZERO);
    held.dropped();
    // No notification is sent.
    database.execute("UPDATE orgs SET time_zone = 'Asia/Tokyo'");
    held.directory.listen(&mut held.conn).expect("listens");
    let zone = |held: &Listener, name: &str| held.directory.by_ref(name).expect("held").zone.to_string();
    assert_eq!(zone(&held, "a"), "UTC", "requested and still valid");
    assert_eq!(held.directory.by_id(b).expect("held").zone.to_string(), "UTC");
    assert!(!held.directory.renew(&mut held.conn).expect("reads"), "nothing else is due");
    held.directory.listen(&mut held.conn).expect("listens");
    assert_eq!(zone(&held, "a"), "Asia/Tokyo");
    assert_eq!(held.directory.by_id(b).expect("held").zone.to_string(), "Asia/Tokyo");
    assert_eq!(held.directory.by_id(c).expect("held").zone.to_string(), "UTC", "it is not in use");
}
