//! `coulomb doctor`: checks everything that a daemon needs, and says how to correct what is wrong.

mod plans;
mod server;
mod stripe;

use std::process::ExitCode;

use chrono::Utc;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};

use super::running::{self, Daemon};
use super::{Failure, Usage, ask, open, out};
use crate::battery::effects::waiting;
use crate::billing::acting_realms;
use crate::config::Config;
use crate::db::migrate::{self, State};
use crate::error::Error;
use crate::invoicing::{run, uncharged as uncharged_usage};
use crate::messages::state;
use crate::metering::{partitions, unpriced};
use crate::realm::ActingRealms;
use crate::stripe::inbox;

/// What a check found.
enum Finding {
    Good(String),
    /// It works, but somebody should know.
    Note(String),
    /// Says what is wrong and what to do.
    Bad(String),
}

/// Seconds. A clock further off makes Stripe's signatures fail sooner or later.
const CLOCK_SLACK_S: i64 = 60;

pub(super) fn run(own: Config) -> Result<ExitCode, Failure> {
    let daemons = running::all(&own);
    let mut report = Report::default();
    report.tell("daemon", daemon(&daemons, &own))?;
    let settings = running::find(&own).and_then(|found| match found {
        Some(daemon) => daemon.settings(own),
        None => Ok(own),
    });
    let config = settings?;
    report.tell("secrets", secrets(&config))?;
    match open::owner(&config) {
        Err(error) if error.is::<Usage>() => return Err(error),
        Err(error) => {
            let advice = "check DATABASE_URL, or COULOMB_DATA_DIR for the embedded server";
            report.tell("database", Finding::Bad(format!("{error}: {advice}")))?;
        }
        Ok((server, mut conn)) => {
            check_database(&mut conn, &config, &mut report)?;
            drop(conn);
            drop(server);
        }
    }
    Ok(ExitCode::from(if report.is_bad { 3 } else { 0 }))
}

/// Tells each finding as soon as it is known: a later check may take long.
#[derive(Default)]
struct Report {
    is_bad: bool,
}

impl Report {
    fn tell(&mut self, name: &str, finding: Finding) -> Result<(), Failure> {
        let (mark, text) = match finding {
            Finding::Good(text) => ("ok  ", text),
            Finding::Note(text) => ("note", text),
            Finding::Bad(text) => {
                self.is_bad = true;
                ("BAD ", text)
            }
        };
        out::line(format_args!("{mark} {name}: {text}"))
    }
}

type Configured = fn(&mut PgConnection, &Config) -> Result<Finding, Error>;

/// Runs all checks on the database.
fn check_database(conn: &mut PgConnection, config: &Config, report: &mut Report) -> Result<(), Failure> {
    let checks: [(&str, Check); 13] = [
        ("database", server::version),
        ("durability", server::durability),
        ("messages", server::messages),
        ("clock", server::clock),
        ("schema", schema),
        ("roles", roles),
        ("inbox", inbox),
        ("payments", payments),
        ("prices", prices),
        ("drafts", drafts),
        ("uncharged", uncharged),
        ("endpoints", endpoints),
        ("charges", stripe::charges),
    ];
    for (name, check) in checks {
        report.tell(name, check(conn).unwrap_or_else(unchecked))?;
    }
    let configured: [(&str, Configured); 4] =
        [("realms", realms), ("plans", plans::look), ("usage", usage), ("stripe", stripe::look)];
    for (name, check) in configured {
        report.tell(name, check(conn, config).unwrap_or_else(unchecked))?;
    }
    Ok(())
}

fn unchecked(error: Error) -> Finding {
    Finding::Bad(format!("could not be checked: {error}"))
}

