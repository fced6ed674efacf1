use super::*;

fn check(query: &str) -> Result<ExportRequest, String> {
    let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    ExportParams::from_pairs(query.split('&').filter_map(pair))
        .and_then(|params| params.check(DateTime::UNIX_EPOCH))
        .map_err(|error| match error {
            Error::Invalid { field, .. } => field.into_owned(),
            other => panic!("{other}"),
        })
}

#[test]
fn every_mistake_names_its_parameter() {
    for (query, name) in [
        ("of=orders", "of"),
        ("format=xls", "format"),
        ("fromat=csv", "fromat"),
        ("format=csv&format=csv", "format"),
        ("status=payed", "status"),
        ("of=refunds&status=paid", "status"),
        ("currency=euro", "currency"),
        ("issued_from=yesterday", "issued_from"),
        ("issued_from=2026-02-01&issued_before=2026-02-01", "issued_before"),
        ("of=payments&issued_from=2026-02-01", "issued_from"),
        ("of=refunds&paid_before=2026-02-01", "paid_before"),
        ("format=jsonl&bom=true", "bom"),
        ("format=xlsx&header=false", "header"),
        ("format=parquet&after=in_1", "after"),
        ("livemode=yes", "livemode"),
        ("org=", "org"),
        ("time_zone=CEST", "time_zone"),
        ("void=yes", "void"),
        ("of=payments&void=only", "void"),
        ("overdue=1", "overdue"),
        ("of=refunds&overdue=true", "overdue"),
        ("of=customers&number=N-1", "number"),
        ("of=customers&status=paid", "status"),
        ("of=credit_notes&overdue=true", "overdue"),
        ("of=refunds&due_from=2026-01-01", "due_from"),
        ("due_from=2026-02-01&due_before=2026-01-01", "due_before"),
        ("of=customers&subscription=sub_1", "subscription"),
        ("origin=ours", "origin"),
        ("of=disputes&origin=all", "origin"),
    ] {
        assert_eq!(check(query).expect_err(query), name, "{query}");
    }
}

#[test]
fn times_are_instants_or_dates_in_utc() {
    let request = check("issued_from=2026-01-31&issued_before=2026-02-01T00:00:00+02:00").expect("valid");
    assert_eq!(request.issued.from.map(|time| time.timestamp()), Some(1_769_817_600));
    assert_eq!(request.issued.before.map(|time| time.timestamp()), Some(1_769_896_800));
}

#[test]
fn a_date_is_a_local_day_of_the_zone() {
    let request = check("time_zone=Europe/Berlin&issued_from=2026-03-29&issued_before=2026-03-30");
    let request = request.expect("valid");
    // The day on which the clocks go forward has 23 hours; it begins at 23:00 UTC.
    assert_eq!(request.issued.from.map(|time| time.timestamp()), Some(1_774_738_800));
    assert_eq!(request.issued.before.map(|time| time.timestamp()), Some(1_774_821_600));
}

#[test]
fn the_defaults_are_all_invoices_as_csv_with_a_header() {
    let request = check("").expect("valid");
    assert_eq!((request.of, request.format), (ExportKind::Billing(Kind::Invoices), Format::Csv));
    assert!(request.header && !request.bom && request.statuses.is_none());
}
