//! Situations of a bucket, with the values that a hand computes.

use super::*;

fn at(text: &str) -> At {
    text.parse().expect("a time")
}

fn number(text: &str) -> Decimal {
    text.parse().expect("a number")
}

/// quantity, moved, carried, delivered
fn bucket(way: Way, numbers: [&str; 4]) -> Bucket {
    let [quantity, moved, carried, delivered] = numbers.map(number);
    Bucket {
        way,
        start: at("2026-11-10T10:00:00Z"),
        end: at("2026-11-10T11:00:00Z"),
        quantity,
        moved,
        carried,
        delivered,
        discarded: Decimal::ZERO,
        sending: None,
        is_tried: false,
    }
}

#[test]
fn totals_are_absolute_and_never_below_zero() {
    for (numbers, is_charged, step) in [
        (["0", "0", "0", "0"], false, Step::Done),
        (["5", "0", "0", "0"], false, Step::Send(number("5"))),
        (["5", "0", "0", "5"], false, Step::Done),
        // Late usage and a void in an open period: the new total overwrites.
        (["7", "0", "0", "5"], false, Step::Send(number("7"))),
        (["2", "0", "0", "5"], false, Step::Send(number("2"))),
        (["0", "0", "0", "5"], false, Step::Send(number("0"))),
        // It carries 3 of an earlier bucket, and a later one charges 1 of it.
        (["7", "1", "3", "5"], false, Step::Send(number("9"))),
        // Below zero: what is below moves on, and 0 is sent next.
        (["-4", "0", "0", "5"], false, Step::Move(number("-4"))),
        (["-4", "-4", "0", "5"], false, Step::Send(number("0"))),
        // Its period is charged: the difference moves on.
        (["7", "0", "0", "5"], true, Step::Move(number("2"))),
        (["2", "0", "0", "5"], true, Step::Move(number("-3"))),
        (["2", "-3", "0", "5"], true, Step::Done),
        (["5", "0", "0", "0"], true, Step::Move(number("5"))),
    ] {
        assert_eq!(bucket(Way::Totals, numbers).step(is_charged), step, "{numbers:?} {is_charged}");
    }
}

#[test]
fn deltas_add_up_and_are_never_below_zero() {
    for (numbers, is_charged, step) in [
        (["5", "0", "0", "0"], false, Step::Send(number("5"))),
        (["7", "0", "0", "5"], false, Step::Send(number("2"))),
        (["7", "0", "0", "7"], false, Step::Done),
        // A void: 3 are taken off what is sent later.
        (["4", "0", "0", "7"], false, Step::Move(number("-3"))),
        (["4", "-3", "0", "7"], false, Step::Done),
        (["5", "0", "-3", "0"], false, Step::Send(number("2"))),
        (["7", "0", "0", "5"], true, Step::Move(number("2"))),
    ] {
        assert_eq!(bucket(Way::Deltas, numbers).step(is_charged), step, "{numbers:?} {is_charged}");
    }
}

#[test]
fn nothing_is_decided_while_an_answer_is_missing() {
    for way in [Way::Totals, Way::Deltas] {
        let open = Bucket { sending: Some(number("5")), ..bucket(way, ["9", "0", "0", "0"]) };
        assert_eq!(open.step(false), Step::Send(number("9")), "it was not tried yet");
        assert_eq!(Bucket { is_tried: true, ..open }.step(false), Step::Unanswered);
    }
}

#[test]
fn numbers_have_fifteen_digits() {
    for (exact, sent) in [
        ("123456789012345", "123456789012345"),
        ("1234567890123456", "1234567890123460"),
        ("0.123456789012345", "0.123456789012345"),
        ("12.34567890123450", "12.3456789012345"),
        ("12.34567890123455", "12.3456789012346"),
        ("100.10", "100.1"),
        ("0", "0"),
    ] {
        assert_eq!(significant(number(exact)).to_string(), sent);
    }
    // A total that was rounded is done: it is not sent for ever.
    let total = bucket(Way::Totals, ["12.34567890123455", "0", "0", "12.3456789012346"]);
    assert_eq!(total.step(false), Step::Done);
    // A delta leaves the rest for the next one.
    let delta = bucket(Way::Deltas, ["12.34567890123451", "0", "0", "12.3456789012345"]);
    assert_eq!(delta.step(false), Step::Send(number("0.00000000000001")));
}

#[test]
fn timestamps_grow_and_stay_in_the_bucket() {
    let (start, end) = (at("2026-11-10T10:20:00Z"), at("2026-11-10T10:20:03Z"));
    let times: Vec<String> =
        [1, 2, 3, 99].map(|n| timestamp(start, end, n).format("%M:%S").to_string()).into();
    assert_eq!(times, ["20:01", "20:02", "20:02", "20:02"]);
    let now = at("2026-11-10T10:00:00Z");
    for (time, takes) in [
        ("2026-11-10T10:04:00Z", true),
        ("2026-11-10T10:05:00Z", false),
        ("2026-10-07T00:00:00Z", true),
        ("2026-10-06T10:00:00Z", false),
    ] {
        assert_eq!(is_takeable(at(time), now), takes, "{time}");
    }
}

#[test]
fn windows_are_those_of_utc_and_cut_at_periods() {
    let time = at("2026-11-10T10:20:30Z");
    let hour = (at("2026-11-10T10:00:00Z"), at("2026-11-10T11:00:00Z"));
    assert_eq!(window_of(time, Window::Hour), hour);
    let day = (at("2026-11-10T00:00:00Z"), at("2026-11-11T00:00:00Z"));
    assert_eq!(window_of(time, Window::Day), day);
    assert_eq!(cut(hour, []), [hour]);
    // The edges of the window and what lies outside cut nothing.
    assert_eq!(cut(hour, [hour.0, hour.1, day.1]), [hour]);
    assert_eq!(cut(hour, [time, time]), [(hour.0, time), (time, hour.1)]);
}

#[test]
fn an_identifier_names_one_bucket() {
    let realm = |account: &str, livemode| Realm { account: account.to_owned(), livemode };
    let start = at("2026-11-10T10:00:00Z");
    let base = identifier(&realm("", true), "cus_1", "tokens", 1, start);
    assert_eq!(base, identifier(&realm("", true), "cus_1", "tokens", 1, start));
    for other in [
        identifier(&realm("acct_1", true), "cus_1", "tokens", 1, start),
        identifier(&realm("", false), "cus_1", "tokens", 1, start),
        identifier(&realm("", true), "cus_2", "tokens", 1, start),
        identifier(&realm("", true), "cus_1", "calls", 1, start),
        identifier(&realm("", true), "cus_1", "tokens", 2, start),
        identifier(&realm("", true), "cus_1", "tokens", 1, start + TimeDelta::seconds(1)),
    ] {
        assert_ne!(base, other);
    }
    // Stripe takes at most 100 characters.
    assert!(with_sequence(&base, i32::MAX).len() <= 100);
}
