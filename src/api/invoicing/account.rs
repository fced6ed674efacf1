//! `/v1/orgs/{id}/account`: what an org owes, and how that came about.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::audit;
use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey};
use crate::api::reads::ReadRequest;
use crate::auth::Scope;
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::invoicing::account::statement::{self, AccountBalance, AccountStatement, Days, EntryPlace};
use crate::invoicing::commands::{self, AdjustmentBody};
use crate::page::PageQuery;
use crate::time::Day;

/// What an org owes.
#[derive(Debug, Serialize, ToSchema)]
pub struct AccountBalances {
    /// Public id of the org.
    pub org: String,
    /// One for each currency that something was booked in.
    pub balances: Vec<AccountBalance>,
}

/// Shows what an org owes, by currency.
#[utoipa::path(
    get, path = "/v1/orgs/{id}/account", tag = "accounts",
    params(("id" = String, Path, description = "Public or external id of the org")),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "The balances", body = AccountBalances), FindErrors)
)]
pub(crate) async fn show(read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let (name, directory) = (OrgName::must(&read.principal, Some(id.into_inner()), "id")?, read.directory());
    read.show(move |conn| {
        let org = name.find(&directory, conn)?;
        let balances = statement::balances(conn, org.org_id)?;
        Ok(AccountBalances { org: org.public_id.to_string(), balances })
    })
    .await
}

/// Which entries a statement shows.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StatementQuery {
    /// Three lower-case letters.
    currency: String,
    /// First day of the books, in the seller's zone. Left out: from the first entry on.
    from: Option<Day>,
    /// Day after the last one. Left out: up to the last entry.
    before: Option<Day>,
}

/// Shows a statement of an account: the opening balance, the entries in the order of their days, and the
/// closing balance.
///
/// The opening balance and the amounts of all entries make the closing balance. Amounts above 0 raise what
/// the org owes.
#[utoipa::path(
    get, path = "/v1/orgs/{id}/account/statement", tag = "accounts",
    params(
        ("id" = String, Path, description = "Public or external id of the org"),
        StatementQuery,
        PageQuery
    ),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "The statement", body = AccountStatement), FindErrors)
)]
pub(crate) async fn show_statement(
    mut read: ReadRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let query: StatementQuery = read.take()?;
    let page = read.take_page::<EntryPlace>("account_statement")?;
    let days = Days { from: query.from.map(|day| day.0), before: query.before.map(|day| day.0) };
    if days.from.zip(days.before).is_some_and(|(from, before)| from >= before) {
        return Err(Error::invalid("before", "must be after `from`"));
    }
    let (name, directory) = (OrgName::must(&read.principal, Some(id.into_inner()), "id")?, read.directory());
    let noted = name.clone();
    read.note("account.read", "statement", move |conn| noted.row_id(conn)).await?;
    read.show(move |conn| {
        let org = name.find(&directory, conn)?;
        statement::statement(conn, (org.org_id, &org.public_id), &query.currency, days, &page)
    })
    .await
}

/// What an adjustment booked.
#[derive(Debug, Serialize, ToSchema)]
pub struct AdjustedAccount {
    /// `adj_…`, or `opn_…` for an opening balance.
    pub id: String,
    /// Number of its entry in the account.
    pub sequence: i64,
    /// The account as it is now.
    pub account: AccountBalance,
}

/// Corrects an account by hand: credit below 0, a debt above 0.
///
/// Credit pays the oldest debts. What is left pays the next invoice.
#[utoipa::path(
    post, path = "/v1/orgs/{id}/account/adjustments", tag = "accounts",
    params(("id" = String, Path, description = "Public or external id of the org"), IdempotencyKey),
    request_body = AdjustmentBody, security(("key" = ["billing:write"])),
    responses((status = 201, description = "What was booked", body = AdjustedAccount), CommandErrors)
)]
pub(crate) async fn adjust(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let (name, body): (_, AdjustmentBody) = (OrgName::of_any(id.into_inner(), "id"), command.read()?);
    let directory = command.directory();
    command
        .run_and_wake(move |conn, now| {
            let org = name.find(&directory, conn)?;
            let (id, sequence) = commands::adjust(conn, &org, &body, now)?;
            let all = statement::balances(conn, org.org_id)?;
            let account = all.into_iter().find(|balance| balance.currency == body.currency);
            let account = account.ok_or_else(|| Error::Internal("an account without a row".to_owned()))?;
            let detail = json!({ "amount": body.amount, "currency": body.currency, "reason": body.reason,
                "opening_balance": body.opening_balance, "sequence": sequence });
            let audit = audit(&org, "account.adjust", &id, detail);
            Answer::new(StatusCode::CREATED, &AdjustedAccount { id, sequence, account }, audit)
        })
        .await
}
