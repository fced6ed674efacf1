//! CSV after RFC 4180: commas, CRLF, UTF-8, quotes only where they are needed. A missing value is an empty
//! cell.
//!
//! Text that a spreadsheet would take for a formula gets a leading apostrophe (OWASP, "CSV Injection").

use std::borrow::Cow;
use std::io::Write;

use ::csv::{Terminator, WriterBuilder};

use super::row::{Cell, push_day, push_integer, push_time};
use super::zone::Zone;
use super::{Output, Writer, output_failed};
use crate::billing::exports::Column;
use crate::error::Error;

pub(super) struct Csv<'a> {
    out: ::csv::Writer<Output<'a>>,
    zone: Zone,
    scratch: Vec<u8>,
}

impl<'a> Csv<'a> {
    pub(super) fn new(
        mut out: Output<'a>,
        columns: &[Column],
        zone: Zone,
        (header, bom): (bool, bool),
    ) -> Result<Self, Error> {
        if bom {
            out.write_all("\u{feff}".as_bytes()).map_err(output_failed)?;
        }
        let mut out =
            WriterBuilder::new().terminator(Terminator::CRLF).buffer_capacity(64 << 10).from_writer(out);
        if header {
            out.write_record(columns.iter().map(|column| column.name)).map_err(output_failed)?;
        }
        Ok(Self { out, zone, scratch: Vec::new() })
    }
}

impl Writer for Csv<'_> {
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Error> {
        for cell in cells {
            self.scratch.clear();
            let field: &[u8] = match *cell {
                Cell::Null => b"",
                Cell::Text(text) => match neutral(text) {
                    Cow::Borrowed(text) => text.as_bytes(),
                    Cow::Owned(text) => {
                        self.scratch.extend_from_slice(text.as_bytes());
                        &self.scratch
                    }
                },
                Cell::Decimal(text) | Cell::Json(text) => text.as_bytes(),
                Cell::Boolean(true) => b"true",
                Cell::Boolean(false) => b"false",
                Cell::Integer(number) => {
                    push_integer(&mut self.scratch, number);
                    &self.scratch
                }
                Cell::Major(major) => {
                    write!(self.scratch, "{major}").map_err(output_failed)?;
                    &self.scratch
                }
                Cell::Day(days) => {
                    push_day(&mut self.scratch, days);
                    &self.scratch
                }
                Cell::Time(micros) => {
                    push_time(&mut self.scratch, micros, self.zone);
                    &self.scratch
                }
            };
            self.out.write_field(field).map_err(output_failed)?;
        }
        self.out.write_record(None::<&[u8]>).map_err(output_failed)
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        self.out.flush().map_err(output_failed)
    }
}

/// Puts an apostrophe before text that a spreadsheet could take for a formula. The first character counts
/// that is not a space, since some spreadsheets skip spaces, and some read full-width signs as signs. A
/// semicolon is skipped, too: where it is the separator, a cell begins after it.
pub(crate) fn neutral(text: &str) -> Cow<'_, str> {
    let starts_formula = text.starts_with(['\t', '\r', '\n'])
        || text
            .trim_start_matches(|letter: char| {
                letter.is_whitespace() || letter.is_control() || ['\u{feff}', ';'].contains(&letter)
            })
            .starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠']);
    if starts_formula { Cow::Owned(format!("'{text}")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::billing::exports::Kind;
    use crate::money::MajorUnits;

    #[test]
    fn what_starts_a_formula_is_neutralised() {
        for text in [
            "=1+1",
            "+1",
            "-1",
            "@SUM(A1)",
            "\t=1",
            "\rx",
            "\nx",
            "  =1",
            "\u{a0}=1",
            "＝1",
            "\u{feff}=1",
            "\0=1",
            ";=1",
            "; +1",
        ] {
            assert_eq!(neutral(text), format!("'{text}"));
        }
        for text in ["", "a=1", "'=1", "1-2", "  a", "Ünï"] {
            assert_eq!(neutral(text), text);
        }
    }

    fn csv(header: bool, bom: bool, rows: &[&[Cell<'_>]]) -> String {
        let mut out = Vec::new();
        let mut writer: Box<Csv<'_>> = Box::new(
            Csv::new(Box::new(&mut out), &Kind::Invoices.columns()[..2], Zone::UTC, (header, bom))
                .expect("starts"),
        );
        for row in rows {
            writer.row(row).expect("writes");
        }
        writer.finish().expect("ends");
        String::from_utf8(out).expect("utf-8")
    }

    #[test]
    fn quotes_stand_where_rfc_4180_needs_them() {
        let rows: &[&[Cell<'_>]] = &[
            &[Cell::Text("plain"), Cell::Text("a, \"b\"")],
            &[Cell::Null, Cell::Text("two\r\nlines")],
            &[Cell::Integer(-5), Cell::Major(MajorUnits::new(-5, "eur"))],
            &[Cell::Text("-5"), Cell::Json("{\"a\": \"b\"}")],
            &[Cell::Boolean(true), Cell::Time(0)],
        ];
        assert_eq!(
            csv(true, false, rows),
            "org_id,org_external_id\r\nplain,\"a, \
                \"\"b\"\"\"\r\n,\"two\r\nlines\"\r\n-5,-0.05\r\n'-5,\"{\"\"a\"\": \
                \"\"b\"\"}\"\r\ntrue,1970-01-01T00:00:00Z\r\n"
        );
    }

    #[test]
    fn header_and_byte_order_mark_come_when_asked() {
        assert_eq!(csv(false, true, &[]), "\u{feff}");
        assert_eq!(csv(true, true, &[]), "\u{feff}org_id,org_external_id\r\n");
    }
}
