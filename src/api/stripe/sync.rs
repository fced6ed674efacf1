//! What the daemon reads at Stripe: accounts, runs and differences.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey, ReadErrors};
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::{PLATFORM, Scope};
use crate::error::Error;
use crate::page::{Page, PageQuery};
use crate::stripe::sync::accounts::{self, Account};
use crate::stripe::sync::drift::{self, Drift, DriftFilter};
use crate::stripe::sync::runs::{self, KindTally, Run, RunKind};

/// Runs that the overview shows.
const NEWEST_RUNS: i64 = 20;

/// How far the daemon has come with each account.
#[derive(Serialize, ToSchema)]
pub struct SyncState {
    /// The accounts that the daemon reads; empty: it has no key of Stripe, or has not called yet.
    pub accounts: Vec<Account>,
    /// The newest backfills and comparisons.
    pub runs: Vec<Run>,
}

/// A run, and what it found of each kind.
#[derive(Serialize, ToSchema)]
pub struct RunWithKinds {
    #[serde(flatten)]
    pub run: Run,
    /// In the order in which they are read.
    pub kinds: Vec<KindTally>,
}

/// Shows which accounts of Stripe the daemon reads, and the newest runs.
#[utoipa::path(
    get,
    path = "/v1/stripe/sync",
    tag = "stripe",
    security(("key" = ["admin"])),
    responses((status = 200, description = "Accounts and runs", body = SyncState), ReadErrors)
)]
pub(crate) async fn state(read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require_platform(Scope::Admin)?;
    read.show(|conn| Ok(SyncState { accounts: accounts::list(conn)?, runs: runs::list(conn, NEWEST_RUNS)? }))
        .await
}

/// Shows a run with its figures by kind of object.
#[utoipa::path(
    get,
    path = "/v1/stripe/sync/{run_id}",
    tag = "stripe",
    params(("run_id" = i64, Path, description = "Number of the run")),
    security(("key" = ["admin"])),
    responses((status = 200, description = "The run", body = RunWithKinds), FindErrors)
)]
pub(crate) async fn show(read: ReadRequest, run_id: web::Path<i64>) -> Result<HttpResponse, Error> {
    read.principal.require_platform(Scope::Admin)?;
    read.show(move |conn| {
        Ok(RunWithKinds { run: runs::find(conn, *run_id)?, kinds: runs::by_kind(conn, *run_id)? })
    })
    .await
}

/// Which account to read, and how much of it.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRun {
    /// `acct_…` of a connected account that the settings name; left out: our own.
    #[serde(default)]
    account: String,
    /// `backfill` when left out.
    kind: Option<RunKind>,
}

/// Begins a run: a backfill of an account, or a comparison. One that goes on already is that run.
#[utoipa::path(
    post,
    path = "/v1/stripe/sync",
    tag = "stripe",
    params(IdempotencyKey),
    request_body = NewRun,
    security(("key" = ["admin"])),
    responses((status = 202, description = "The run", body = Run), CommandErrors)
)]
pub(crate) async fn begin(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::Admin)?;
    let asked: NewRun = command.read_optional()?;
    if command.app.stripe.is_none() {
        return Err(Error::conflict("no_stripe_key", "set STRIPE_SECRET_KEY, so that the daemon may read"));
    }
    let realm = command.app.config.acting_realms().of_account(asked.account)?;
    let kind = asked.kind.unwrap_or(RunKind::Backfill);
    let (by, now) = (command.actor(), command.app.clock.now());
    command
        .run(move |conn, _| {
            let run_id = runs::request(conn, &realm, kind, &by, now)?;
            let audit = AuditEntry {
                org_id: PLATFORM,
                action: "stripe_sync.begin",
                target: run_id.to_string(),
                detail: json!({ "account": realm.account, "kind": kind }),
            };
            Answer::new(StatusCode::ACCEPTED, &runs::find(conn, run_id)?, audit)
        })
        .await
}

/// Lists where the mirrors differed from Stripe, and which input repaired it, the newest first.
#[utoipa::path(
    get,
    path = "/v1/stripe/drift",
    tag = "stripe",
    params(DriftFilter, PageQuery),
    security(("key" = ["admin"])),
    responses((status = 200, description = "A page", body = Page<Drift>), ReadErrors)
)]
pub(crate) async fn drift(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require_platform(Scope::Admin)?;
    let (filter, page): (DriftFilter, _) = (read.take()?, read.take_page::<i64>("stripe_drift")?);
    read.list(
        page,
        |one: &Drift| one.drift_id,
        move |conn, page| Ok(drift::list(conn, &filter, page.after, page.to_fetch())?),
    )
    .await
}
