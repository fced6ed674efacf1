//! `/v1/journals/{month}`: double entries for bookkeeping.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{download, named};
use crate::api::described::FindErrors;
use crate::api::reads::ReadRequest;
use crate::auth::Scope;
use crate::closing::accounts_file::AccountsFile;
use crate::closing::chart::Receivables;
use crate::closing::journal::{self, JournalFormat, JournalRequest};
use crate::error::Error;
use crate::time::Month;

/// Which journal.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct JournalQuery {
    /// hledger, beancount, datev or csv
    #[param(pattern = "^(hledger|beancount|datev|csv)$")]
    format: String,
    /// Only what this seller booked; DATEV's books are one seller's
    #[param(min_length = 1)]
    seller: Option<String>,
    /// per-org (a receivable account for each org) or single; per-org when left out
    #[param(pattern = "^(per-org|single)$")]
    receivables: Option<String>,
}

/// A month's double entries, for bookkeeping.
///
/// Accounts are those of the file that the setting `COULOMB_JOURNAL_ACCOUNTS` names, and built-in ones. The
/// journal of a closed month is the same for ever with the same accounts.
#[utoipa::path(
    get, path = "/v1/journals/{month}", tag = "closings",
    params(("month" = Month, Path, description = "The month, such as `2026-10`"), JournalQuery),
    security(("key" = ["billing:read"])),
    responses(
        (status = 200, description = "The journal", headers(
            ("Coulomb-Content-SHA256" = String, description = "SHA-256 of the file, in hexadecimal")
        ), content((String = "text/plain"), (String = "text/csv"))),
        FindErrors
    )
)]
pub(crate) async fn show(
    mut read: ReadRequest,
    request: HttpRequest,
    month: web::Path<String>,
) -> Result<HttpResponse, Error> {
    read.principal.require_platform(Scope::BillingRead)?;
    let asked: JournalQuery = read.take()?;
    read.params.done()?;
    let file = read.app.config.journal_accounts.as_deref();
    let wanted = JournalRequest {
        month: named(&month)?,
        format: JournalFormat::parse(&asked.format)?,
        seller: asked.seller,
        receivables: Receivables::parse(asked.receivables.as_deref().unwrap_or("per-org"))?,
        accounts: file.map(AccountsFile::load).transpose()?.unwrap_or_default(),
    };
    let now = read.app.clock.now();
    let file = download::File {
        name: wanted.format.file_name(wanted.month),
        content_type: wanted.format.content_type(),
        write: Arc::new(move |conn, out| journal::write(conn, &wanted, now, Box::new(out)).map(drop)),
    };
    download::respond(&read, &request, file).await
}
