//! An Excel workbook. Rows go to a temporary file first, and the workbook is built from it at the end.
//!
//! Excel keeps 15 significant digits of a number, so longer ones are written as text. Text that starts a
//! formula gets an apostrophe, as in CSV. The file's own dates are fixed, so the same rows give the same
//! bytes.

use std::borrow::Cow;

use chrono::DateTime;
use rust_xlsxwriter::{DocProperties, ExcelDateTime, Format, Workbook, Worksheet, XlsxError};

use super::csv::neutral;
use super::row::Cell;
use super::zone::Zone;
use super::{Output, Writer, output_failed};
use crate::billing::exports::{Column, Type};
use crate::error::Error;

/// Rows of a sheet, the header included.
const SHEET_ROWS: u32 = 1_048_576;
/// Characters (UTF-16 units) of a cell.
const CELL_LIMIT: usize = 32_767;
const MICROS_OF_DAY: f64 = 86_400e6;
/// Excel's number of 1970-01-01.
const UNIX_EPOCH: f64 = 25_569.0;

pub(super) struct Xlsx<'a> {
    out: Output<'a>,
    workbook: Workbook,
    name: &'static str,
    columns: &'static [Column],
    sheets: usize,
    next_row: u32,
    zone: Zone,
    formats: Formats,
}

struct Formats {
    header: Format,
    time: Format,
    day: Format,
    places: [Format; 4],
}

impl<'a> Xlsx<'a> {
    pub(super) fn new(
        out: Output<'a>,
        name: &'static str,
        columns: &'static [Column],
        (rows, zone): (u64, Zone),
    ) -> Result<Self, Error> {
        let mut workbook = Workbook::new();
        let epoch = ExcelDateTime::from_ymd(2000, 1, 1).map_err(output_failed)?;
        workbook.set_properties(&DocProperties::new().set_creation_datetime(&epoch));
        // A sheet of more than 4 GiB needs the longer form; not every reader of smaller ones knows it.
        workbook.use_zip_large_file(rows > 500_000);
        let places = ["0", "0.0", "0.00", "0.000"].map(|form| Format::new().set_num_format(form));
        let time = Format::new().set_num_format("yyyy-mm-dd hh:mm:ss");
        let day = Format::new().set_num_format("yyyy-mm-dd");
        let formats = Formats { header: Format::new().set_bold(), time, day, places };
        let mut xlsx = Self { out, workbook, name, columns, sheets: 0, next_row: 0, zone, formats };
        xlsx.add_sheet().map_err(output_failed)?;
        Ok(xlsx)
    }

    /// Begins the next sheet with the names of the columns.
    fn add_sheet(&mut self) -> Result<(), XlsxError> {
        self.sheets += 1;
        let sheet = self.workbook.add_worksheet_with_constant_memory()?;
        let name = self.name;
        sheet.set_name(if self.sheets == 1 { name.to_owned() } else { format!("{name} {}", self.sheets) })?;
        sheet.set_freeze_panes(1, 0)?;
        for (index, column) in (0..).zip(self.columns) {
            sheet.set_column_width(index, width(column))?;
            sheet.write_string_with_format(0, index, column.name, &self.formats.header)?;
        }
        self.next_row = 1;
        Ok(())
    }

    /// Ends a sheet: the header row filters the rows below it.
    fn end_sheet(&mut self) -> Result<(), XlsxError> {
        let last_column = u16::try_from(self.columns.len().saturating_sub(1)).unwrap_or(u16::MAX);
        let sheet = self.workbook.worksheet_from_index(self.sheets - 1)?;
        sheet.autofilter(0, 0, self.next_row - 1, last_column)?;
        Ok(())
    }

    fn add_row(&mut self, cells: &[Cell<'_>]) -> Result<(), XlsxError> {
        if self.next_row == SHEET_ROWS {
            self.end_sheet()?;
            self.add_sheet()?;
        }
        let sheet = self.workbook.worksheet_from_index(self.sheets - 1)?;
        for (index, cell) in (0..).zip(cells) {
            put(sheet, (self.next_row, index), cell, (&self.formats, self.zone))?;
        }
        self.next_row += 1;
        Ok(())
    }
}

impl Writer for Xlsx<'_> {
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Error> {
        self.add_row(cells).map_err(output_failed)
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        self.end_sheet().map_err(output_failed)?;
        self.workbook.save_to_writer(&mut self.out).map_err(output_failed)?;
        self.out.flush().map_err(output_failed)
    }
}

