//! Exports for finance: rows in one of four formats, with control totals that the rows must add up to.
//!
//! One export is one read-only snapshot. PostgreSQL computes the totals first; then the rows are fetched in
//! pages, written one by one, added up, and compared with the totals. An export that does not add up fails;
//! it never looks complete.

mod audit;
mod battery;
mod billing;
mod breakdown;
mod charges;
pub(crate) mod csv;
mod drift;
mod jsonl;
mod kind;
mod pages;
mod params;
mod parquet;
mod query;
mod record;
mod row;
pub(crate) mod stream;
mod sum;
mod totals;
mod usage;
mod xlsx;
mod zone;

use std::io::Write;

use diesel::pg::PgConnection;

use crate::db::{self, Scope};
use crate::error::Error;
pub use audit::{AuditParams, AuditRows};
pub use battery::{BatteryParams, Entries};
pub use breakdown::{BreakdownExportParams, BreakdownRows};
pub use charges::{ChargeParams, ChargeRows};
pub use drift::{DriftParams, DriftRows};
pub use kind::ExportKind;
pub use params::{ExportParams, ExportRequest, Format};
use query::Query;
pub use record::{Ended, record};
pub use totals::Totals;
pub use usage::{UsageParams, UsageRows};

/// Writes rows in one format.
trait Writer {
    /// Writes a row: one cell for each column.
    fn row(&mut self, cells: &[row::Cell<'_>]) -> Result<(), Error>;
    /// Writes what follows the last row. Without it the output is incomplete.
    fn finish(self: Box<Self>) -> Result<(), Error>;
}

/// Where an export goes.
pub type Output<'a> = Box<dyn Write + Send + 'a>;

/// Writes the rows that `request` asks for and `scope` may see. Before the first row, `begin` takes the
/// control totals and returns the output. After each row, `wrote` takes the number of rows so far, and may
/// stop the export by an error.
///
/// # Errors
/// [`Error::Invalid`] or [`Error::NotFound`] when `request` names something that does not exist;
/// [`Error::Internal`] when the output fails or the rows do not add up: then the output is incomplete.
pub fn write<'a>(
    conn: &mut PgConnection,
    (scope, roles): (Scope, bool),
    request: &ExportRequest,
    begin: impl FnOnce(&Totals) -> Result<Output<'a>, Error>,
    mut wrote: impl FnMut(u64) -> Result<(), Error>,
) -> Result<Totals, Error> {
    db::read_snapshot(conn, scope, roles, |conn| {
        let query = Query::build(conn, request, scope)?;
        let expected = totals::compute(conn, &query)?;
        let mut writer = writer(request, expected.rows, begin(&expected)?)?;
        let mut written = Totals::none(request.of);
        pages::each_row(conn, &query, |cells| {
            writer.row(cells)?;
            written.add(cells);
            wrote(written.rows)
        })?;
        written.must_be(&expected)?;
        writer.finish()?;
        Ok(written)
    })
}

/// The control totals of the rows that `request` asks for.
///
/// # Errors
/// As [`write`].
pub fn totals(
    conn: &mut PgConnection,
    (scope, roles): (Scope, bool),
    request: &ExportRequest,
) -> Result<Totals, Error> {
    db::read_snapshot(conn, scope, roles, |conn| {
        let query = Query::build(conn, request, scope)?;
        totals::compute(conn, &query)
    })
}

fn writer<'a>(request: &ExportRequest, rows: u64, out: Output<'a>) -> Result<Box<dyn Writer + 'a>, Error> {
    let (columns, zone) = (request.of.columns(), request.zone);
    Ok(match request.format {
        Format::Csv => Box::new(csv::Csv::new(out, columns, zone, (request.header, request.bom))?),
        Format::Jsonl => Box::new(jsonl::Jsonl::new(out, columns, zone)),
        Format::Xlsx => Box::new(xlsx::Xlsx::new(out, request.of.name(), columns, (rows, zone))?),
        Format::Parquet => Box::new(parquet::Parquet::new(out, request.of.name(), columns)?),
    })
}

pub(crate) fn output_failed(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("the output failed: {error}"))
}
