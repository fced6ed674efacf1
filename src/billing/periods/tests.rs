//! Histories of subscriptions, and which period contains an instant. All figures are computed by hand.

use super::*;
use crate::billing::history::KnownPeriod;

fn at(text: &str) -> At {
    let text = if text.len() == 10 { format!("{text}T00:00:00Z") } else { format!("{text}:00Z") };
    text.parse().expect("a time")
}

/// A period of the first item, whose price buys a plan; events of its start and of `last_seen` show it.
fn known(start: &str, end: &str) -> KnownPeriod {
    let (start, end) = (at(start), at(end));
    KnownPeriod { start, end, item_number: 0, first_seen: start, last_seen: start, rank: Some(0), plan: None }
}

fn stripe(started: &str, known_periods: Vec<KnownPeriod>) -> SubscriptionHistory {
    SubscriptionHistory {
        known_periods,
        started: Some(at(started)),
        goes_on: true,
        precedence: (Some(0), true, Some(at(started))),
        ..SubscriptionHistory::default()
    }
}

#[track_caller]
fn lies(histories: &[SubscriptionHistory], cases: &[(&str, Option<(&str, &str)>)]) {
    let periods = BillingPeriods::new(histories);
    for (instant, expected) in cases {
        let expected = expected.map(|(start, end)| (at(start), at(end)));
        assert_eq!(periods.at(at(instant)), expected, "{instant}");
    }
}

#[test]
fn an_anchor_on_the_last_days_is_clamped_and_not_forgotten() {
    // Every month from 31 January; February is known.
    let mut history = stripe("2026-01-31T10:00", vec![known("2026-02-28T10:00", "2026-03-31T10:00")]);
    history.anchor = Some(at("2026-01-31T10:00"));
    let cases = [
        ("2026-01-31T09:59", None),
        ("2026-01-31T10:00", Some(("2026-01-31T10:00", "2026-02-28T10:00"))),
        ("2026-03-31T09:59", Some(("2026-02-28T10:00", "2026-03-31T10:00"))),
        ("2026-03-31T10:00", Some(("2026-03-31T10:00", "2026-04-30T10:00"))),
        ("2026-12-30T23:00", Some(("2026-11-30T10:00", "2026-12-31T10:00"))),
        ("2028-02-29T10:00", Some(("2028-02-29T10:00", "2028-03-31T10:00"))),
    ];
    lies(std::slice::from_ref(&history), &cases);
    // Without the anchor the end of the period shows that it is the 31st.
    history.anchor = None;
    lies(&[history], &cases);
    // Every quarter from 30 November: after February the periods begin on the 30th again.
    let mut quarterly = stripe("2025-11-30", vec![known("2025-11-30", "2026-02-28")]);
    quarterly.anchor = Some(at("2025-11-30"));
    lies(
        &[quarterly],
        &[
            ("2026-02-27T23:59", Some(("2025-11-30", "2026-02-28"))),
            ("2026-05-29T12:00", Some(("2026-02-28", "2026-05-30"))),
            ("2026-05-30", Some(("2026-05-30", "2026-08-30"))),
        ],
    );
    // The 29th, in a year that has no such day in February.
    let mut history = stripe("2026-12-29", vec![known("2027-01-29", "2027-02-28")]);
    history.anchor = Some(at("2026-12-29"));
    lies(
        &[history],
        &[
            ("2027-01-28", Some(("2026-12-29", "2027-01-29"))),
            ("2027-02-28", Some(("2027-02-28", "2027-03-29"))),
            ("2027-03-28", Some(("2027-02-28", "2027-03-29"))),
        ],
    );
}

