//! The contents of each format, read by other programs' readers.

use std::io::{Cursor, Read};

use calamine::{Data, Reader, Xlsx};
use coulomb::billing::exports::{Column, Definition, Kind, Type};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use reqwest::Method;
use serde_json::Value;

use super::{books, bytes, download, rows};
use crate::support::{Daemon, Database};

#[tokio::test]
async fn the_same_state_gives_the_same_bytes() {
    let database = books();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    for of in Kind::ALL.map(Kind::name) {
        for format in ["csv", "jsonl", "xlsx", "parquet"] {
            let query = format!("of={of}&format={format}");
            let (first, second) = (bytes(&daemon, &key, &query).await, bytes(&daemon, &key, &query).await);
            assert!(!first.is_empty() && first == second, "{query}");
        }
    }
}

/// The rows as PostgreSQL writes them, with CSV's apostrophes.
fn from_sql(database: &Database, kind: Kind) -> Vec<Vec<String>> {
    let cell = |column: &Column| match column.holds {
        Type::Time => {
            format!("to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')", column.sql)
        }
        Type::Major => format!(
            "CASE coalesce(d.currency, '') WHEN '' THEN NULL WHEN 'jpy' THEN {0}::text
                 WHEN 'kwd' THEN round({0} / 1000.0, 3)::text
                 ELSE round({0} / 100.0, 2)::text END",
            column.sql
        ),
        Type::Text => format!(r"regexp_replace({}, '^(\s*[=+@-]|\t)', '''\1')", column.sql),
        _ => format!("({})::text", column.sql),
    };
    let cells: Vec<String> =
        kind.columns().iter().map(|column| format!("coalesce({}, '')", cell(column))).collect();
    let Definition { order, from, kept, .. } = kind.definition();
    let sql =
        format!("SELECT json_agg(ARRAY[{}] ORDER BY {order}) FROM {from} WHERE {kept}", cells.join(", "));
    serde_json::from_str(&database.value(&sql).expect("rows")).expect("rows of texts")
}

#[tokio::test]
async fn every_cell_is_what_the_database_holds() {
    let database = books();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    for kind in Kind::ALL {
        let csv = bytes(&daemon, &key, &format!("of={}", kind.name())).await;
        let written: Vec<Vec<String>> =
            csv::Reader::from_reader(&*csv).deserialize().collect::<Result<_, _>>().expect("CSV");
        let stored = from_sql(&database, kind);
        assert_eq!(written.len(), stored.len(), "{}", kind.name());
        for (written, stored) in written.iter().zip(&stored) {
            assert_eq!(written, stored, "{}", kind.name());
        }
    }
}

/// Another test compares CSV with the database; this one compares the other formats with CSV, cell by cell.
#[tokio::test]
async fn all_formats_say_the_same() {
    let database = books();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    for of in Kind::ALL.map(Kind::name) {
        let csv = bytes(&daemon, &key, &format!("of={of}")).await;
        let expected: Vec<Vec<String>> = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(&*csv)
            .deserialize()
            .collect::<Result<_, _>>()
            .expect("CSV");
        let jsonl = bytes(&daemon, &key, &format!("of={of}&format=jsonl")).await;
        assert_eq!(from_jsonl(&jsonl, &expected[0]), plain(&expected), "{of} jsonl");
        let xlsx = bytes(&daemon, &key, &format!("of={of}&format=xlsx")).await;
        assert_eq!(from_xlsx(xlsx, of), as_excel(&expected), "{of} xlsx");
        let parquet = bytes(&daemon, &key, &format!("of={of}&format=parquet")).await;
        assert_eq!(from_parquet(parquet), plain(&expected), "{of} parquet");
    }
}

/// Removes the apostrophes, which CSV has and the raw formats do not have.
pub(super) fn plain(rows: &[Vec<String>]) -> Vec<Vec<String>> {
    let raw = |cell: &String| canonical(cell.strip_prefix('\'').unwrap_or(cell));
    rows.iter().map(|row| row.iter().map(raw).collect()).collect()
}

/// JSON without spaces and with sorted keys; anything else as it is.
fn canonical(cell: &str) -> String {
    match serde_json::from_str::<Value>(cell) {
        Ok(value) if value.is_object() || value.is_array() => value.to_string(),
        _ => cell.to_owned(),
    }
}

pub(super) fn from_jsonl(bytes: &[u8], columns: &[String]) -> Vec<Vec<String>> {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(row.as_object().expect("an object").len(), columns.len());
        columns.iter().map(|column| cell(&row[column])).collect()
    };
    std::iter::once(columns.to_vec()).chain(text.lines().map(row)).collect()
}

pub(super) fn from_xlsx(bytes: Vec<u8>, sheet: &str) -> Vec<Vec<String>> {
    let mut book: Xlsx<_> = calamine::open_workbook_from_rs(Cursor::new(bytes)).expect("a workbook");
    assert_eq!(book.sheet_names(), [sheet]);
    let range = book.worksheet_range(sheet).expect("a sheet");
    let cell = |cell: &Data| match cell {
        Data::Empty => String::new(),
        Data::DateTime(time) => format!("{:.5}", time.as_f64()),
        cell => cell.to_string(),
    };
    range.rows().map(|row| row.iter().map(cell).collect()).collect()
}

