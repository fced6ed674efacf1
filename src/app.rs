//! The parts of the running program, for the daemon and for tests.

use std::sync::Arc;
use std::time::Duration;

use crate::audit::reads::NotedReads;
use crate::audit::tally::Tallies;
use crate::auth::keyring::Keyring;
use crate::battery::upkeep::Allowances;
use crate::billing::directory::Directory;
use crate::billing::org_plan::AsOf;
use crate::charging::Charger;
use crate::config::Config;
use crate::db::Db;
use crate::documents::html::Template;
use crate::egress::ClientOptions;
use crate::integrity::background::SummaryRepair;
use crate::limits::AddressLimits;
use crate::messages::sender::Sender;
use crate::metering::partitions::KnownPartitions;
use crate::metrics::Metrics;
use crate::quota::rulebook::RulebookCache;
use crate::quota::{QuotaContext, Quotas};
use crate::shares::{Shares, Turns};
use crate::stripe::bodies::Bodies;
use crate::stripe::inbox::InboxWriter;
use crate::stripe::signature::SigningSecrets;
use crate::stripe::sync::Sync;
use crate::threads::Threads;
use crate::time::Clock;
use crate::usage::ingest::Ingest;
use crate::wake::Wake;

/// Everything that requests and workers use. Its owner shares it by `Arc`.
pub struct App {
    pub config: Config,
    pub clock: Clock,
    pub db: Db,
    pub metrics: Metrics,
    /// Stores webhook deliveries.
    pub inbox: InboxWriter,
    /// Secrets with which Stripe may sign a webhook.
    pub signing_secrets: SigningSecrets,
    /// The daemon's own threads.
    pub threads: Threads,
    pub wake: Arc<Wake>,
    /// What is counted for the audit log.
    pub tallies: Tallies,
    /// Reads that have their entry in the audit log.
    pub noted_reads: NotedReads,
    /// How many requests each address may send; `None`: any number.
    pub addresses: Option<AddressLimits>,
    /// A cache of API keys, each valid for two seconds.
    pub keyring: Keyring,
    /// A cache of orgs.
    pub directory: Arc<Directory>,
    /// How usage is counted, and what limits it.
    pub rules: Arc<RulebookCache>,
    /// The way in for usage.
    pub usage: Ingest,
    /// Memory for the bodies of usage requests, in KiB.
    pub usage_memory: Arc<Shares>,
    /// Memory for the bodies of other requests with a key, in KiB.
    pub body_memory: Arc<Shares>,
    /// Memory for the bodies of webhooks, in bytes.
    pub delivery_memory: Arc<Bodies>,
    /// Partitions of usage records that are known to be there.
    pub partitions: Arc<KnownPartitions>,
    /// Where the look at past days has come to.
    pub summary_repair: SummaryRepair,
    /// Answers requests about quotas.
    pub quotas: Quotas,
    /// How far the daily allowances of batteries have been granted.
    pub allowances: Allowances,
    /// Places for exports; each export uses a database connection of its own.
    pub exports: Arc<Shares>,
    /// How documents look.
    pub template: Template,
    /// Sends messages.
    pub sender: Sender,
    /// Reads accounts at Stripe; `None` without a key.
    pub stripe: Option<Sync>,
    /// Charges usage through Stripe.
    pub charger: Charger,
    /// Turns to have a document made into a page.
    pub pages: Turns,
}

/// Documents that one key or org has made into pages at once.
const PAGES: usize = 2;

impl App {
    /// Creates all parts and starts their threads. The database must be migrated.
    #[must_use]
    pub fn new(config: Config, clock: Clock, db: Db) -> Self {
        let wake = Arc::new(Wake::default());
        let threads = Threads::default();
        let inbox = InboxWriter::start(
            &db,
            &threads,
            usize::from(config.inbox_writers),
            config.inbox_queue as usize,
            &wake,
        );
        let partitions = Arc::new(KnownPartitions::default());
        let usage_memory = Shares::new(config.usage_memory_mib as usize * 1024);
        let body_memory = Shares::new(config.body_memory_mib as usize * 1024);
        let delivery_memory = Bodies::new(config.webhook_memory_mib as usize * 1024 * 1024);
        let signing_secrets = {
            let secrets: Vec<&str> =
                config.stripe_webhook_secret.iter().map(secrecy::ExposeSecret::expose_secret).collect();
            SigningSecrets::new(&secrets)
        };
        let directory = Arc::new(Directory::new(clock.clone(), config.past_due_grace_days));
        let rules = Arc::<RulebookCache>::default();
        let context = QuotaContext {
            directory: Arc::clone(&directory),
            rules: Arc::clone(&rules),
            clock: clock.clone(),
            series: Arc::default(),
            partitions: Arc::clone(&partitions),
            db: db.clone(),
        };
        let quotas = Quotas::start(
            &db,
            context,
            &threads,
            usize::from(config.quota_writers),
            config.quota_queue as usize,
        );
        let usage = Ingest::start(&db, &quotas.context, &threads, &config);
        let addresses = AddressLimits::new(config.address_requests_per_minute);
        let options = ClientOptions {
            rules: config.message_targets(),
            timeout: Duration::from_secs(u64::from(config.message_timeout_s)),
        };
        let sender = Sender::start(&threads, options, clock.clone());
        let stripe = Sync::start(&config, &threads);
        let charger = Charger::new(&config);
        let exports = Shares::new(usize::from(config.exports));
        Self {
            config,
            clock,
            db,
            metrics: Metrics::default(),
            inbox,
            signing_secrets,
            threads,
            wake,
            tallies: Tallies::default(),
            noted_reads: NotedReads::default(),
            addresses,
            keyring: Keyring::default(),
            usage,
            usage_memory,
            body_memory,
            delivery_memory,
            partitions,
            summary_repair: SummaryRepair::default(),
            directory,
            rules,
            quotas,
            allowances: Allowances::default(),
            exports,
            template: Template::default(),
            sender,
            stripe,
            charger,
            pages: Turns::new(PAGES),
        }
    }

    /// With another look of documents.
    #[must_use]
    pub fn with_template(self, template: Template) -> Self {
        Self { template, ..self }
    }

    /// The time and the rules by which an org's plan is determined now.
    #[must_use]
    pub fn as_of(&self) -> AsOf {
        self.directory.as_of()
    }
}