/// The width of a column, in characters. The name and the arrow of its filter are never cut.
fn width(column: &Column) -> f64 {
    let is_id = column.name == "id" || column.name.ends_with("_id");
    let cells: usize = match column.holds {
        Type::Boolean => 8,
        Type::Integer | Type::Day => 10,
        Type::Amount | Type::Major | Type::Decimal => 14,
        Type::Time => 19,
        Type::Text if is_id => 28,
        Type::Text => 18,
        Type::Json => 30,
    };
    let name = column.name.len() + 4;
    f64::from(u8::try_from(cells.max(name)).unwrap_or(u8::MAX))
}

fn put(
    sheet: &mut Worksheet,
    (row, column): (u32, u16),
    cell: &Cell<'_>,
    (formats, zone): (&Formats, Zone),
) -> Result<(), XlsxError> {
    match *cell {
        Cell::Null => {}
        Cell::Text(text) => {
            sheet.write_string(row, column, fitting(&neutral(text)))?;
        }
        Cell::Json(text) => {
            sheet.write_string(row, column, fitting(text))?;
        }
        Cell::Boolean(flag) => {
            sheet.write_boolean(row, column, flag)?;
        }
        Cell::Day(days) => {
            let days = f64::from(days) + UNIX_EPOCH;
            sheet.write_number_with_format(row, column, days, &formats.day)?;
        }
        Cell::Time(micros) => {
            // A cell has no offset: it shows what the clocks of the zone showed.
            let ahead_s = DateTime::from_timestamp_micros(micros).and_then(|at| zone.ahead_s(at));
            let shown = micros + i64::from(ahead_s.unwrap_or(0)) * 1_000_000;
            let days = shown as f64 / MICROS_OF_DAY + UNIX_EPOCH;
            sheet.write_number_with_format(row, column, days, &formats.time)?;
        }
        Cell::Integer(number) => put_digits(sheet, (row, column), &number.to_string(), &formats.places[0])?,
        Cell::Decimal(text) => put_digits(sheet, (row, column), text, &Format::default())?,
        Cell::Major(major) => {
            put_digits(sheet, (row, column), &major.to_string(), &formats.places[usize::from(major.places)])?;
        }
    }
    Ok(())
}

/// Writes a number if Excel keeps it exactly, otherwise its text.
fn put_digits(
    sheet: &mut Worksheet,
    (row, column): (u32, u16),
    text: &str,
    format: &Format,
) -> Result<(), XlsxError> {
    let digits = text.bytes().filter(u8::is_ascii_digit).skip_while(|digit| *digit == b'0').count();
    // The nearest double to at most 15 digits is written as these digits again.
    match text.parse::<f64>() {
        Ok(number) if digits <= 15 => sheet.write_number_with_format(row, column, number, format)?,
        _ => sheet.write_string(row, column, text)?,
    };
    Ok(())
}

/// Text that fits a cell: too long text is cut with an ellipsis, and what XML forbids is replaced.
fn fitting(text: &str) -> Cow<'_, str> {
    let text = if text.contains(['\u{fffe}', '\u{ffff}']) {
        Cow::Owned(text.replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    };
    if text.len() <= CELL_LIMIT || text.encode_utf16().count() <= CELL_LIMIT {
        return text;
    }
    let mut units = 0;
    let fits = |letter: &char| {
        units += letter.len_utf16();
        units < CELL_LIMIT
    };
    Cow::Owned(text.chars().take_while(fits).chain(['…']).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_to_what_a_cell_holds() {
        let fits = "ü".repeat(CELL_LIMIT);
        assert_eq!(fitting(&fits), fits);
        let long = "😀".repeat(CELL_LIMIT);
        let cut = fitting(&long);
        assert!(cut.ends_with('…') && cut.encode_utf16().count() <= CELL_LIMIT);
        assert_eq!(fitting("a\u{ffff}"), "a\u{fffd}");
    }
}