#[test]
fn known_periods_count_even_after_the_subscription_changed() {
    // Months, then years from 5 March; then a restart on 20 June, and weeks from then.
    let history = stripe(
        "2026-01-05",
        vec![
            known("2026-06-20T15:00", "2026-06-27T15:00"),
            known("2026-02-05", "2026-03-05"),
            known("2026-03-05", "2027-03-05"),
        ],
    );
    lies(
        &[history],
        &[
            ("2026-01-31", Some(("2026-01-05", "2026-02-05"))),
            ("2026-02-10", Some(("2026-02-05", "2026-03-05"))),
            ("2026-06-20T14:59", Some(("2026-03-05", "2026-06-20T15:00"))),
            ("2026-06-20T15:00", Some(("2026-06-20T15:00", "2026-06-27T15:00"))),
            ("2026-07-10", Some(("2026-07-04T15:00", "2026-07-11T15:00"))),
        ],
    );
    // A trial of ten days, then paid months; renewals were missed in between.
    let history = stripe(
        "2026-03-01T08:00",
        vec![
            known("2026-03-01T08:00", "2026-03-11T08:00"),
            known("2026-03-11T08:00", "2026-04-11T08:00"),
            known("2026-07-11T08:00", "2026-08-11T08:00"),
        ],
    );
    lies(
        &[history],
        &[
            ("2026-03-11T07:59", Some(("2026-03-01T08:00", "2026-03-11T08:00"))),
            ("2026-03-11T08:00", Some(("2026-03-11T08:00", "2026-04-11T08:00"))),
            ("2026-06-11T08:00", Some(("2026-06-11T08:00", "2026-07-11T08:00"))),
            ("2026-02-20", None),
        ],
    );
    // A trial that was made longer: the later event has its end.
    let mut longer = known("2026-03-01", "2026-03-15");
    (longer.end, longer.last_seen) = (at("2026-03-29"), at("2026-03-10"));
    let mut sold = known("2026-03-01", "2026-03-15");
    sold.rank = Some(4);
    lies(&[stripe("2026-03-01", vec![sold, longer])], &[("2026-03-20", Some(("2026-03-01", "2026-03-29")))]);
}

#[test]
fn periods_end_with_their_subscription() {
    let month = || vec![known("2026-10-26T09:00", "2026-11-26T09:00")];
    let within = Some(("2026-10-26T09:00", "2026-11-26T09:00"));
    // Cancelled with its period, and at once in the middle of it.
    let cancelled = |ended: &str| SubscriptionHistory {
        ended: Some(at(ended)),
        goes_on: false,
        ..stripe("2026-10-26T09:00", month())
    };
    lies(
        &[cancelled("2026-11-26T09:00")],
        &[("2026-11-26T08:30", within), ("2026-11-26T09:00", None), ("2026-10-26T08:59", None)],
    );
    lies(
        &[cancelled("2026-11-03T12:00")],
        &[("2026-11-03T11:59", Some(("2026-10-26T09:00", "2026-11-03T12:00"))), ("2026-11-03T12:00", None)],
    );
    // It will end: with the period, or in the middle of the next one.
    let ending = SubscriptionHistory { ends_with_period: true, ..stripe("2026-10-26T09:00", month()) };
    lies(&[ending], &[("2026-11-26T08:30", within), ("2026-11-26T09:00", None)]);
    let ending = SubscriptionHistory { until: Some(at("2026-12-06")), ..stripe("2026-10-26T09:00", month()) };
    lies(&[ending], &[("2026-12-05T23:59", Some(("2026-11-26T09:00", "2026-12-06"))), ("2026-12-06", None)]);
    // Nobody pays any more, and it has not ended: only the known periods count.
    let unpaid = SubscriptionHistory { goes_on: false, ..stripe("2026-10-26T09:00", month()) };
    lies(&[unpaid], &[("2026-11-26T08:59", within), ("2026-11-26T09:00", None)]);
}

