use super::*;
use crate::billing::exports::Kind;

/// A refund on the platform's own account in live mode.
fn refund(currency: Option<&'static str>, amount: i64) -> Vec<Cell<'static>> {
    refund_in(("", true), currency, amount)
}

fn refund_in(
    (account, livemode): (&'static str, bool),
    currency: Option<&'static str>,
    amount: i64,
) -> Vec<Cell<'static>> {
    let columns = Kind::Refunds.columns();
    columns
        .iter()
        .map(|column| match column.name {
            "currency" => currency.map_or(Cell::Null, Cell::Text),
            "amount" => Cell::Integer(amount),
            "account" => Cell::Text(account),
            "livemode" => Cell::Boolean(livemode),
            _ => Cell::Null,
        })
        .collect()
}

#[test]
fn sums_are_per_currency_and_wider_than_a_column() {
    let mut totals = Totals::none(Kind::Refunds);
    for row in [refund(Some("eur"), i64::MAX), refund(Some("eur"), i64::MAX), refund(None, -3)] {
        totals.add(&row);
    }
    assert_eq!(
        totals.json().expect("json"),
        concat!(
            r#"{"of":"refunds","rows":3,"currencies":{"":{"rows":1,"amount":-3},"#,
            r#""eur":{"rows":2,"amount":18446744073709551614}}}"#
        )
    );
}

#[test]
fn a_missing_row_and_a_wrong_amount_are_noticed() {
    let mut expected = Totals::none(Kind::Refunds);
    expected.add(&refund(Some("eur"), 5));
    assert!(Totals::none(Kind::Refunds).must_be(&expected).is_err());
    let mut written = Totals::none(Kind::Refunds);
    written.add(&refund(Some("eur"), 4));
    assert!(written.must_be(&expected).is_err());
    assert!(expected.clone().must_be(&expected).is_ok());
}

#[test]
fn a_header_stays_short() {
    let mut totals = Totals::none(Kind::Refunds);
    for code in 0..200 {
        let mut row = refund(Some("eur"), 1);
        let name: &'static str = Box::leak(format!("c{code:03}").into_boxed_str());
        for (column, cell) in Kind::Refunds.columns().iter().zip(&mut row) {
            if column.name == "currency" {
                *cell = Cell::Text(name);
            }
        }
        totals.add(&row);
    }
    assert_eq!(totals.header().expect("json"), r#"{"of":"refunds","rows":200}"#);
}

#[test]
fn money_of_several_accounts_and_modes_is_never_summed_together() {
    let mut totals = Totals::none(Kind::Refunds);
    for (realm, amount) in [(("", false), 1), (("acct_1", true), 10), (("", true), 100), (("", false), 2)] {
        totals.add(&refund_in(realm, Some("eur"), amount));
    }
    assert_eq!(
        totals.json().expect("json"),
        concat!(
            r#"{"of":"refunds","rows":4,"realms":["#,
            r#"{"account":"","livemode":true,"rows":1,"currencies":{"eur":{"rows":1,"amount":100}}},"#,
            r#"{"account":"acct_1","livemode":true,"rows":1,"#,
            r#""currencies":{"eur":{"rows":1,"amount":10}}},"#,
            r#"{"account":"","livemode":false,"rows":2,"currencies":{"eur":{"rows":2,"amount":3}}}]}"#
        )
    );
    let mut other = Totals::none(Kind::Refunds);
    for (realm, amount) in [(("", true), 1), (("acct_1", true), 10), (("", false), 100), (("", false), 2)] {
        other.add(&refund_in(realm, Some("eur"), amount));
    }
    assert!(other.must_be(&totals).is_err());
}

#[test]
fn rows_of_one_mode_alone_are_shown_as_ever() {
    let mut totals = Totals::none(Kind::Refunds);
    assert_eq!(totals.json().expect("json"), r#"{"of":"refunds","rows":0,"currencies":{}}"#);
    totals.add(&refund_in(("", false), Some("eur"), 5));
    let shown = r#"{"of":"refunds","rows":1,"currencies":{"eur":{"rows":1,"amount":5}}}"#;
    assert_eq!(totals.json().expect("json"), shown);
}
