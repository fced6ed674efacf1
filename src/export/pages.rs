//! Fetches the rows of a query page by page, and merges those of its parts. PostgreSQL makes the next page
//! while this one is written, and memory use stays constant.

use std::collections::VecDeque;
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
    let mut parts = Vec::new();
    for (number, part) in query.parts.iter().enumerate() {
        let cursor = format!("{CURSOR}_{number}");
        query.declare_cursor(&cursor, part).execute(conn)?;
        let (columns, fetched) = (part.columns.len(), VecDeque::new());
        parts.push(FetchedPart { cursor, columns, fetched, rows: FIRST_PAGE_ROWS });
    }
    thread::scope(|scope| {
        let (pages, arrived) = sync_channel(1);
        let fetching = scope.spawn(move || fetch(conn, parts, &pages));
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
fn fetch(
    conn: &mut PgConnection,
    mut parts: Vec<FetchedPart>,
    pages: &SyncSender<Vec<Packed>>,
) -> Result<(), Error> {
    let (mut page, mut weight, mut rows) = (Vec::new(), 0, FIRST_PAGE_ROWS);
    while let Some(row) = next(conn, &mut parts)? {
        weight += row.len();
        page.push(row);
        if weight >= PAGE_BYTES || page.len() >= rows {
            rows = PAGE_ROWS;
            weight = 0;
            if pages.send(std::mem::take(&mut page)).is_err() {
                return Ok(());
            }
        }
    }
    if !page.is_empty() {
        // If nobody takes it, the reader has failed, and says why.
        drop(pages.send(page));
    }
    Ok(())
}

/// The rows of a part: those that are fetched, and the cursor that has the rest.
struct FetchedPart {
    cursor: String,
    columns: usize,
    fetched: VecDeque<Packed>,
    /// How many to fetch next.
    rows: usize,
}

impl FetchedPart {
    /// Fetches a page if there is no row left. False: there are no more rows.
    fn fill(&mut self, conn: &mut PgConnection) -> Result<bool, Error> {
        if !self.fetched.is_empty() {
            return Ok(true);
        }
        let sql = format!("FETCH FORWARD {} FROM {}", self.rows, self.cursor);
        self.fetched = diesel::sql_query(sql)
            .load_iter::<Packed, DefaultLoadingMode>(conn)?
            .collect::<QueryResult<_>>()?;
        let weight: usize = self.fetched.iter().map(Packed::len).sum();
        self.rows = (PAGE_BYTES * self.fetched.len() / weight.max(1)).clamp(1, PAGE_ROWS);
        Ok(!self.fetched.is_empty())
    }

    /// The place of the next row in the file.
    fn place(&self) -> Result<(bool, i64, &[u8]), Error> {
        let place = self.fetched.front().and_then(|row| row.place(self.columns));
        place.ok_or_else(|| Error::Internal("the place of a row cannot be read".to_owned()))
    }
}

/// The next row in the order of the file. Parts without rows are taken out.
fn next(conn: &mut PgConnection, parts: &mut Vec<FetchedPart>) -> Result<Option<Packed>, Error> {
    let mut index = 0;
    while let Some(part) = parts.get_mut(index) {
        if part.fill(conn)? {
            index += 1;
        } else {
            parts.remove(index);
        }
    }
    let mut first = 0;
    for index in 1..parts.len() {
        if parts[index].place()? < parts[first].place()? {
            first = index;
        }
    }
    Ok(parts.get_mut(first).and_then(|part| part.fetched.pop_front()))
}