/// CSV's cells as Excel shows them: times as days, numbers without trailing zeros.
pub(super) fn as_excel(rows: &[Vec<String>]) -> Vec<Vec<String>> {
    let cell = |(column, cell): (&String, &String)| {
        if let Ok(time) = chrono::DateTime::parse_from_rfc3339(cell) {
            return format!("{:.5}", time.timestamp() as f64 / 86_400.0 + 25_569.0);
        }
        if let Ok(day) = cell.parse::<chrono::NaiveDate>() {
            return format!("{:.5}", f64::from(day.to_epoch_days()) + 25_569.0);
        }
        if column.ends_with("_major") && cell.contains('.') {
            return cell.trim_end_matches('0').trim_end_matches('.').to_owned();
        }
        cell.clone()
    };
    let named = |row: &Vec<String>| rows[0].iter().zip(row).map(cell).collect();
    rows.iter().map(named).collect()
}

pub(super) fn from_parquet(bytes: Vec<u8>) -> Vec<Vec<String>> {
    let file = SerializedFileReader::new(bytes::Bytes::from(bytes)).expect("a Parquet file");
    let schema = file.metadata().file_metadata().schema();
    let columns = schema.get_fields().iter().map(|field| field.name().to_owned()).collect();
    let cell = |field: &Field| match field {
        Field::Null => String::new(),
        Field::Str(text) => canonical(text),
        Field::Long(number) => number.to_string(),
        Field::Bool(flag) => flag.to_string(),
        Field::Date(days) => chrono::NaiveDate::from_epoch_days(*days).expect("in range").to_string(),
        Field::TimestampMicros(micros) => chrono::DateTime::from_timestamp_micros(*micros)
            .expect("in range")
            .to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
        field => panic!("{field:?}"),
    };
    let rows = file
        .get_row_iter(None)
        .expect("rows")
        .map(|row| row.expect("a row").get_column_iter().map(|(_, field)| cell(field)).collect());
    std::iter::once(columns).chain(rows).collect()
}

#[tokio::test]
async fn formulas_are_neutralised_for_spreadsheets_and_kept_for_programs() {
    let database = books();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    let csv = bytes(&daemon, &key, "org=org_a").await;
    let all = rows(&csv);
    let named = |text: &str| all.iter().any(|row| row["customer_name"] == text);
    assert!(named("'=1+1") && named("'  @SUM(A1)") && named("Müller, \"Söhne\"") && named("two\r\nlines"));
    assert!(all.iter().all(|row| row["org_external_id"] == "'=acme"));
    assert!(all.iter().any(|row| row["description"] == "'\t-x"));
    assert!(all.iter().all(|row| !row.values().any(|cell| cell.starts_with(['=', '+', '@', '\t']))));
    let text = String::from_utf8(bytes(&daemon, &key, "org=org_a&format=jsonl").await).expect("UTF-8");
    assert!(text.contains(r#""customer_name":"=1+1""#) && text.contains(r#""description":"\t-x""#));
}

#[tokio::test]
async fn amounts_are_exact_in_minor_and_major_units() {
    let database = books();
    database.execute(
        "UPDATE invoices SET total = 9007199254740993, amount_due = -5 WHERE currency = 'kwd';
         UPDATE invoices SET total = 9223372036854775807 WHERE currency = 'jpy'",
    );
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    let kwd = rows(&bytes(&daemon, &key, "currency=kwd").await);
    assert!(
        kwd.iter().all(|row| row["total"] == "9007199254740993" && row["total_major"] == "9007199254740.993")
    );
    assert!(kwd.iter().all(|row| row["amount_due"] == "-5" && row["amount_due_major"] == "-0.005"));
    let response = download(&daemon, &key, "currency=jpy").await;
    let told = response.headers()["coulomb-control-totals"].to_str().expect("text").to_owned();
    let jpy = rows(&response.bytes().await.expect("a body"));
    assert!(jpy.iter().all(|row| row["total_major"] == "9223372036854775807"));
    for realm in [("", "true"), ("acct_1", "true")] {
        let count = jpy.iter().filter(|row| (&*row["account"], &*row["livemode"]) == realm).count();
        let sum = i128::from(i64::MAX) * count as i128;
        assert!(count > 1 && told.contains(&format!("\"total\":{sum},")), "{realm:?} {told}");
    }
    let sheet = from_xlsx(bytes(&daemon, &key, "currency=jpy&format=xlsx").await, "invoices");
    assert!(sheet[1..].iter().all(|row| row.contains(&i64::MAX.to_string())), "rounded");
}

#[tokio::test]
async fn csv_begins_as_asked_and_compresses_as_it_streams() {
    let database = books();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    let whole = bytes(&daemon, &key, "bom=false&header=true").await;
    let end_of_header = whole.windows(2).position(|pair| pair == b"\r\n").expect("a line") + 2;
    assert_eq!(bytes(&daemon, &key, "bom=true").await, [b"\xef\xbb\xbf", &*whole].concat());
    assert_eq!(bytes(&daemon, &key, "header=false").await, &whole[end_of_header..]);
    let response = daemon
        .request(Method::GET, "/v1/invoices/export?realms=all", &key)
        .header("Accept-Encoding", "gzip")
        .send()
        .await
        .expect("an answer");
    let headers = response.headers();
    assert_eq!(headers["content-encoding"], "gzip");
    assert_eq!(headers["content-type"], "text/csv; charset=utf-8");
    assert_eq!(headers["content-disposition"], "attachment; filename=\"invoices.csv\"");
    assert_eq!(headers["cache-control"], "no-store");
    let mut plain = Vec::new();
    let packed = response.bytes().await.expect("a body");
    flate2::read::MultiGzDecoder::new(&*packed).read_to_end(&mut plain).expect("gzip");
    assert_eq!(plain, whole);
}
