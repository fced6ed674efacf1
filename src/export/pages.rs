//! Fetches the rows of a query page by page. PostgreSQL makes the next page while this one is written, and
//! memory use stays constant.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use diesel::connection::DefaultLoadingMode;
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;

use super::query::Query;
use super::row::{Cell, Packed};
use crate::error::Error;
use crate::panics;

const CURSOR: &str = "coulomb_export";
/// Bytes of a page, about: rows with much metadata come in shorter pages.
const PAGE_BYTES: usize = 2 << 20;
const PAGE_ROWS: usize = 4_000;
const FIRST_PAGE_ROWS: usize = 250;

/// Calls `each` for every row of `query`, in order, inside the caller's transaction.
pub(super) fn each_row(
    conn: &mut PgConnection,
    query: &Query,
    mut each: impl FnMut(&[Cell<'_>]) -> Result<(), Error>,
) -> Result<(), Error> {
    let columns = query.of.columns();
    // A slow reader leaves the transaction idle between pages. The output limits that time, not the server.
    conn.batch_execute("SET LOCAL idle_in_transaction_session_timeout = 0")?;
    query.declare_cursor(CURSOR).execute(conn)?;
    thread::scope(|scope| {
        let (pages, arrived) = sync_channel(1);
        let fetching = scope.spawn(move || fetch(conn, &pages));
        for page in arrived {
            let page: Vec<Packed> = page;
            let mut cells = Vec::with_capacity(columns.len());
            panics::panic_if_test_asks("export", || query.of.name());
            for row in &page {
                row.unpack(columns, &mut cells)?;
                each(&cells)?;
            }
        }
        fetching.join().map_err(|_| Error::Internal("the thread that fetches rows panicked".to_owned()))?
    })
}

/// Sends pages until there are no more rows, or nobody takes them.
fn fetch(conn: &mut PgConnection, pages: &SyncSender<Vec<Packed>>) -> Result<(), Error> {
    let mut rows = FIRST_PAGE_ROWS;
    loop {
        let page: Vec<Packed> = diesel::sql_query(format!("FETCH FORWARD {rows} FROM {CURSOR}"))
            .load_iter::<Packed, DefaultLoadingMode>(conn)?
            .collect::<QueryResult<_>>()?;
        if page.is_empty() {
            return Ok(());
        }
        let weight: usize = page.iter().map(Packed::len).sum();
        rows = (PAGE_BYTES * page.len() / weight.max(1)).clamp(1, PAGE_ROWS);
        if pages.send(page).is_err() {
            return Ok(());
        }
    }
}