/// Asks the running daemon.
fn daemon(daemons: &[Daemon], config: &Config) -> Finding {
    let none = || Finding::Note("none runs on this machine: `coulomb serve` starts one".to_owned());
    // Without a run file, a daemon or another program may still listen on the address of the settings.
    let (address, scheme, name) = match daemons {
        [] if config.listen.port() == 0 => return none(),
        [] => {
            let scheme = if config.tls_cert.is_some() { "https" } else { "http" };
            let address = ask::reachable(config.listen);
            if std::net::TcpStream::connect(address).is_err() {
                return none();
            }
            (address, scheme, format!("{scheme}://{address}"))
        }
        [daemon] => (daemon.address, daemon.scheme.as_str(), daemon.description()),
        daemons => {
            let names: Vec<String> = daemons.iter().map(Daemon::description).collect();
            return Finding::Note(format!("{} run: {}", daemons.len(), names.join("; ")));
        }
    };
    if scheme == "https" {
        return match std::net::TcpStream::connect(ask::reachable(address)) {
            Ok(_) => Finding::Good(format!("{name}: it listens; with TLS this command does not ask /readyz")),
            Err(error) => Finding::Bad(format!("{name}: {error}")),
        };
    }
    let version = match daemons {
        [daemon] if daemon.version != env!("CARGO_PKG_VERSION") => {
            format!("; it is version {}, this binary {}", daemon.version, env!("CARGO_PKG_VERSION"))
        }
        _ => String::new(),
    };
    match ask::get(address, "/readyz") {
        Ok((200, _)) => Finding::Good(format!("{name}: ready{version}")),
        Ok((status, body)) => Finding::Bad(format!("{name}: not ready ({status}): {body}{version}")),
        Err(error) => Finding::Bad(format!("{name}: {error}{version}")),
    }
}

type Check = fn(&mut PgConnection) -> Result<Finding, Error>;

fn secrets(config: &Config) -> Finding {
    use secrecy::ExposeSecret;
    if config.stripe_webhook_secret.is_empty() {
        return Finding::Note("STRIPE_WEBHOOK_SECRET is not set: Stripe's webhooks are refused".to_owned());
    }
    if config.stripe_webhook_secret.iter().any(|secret| !secret.expose_secret().starts_with("whsec_")) {
        return Finding::Bad(
            "STRIPE_WEBHOOK_SECRET has a value that does not begin with whsec_: copy the \
            endpoint's signing secret, not an API key"
                .to_owned(),
        );
    }
    Finding::Good(format!("{} webhook signing secret(s)", config.stripe_webhook_secret.len()))
}

fn schema(conn: &mut PgConnection) -> Result<Finding, Error> {
    Ok(match migrate::state(conn) {
        Ok(State::Current) => Finding::Good("is this binary's".to_owned()),
        Ok(State::Absent) => Finding::Bad(
            "the database has no tables of Coulomb: is it the daemon's? `coulomb serve` or `coulomb migrate` \
             creates them"
                .to_owned(),
        ),
        Ok(State::Behind(lacking)) => Finding::Note(format!(
            "{} migration(s) to apply: `coulomb migrate`, or start the daemon",
            lacking.len()
        )),
        Err(error) => Finding::Bad(error.to_string()),
    })
}

fn roles(conn: &mut PgConnection) -> Result<Finding, Error> {
    Ok(if migrate::roles_are_usable(conn)? {
        Finding::Good("the daemon does not own its tables; row-level security holds".to_owned())
    } else {
        Finding::Note(
            "coulomb_platform and coulomb_org are missing or not ours: code alone keeps orgs apart; give \
                this user CREATEROLE, or have an administrator create both and grant them to it"
                .to_owned(),
        )
    })
}

#[derive(QueryableByName)]
struct Backlog {
    #[diesel(sql_type = BigInt)]
    pending: i64,
    #[diesel(sql_type = BigInt)]
    quarantined: i64,
}

fn inbox(conn: &mut PgConnection) -> Result<Finding, Error> {
    if !is_there(conn, "stripe_inbox_queue")? {
        return Ok(Finding::Note(
            "not there yet: `coulomb serve` or `coulomb migrate` creates it".to_owned(),
        ));
    }
    let backlog: Backlog = diesel::sql_query(
        "SELECT count(*) FILTER (WHERE quarantined_at IS NULL) AS pending,
             count(quarantined_at) AS quarantined FROM stripe_inbox_queue",
    )
    .get_result(conn)?;
    let unfiled = if is_there(conn, "stripe_arrivals")? { inbox::count_failed(conn)? } else { 0 };
    Ok(if unfiled > 0 {
        Finding::Bad(format!(
            "{unfiled} acknowledged delivery(ies) cannot be put into the inbox: `coulomb stripe inbox \
             unfiled` says why"
        ))
    } else if backlog.quarantined > 0 {
        let n = backlog.quarantined;
        Finding::Bad(format!(
            "{n} event(s) in quarantine: `coulomb stripe inbox list --state quarantined` says why, `… retry \
             --quarantined` tries again"
        ))
    } else {
        Finding::Good(format!("{} event(s) wait to be projected, none is quarantined", backlog.pending))
    })
}

