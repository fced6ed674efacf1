//! JSON lines: one object per row, with all keys in the order of the columns. Text is as stored.

use std::io::Write;

use super::row::{Cell, push_day, push_integer, push_time};
use super::zone::Zone;
use super::{Output, Writer, output_failed};
use crate::billing::exports::Column;
use crate::error::Error;

pub(super) struct Jsonl<'a> {
    out: Output<'a>,
    /// `{"org_id":`, `,"org_external_id":`, …
    keys: Vec<String>,
    zone: Zone,
    line: Vec<u8>,
}

impl<'a> Jsonl<'a> {
    pub(super) fn new(out: Output<'a>, columns: &[Column], zone: Zone) -> Self {
        let key = |(index, column): (usize, &Column)| {
            format!("{}\"{}\":", if index == 0 { '{' } else { ',' }, column.name)
        };
        Self { out, keys: columns.iter().enumerate().map(key).collect(), zone, line: Vec::new() }
    }
}

impl Writer for Jsonl<'_> {
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Error> {
        let line = &mut self.line;
        line.clear();
        for (key, cell) in self.keys.iter().zip(cells) {
            line.extend_from_slice(key.as_bytes());
            match *cell {
                Cell::Null => line.extend_from_slice(b"null"),
                Cell::Text(text) | Cell::Decimal(text) => {
                    serde_json::to_writer(&mut *line, text).map_err(output_failed)?;
                }
                Cell::Json(text) => line.extend_from_slice(text.as_bytes()),
                Cell::Boolean(flag) => line.extend_from_slice(if flag { b"true" } else { b"false" }),
                Cell::Integer(number) => push_integer(line, number),
                Cell::Major(major) => write!(line, "\"{major}\"").map_err(output_failed)?,
                Cell::Day(days) => {
                    line.push(b'"');
                    push_day(line, days);
                    line.push(b'"');
                }
                Cell::Time(micros) => {
                    line.push(b'"');
                    push_time(line, micros, self.zone);
                    line.push(b'"');
                }
            }
        }
        line.extend_from_slice(b"}\n");
        self.out.write_all(line).map_err(output_failed)
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        self.out.flush().map_err(output_failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::billing::exports::Kind;
    use crate::money::MajorUnits;

    #[test]
    fn a_row_is_one_line_of_json() {
        let mut out = Vec::new();
        let mut writer = Box::new(Jsonl::new(Box::new(&mut out), &Kind::Invoices.columns()[..4], Zone::UTC));
        writer
            .row(&[
                Cell::Text("=\"\n\u{7f}"),
                Cell::Null,
                Cell::Major(MajorUnits::new(1230, "eur")),
                Cell::Time(1),
            ])
            .expect("writes");
        writer
            .row(&[
                Cell::Integer(i64::MIN),
                Cell::Boolean(false),
                Cell::Json("{\"a\": 1}"),
                Cell::Decimal("0.5"),
            ])
            .expect("writes");
        writer.finish().expect("ends");
        assert_eq!(
            String::from_utf8(out).expect("utf-8"),
            "{\"org_id\":\"=\\\"\\n\u{7f}\",\"org_external_id\":null,\"account\":\"12.30\",\
             \"livemode\":\"1970-01-01T00:00:00.000001Z\"}\n\
             {\"org_id\":-9223372036854775808,\"org_external_id\":false,\"account\":{\"a\": \
             1},\"livemode\":\"0.5\"}\n"
        );
    }
}
