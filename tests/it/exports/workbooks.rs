//! How a workbook looks to who opens it in a spreadsheet: the header, its filter, widths, types of cells.

use std::io::{Cursor, Read};

use calamine::{Data, Reader, Xlsx};

use super::{books, bytes, rows};
use crate::support::Daemon;

/// The text of a file inside a workbook.
fn part(workbook: &[u8], name: &str) -> String {
    let mut archive = zip::ZipArchive::new(Cursor::new(workbook)).expect("a zip file");
    let mut text = String::new();
    archive.by_name(name).expect(name).read_to_string(&mut text).expect("text");
    text
}

/// The last row of a sheet's filter.
fn filtered_rows(sheet: &str) -> &str {
    let end = sheet.split("<autoFilter ref=\"A1:").nth(1).and_then(|rest| rest.split('"').next());
    end.expect("a filter").trim_start_matches(|letter: char| letter.is_ascii_uppercase())
}

#[tokio::test]
async fn the_header_is_bold_stays_in_sight_and_filters() {
    let database = books();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    let count = rows(&bytes(&daemon, &key, "of=refunds").await).len();
    let workbook = bytes(&daemon, &key, "of=refunds&format=xlsx").await;
    let sheet = part(&workbook, "xl/worksheets/sheet1.xml");
    assert!(sheet.contains(r#"<pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/>"#));
    assert_eq!(filtered_rows(&sheet), (count + 1).to_string(), "the filter ends with the last row");
    // The second style of a cell is the header's; the first is none.
    let header = sheet.split("</row>").next().expect("a row");
    let styles: Vec<&str> = header
        .split("<c ")
        .skip(1)
        .filter_map(|cell| cell.split(" s=\"").nth(1)?.split('"').next())
        .collect();
    assert!(styles.len() > 10 && styles.iter().all(|style| *style == styles[0]), "{header}");
    let book = part(&workbook, "xl/styles.xml");
    let formats: Vec<&str> = book.split("<cellXfs").nth(1).expect("formats").split("<xf ").skip(1).collect();
    let font = formats[styles[0].parse::<usize>().expect("a number")];
    let font = font.split("fontId=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a font");
    let fonts: Vec<&str> = book.split("<font>").skip(1).collect();
    assert!(fonts[font.parse::<usize>().expect("a number")].contains("<b/>"), "{book}");
    let widths: Vec<f64> = sheet
        .split("<col ")
        .skip(1)
        .filter_map(|column| column.split("width=\"").nth(1)?.split('"').next()?.parse().ok())
        .collect();
    assert!(!widths.is_empty() && widths.iter().all(|width| (10.0..60.0).contains(width)), "{widths:?}");
}

#[tokio::test]
async fn cells_have_the_type_of_what_they_hold() {
    let database = books();
    database.execute("UPDATE refunds SET payment_intent_id = '0012', reason = '2026-01-01'");
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    let workbook = bytes(&daemon, &key, "of=refunds&format=xlsx").await;
    let mut book: Xlsx<_> = calamine::open_workbook_from_rs(Cursor::new(&workbook[..])).expect("a workbook");
    let range = book.worksheet_range("refunds").expect("a sheet");
    let names: Vec<String> = range.rows().next().expect("a header").iter().map(Data::to_string).collect();
    let row = range.rows().nth(1).expect("a row");
    let cell = |name: &str| &row[names.iter().position(|known| known == name).expect(name)];
    assert_eq!(cell("payment_intent_id"), &Data::String("0012".to_owned()), "an id stays a text");
    assert_eq!(cell("reason"), &Data::String("2026-01-01".to_owned()), "a text stays a text");
    assert!(matches!(cell("amount"), Data::Float(_)), "{:?}", cell("amount"));
    assert!(matches!(cell("amount_major"), Data::Float(_)), "{:?}", cell("amount_major"));
    assert!(matches!(cell("created"), Data::DateTime(time) if time.is_datetime()), "{:?}", cell("created"));
    assert!(matches!(cell("livemode"), Data::Bool(_)), "{:?}", cell("livemode"));
    let styles = part(&workbook, "xl/styles.xml");
    assert!(styles.contains(r#"formatCode="yyyy-mm-dd hh:mm:ss""#), "{styles}");
}

#[tokio::test]
async fn a_workbook_without_rows_has_its_header() {
    let database = books();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    let workbook = bytes(&daemon, &key, "of=refunds&format=xlsx&created_from=2099-01-01").await;
    let sheet = part(&workbook, "xl/worksheets/sheet1.xml");
    assert_eq!(filtered_rows(&sheet), "1");
}