/// Says which drafts of invoices cannot be finalised.
fn drafts(conn: &mut PgConnection) -> Result<Finding, Error> {
    if !is_there(conn, "own_invoices")? {
        return Ok(Finding::Note(
            "not there yet: `coulomb serve` or `coulomb migrate` creates them".to_owned(),
        ));
    }
    let waiting = run::waiting(conn)?;
    if waiting.is_empty() {
        return Ok(Finding::Good("no draft of an invoice waits".to_owned()));
    }
    let reasons: Vec<String> = waiting.iter().map(|(why, count)| format!("{count} for `{why}`")).collect();
    Ok(Finding::Note(format!(
        "drafts of invoices wait: {}; `GET /v1/invoices?origin=own&status=draft` lists them",
        reasons.join(", ")
    )))
}

/// Says which usage is on no invoice.
fn uncharged(conn: &mut PgConnection) -> Result<Finding, Error> {
    if !is_there(conn, "billing_profiles")? {
        return Ok(Finding::Note(
            "not there yet: `coulomb serve` or `coulomb migrate` creates them".to_owned(),
        ));
    }
    let (shown, days) = (10, uncharged_usage::DAYS);
    let found = uncharged_usage::list(conn, None, None, shown + 1, Utc::now())?;
    if found.is_empty() {
        return Ok(Finding::Good(format!(
            "all usage of the last {days} days lies in periods that are charged"
        )));
    }
    let is_more = i64::try_from(found.len()).is_ok_and(|count| count > shown);
    let says = |one: &uncharged_usage::UnchargedUsage| {
        let currency = one.currency.as_deref().unwrap_or("(no currency)");
        format!("{}: {} event(s), {} {currency}", one.org, one.events, one.cost.0)
    };
    let all: Vec<String> = found.iter().take(10).map(says).collect();
    Ok(Finding::Note(format!(
        "usage of the last {days} days is on no invoice, as no subscription covers its time: {}{}; `GET \
         /v1/usage/uncharged` lists it",
        all.join("; "),
        if is_more { "; and more" } else { "" }
    )))
}

/// Says which endpoints of messages fail, or were disabled because of it.
fn endpoints(conn: &mut PgConnection) -> Result<Finding, Error> {
    if !is_there(conn, "message_endpoints")? {
        return Ok(Finding::Note(
            "not there yet: `coulomb serve` or `coulomb migrate` creates them".to_owned(),
        ));
    }
    let troubled = state::troubled(conn, Utc::now() - chrono::TimeDelta::hours(1))?;
    if troubled.is_empty() {
        return Ok(Finding::Good("no endpoint of messages fails".to_owned()));
    }
    let says = |one: &state::Troubled| {
        let (id, url, since) = (&one.endpoint_id, &one.url, one.since.format("%F %R"));
        match one.disabled_reason.as_deref() {
            None => format!("{id} ({url}) has failed since {since}"),
            Some("gone") => format!("{id} ({url}) answered 410 and is disabled since {since}"),
            Some(_) => format!("{id} ({url}) failed for days and is disabled since {since}"),
        }
    };
    Ok(Finding::Bad(format!(
        "{}; `GET /v1/message_endpoints/{{id}}/deliveries` shows what waits. When the receiver works again, \
         set `enabled` to true, and replay what came meanwhile",
        troubled.iter().map(says).collect::<Vec<_>>().join("; ")
    )))
}