#[test]
fn the_item_that_buys_the_plan_decides_the_period() {
    // The first item is a yearly add-on, which buys no plan; the second is the monthly plan.
    let addon = KnownPeriod { rank: None, ..known("2026-01-10", "2027-01-10") };
    let plan = |start, end| KnownPeriod { item_number: 1, ..known(start, end) };
    let history = stripe(
        "2026-01-10",
        vec![addon.clone(), plan("2026-05-20", "2026-06-20"), plan("2026-06-20", "2026-07-20")],
    );
    lies(&[history], &[("2026-06-19", Some(("2026-05-20", "2026-06-20")))]);
    // Both buy a plan: the first in the list counts while it is there.
    let yearly = KnownPeriod { last_seen: at("2026-06-20"), ..known("2026-01-10", "2027-01-10") };
    let history = stripe("2026-01-10", vec![yearly, plan("2026-05-20", "2026-06-20")]);
    lies(&[history], &[("2026-06-10", Some(("2026-01-10", "2027-01-10")))]);
    // The first item was removed before the other one was added.
    let yearly = KnownPeriod { last_seen: at("2026-04-01"), ..known("2026-01-10", "2027-01-10") };
    let history = stripe("2026-01-10", vec![yearly, plan("2026-05-20", "2026-06-20")]);
    lies(
        &[history],
        &[
            ("2026-05-19", Some(("2026-01-10", "2026-05-20"))),
            ("2026-06-10", Some(("2026-05-20", "2026-06-20"))),
        ],
    );
    // No item buys a plan: the first item counts.
    let other = KnownPeriod { rank: None, ..plan("2026-05-20", "2026-06-20") };
    lies(&[stripe("2026-01-10", vec![addon, other])], &[("2026-06-10", Some(("2026-01-10", "2027-01-10")))]);
}

#[test]
fn of_several_subscriptions_the_higher_rank_counts_and_each_keeps_its_own() {
    let basic = SubscriptionHistory {
        ended: Some(at("2026-05-01")),
        goes_on: false,
        ..stripe("2026-01-01", vec![known("2026-04-01", "2026-05-01")])
    };
    let pro = SubscriptionHistory {
        precedence: (Some(5), true, Some(at("2026-04-11"))),
        ended: Some(at("2026-04-21")),
        goes_on: false,
        ..stripe("2026-04-11T06:00", vec![known("2026-04-11T06:00", "2026-05-11T06:00")])
    };
    let local = SubscriptionHistory {
        local_periods: vec![
            LocalPeriods { start: at("2026-04-25"), end: at("2026-05-09"), months: None },
            LocalPeriods { start: at("2026-05-09"), end: at("2026-07-20"), months: Some(1) },
        ],
        precedence: (Some(0), false, Some(at("2026-04-25"))),
        ..SubscriptionHistory::default()
    };
    lies(
        &[basic, local, pro],
        &[
            ("2026-03-15", Some(("2026-03-01", "2026-04-01"))),
            ("2026-04-11T05:59", Some(("2026-04-01", "2026-05-01"))),
            ("2026-04-11T06:00", Some(("2026-04-11T06:00", "2026-04-21"))),
            // The subscription of lower rank goes on in its own period.
            ("2026-04-30", Some(("2026-04-01", "2026-05-01"))),
            ("2026-05-01", Some(("2026-04-25", "2026-05-09"))),
            ("2026-06-08", Some(("2026-05-09", "2026-06-09"))),
            // The paid time ends within a month.
            ("2026-07-19", Some(("2026-07-09", "2026-07-20"))),
            ("2026-07-20", None),
        ],
    );
}

#[test]
fn periods_of_a_rule_are_one_stretch_however_many_they_are() {
    let mut history = stripe("2016-01-31", Vec::new());
    history.anchor = Some(at("2016-01-31"));
    let cycle = Cycle { anchor: at("2016-01-31"), offset: 0, step: Step::Months(1) };
    for n in 3..120 {
        let (start, end) = (cycle.nth(n).expect("in range"), cycle.nth(n + 1).expect("in range"));
        history.known_periods.push(KnownPeriod { start, end, ..known("2016-01-31", "2016-02-29") });
    }
    assert_eq!(BillingPeriods::new(&[history]).0.len(), 1);
}