/// Says which of Stripe's realms act, and which are mirrored without effect.
fn realms(conn: &mut PgConnection, config: &Config) -> Result<Finding, Error> {
    if !is_there(conn, "stripe_trust")? {
        return Ok(Finding::Note(
            "not there yet: `coulomb serve` or `coulomb migrate` creates it".to_owned(),
        ));
    }
    let (acting, said) = (acting_realms::load(conn)?, config.acting_realms());
    if acting != said {
        return Ok(Finding::Note(format!(
            "{} acts, but the settings say {}: restart the daemon to apply them",
            describe(&acting),
            describe(&said)
        )));
    }
    let idle = acting_realms::idle(conn)?;
    if idle.is_empty() {
        return Ok(Finding::Good(format!(
            "{} acts, and Stripe has sent nothing of another realm",
            describe(&acting)
        )));
    }
    let idle: Vec<String> = idle
        .iter()
        .map(|(realm, objects)| {
            let mode = if realm.livemode { "live" } else { "test" };
            let account = if realm.account.is_empty() { "our own account" } else { &realm.account };
            format!("{objects} object(s) of {account} in {mode} mode")
        })
        .collect();
    Ok(Finding::Note(format!(
        "{} acts; mirrored without effect: {}. COULOMB_STRIPE_MODE and COULOMB_STRIPE_ACCOUNTS say what \
         acts",
        describe(&acting),
        idle.join(", ")
    )))
}

fn describe(trusted: &ActingRealms) -> String {
    let mode = if trusted.livemode() { "live" } else { "test" };
    let connected: Vec<&str> =
        trusted.accounts().iter().map(String::as_str).filter(|account| !account.is_empty()).collect();
    match connected.as_slice() {
        [] => format!("{mode} mode of our own account"),
        connected => format!("{mode} mode of our own account and of {}", connected.join(", ")),
    }
}

fn payments(conn: &mut PgConnection) -> Result<Finding, Error> {
    if !is_there(conn, "battery_effects_waiting")? {
        return Ok(Finding::Note(
            "not there yet: `coulomb serve` or `coulomb migrate` creates it".to_owned(),
        ));
    }
    Ok(match waiting::count(conn)? {
        0 => Finding::Good("every payment has charged its battery".to_owned()),
        n => Finding::Note(format!(
            "{n} effect(s) of payments on batteries wait: `coulomb battery waiting` says for what; link, \
             name, assign or dismiss them"
        )),
    })
}

fn prices(conn: &mut PgConnection) -> Result<Finding, Error> {
    if !is_there(conn, "unpriced_usage")? {
        return Ok(Finding::Note(
            "not there yet: `coulomb serve` or `coulomb migrate` creates it".to_owned(),
        ));
    }
    Ok(match unpriced::totals(conn)? {
        (0, _) => Finding::Good("all usage of meters with rate cards has a price".to_owned()),
        (events, meters) => Finding::Bad(format!(
            "{events} usage event(s) of {} fit no rate and cost nothing: GET /v1/usage/unpriced says which; \
             give the meter a rate card (backdated), then `coulomb meter rate-usage`",
            meters.join(", ")
        )),
    })
}

fn usage(conn: &mut PgConnection, config: &Config) -> Result<Finding, Error> {
    if !is_there(conn, "usage_records")? {
        return Ok(Finding::Note(
            "not there yet: `coulomb serve` or `coulomb migrate` creates it".to_owned(),
        ));
    }
    let now = Utc::now();
    let (lacking, strays) = partitions::state(conn, now, config.usage_window_back_days)?;
    let unclosed = partitions::month_waiting_for_closing(conn, config, now)?;
    Ok(if strays {
        Finding::Bad(
            "usage_partitions.usage_records_default holds rows, which Coulomb never writes there: move them \
             into the month's partition by hand"
                .to_owned(),
        )
    } else if let Some(month) = unclosed {
        Finding::Note(format!(
            "{} is older than the retention, but not every org has closed it: close it \
             (POST /v1/usage/closings), and its records are dropped",
            month.format("%Y-%m")
        ))
    } else if lacking > 0 {
        Finding::Note(format!(
            "{lacking} month(s) from the window to {} ahead have no partition: the daemon creates them when \
             it runs",
            partitions::MONTHS_AHEAD
        ))
    } else {
        Finding::Good(format!(
            "every month from the window to {} ahead has a partition, and the default one is empty",
            partitions::MONTHS_AHEAD
        ))
    })
}

fn is_there(conn: &mut PgConnection, table: &str) -> Result<bool, Error> {
    let there = diesel::dsl::sql::<diesel::sql_types::Bool>("to_regclass(").bind::<Text, _>(table);
    Ok(diesel::select(there.sql(") IS NOT NULL")).get_result(conn)?)
}
