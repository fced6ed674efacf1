//! The cards of a meter that may price usage of a period. After a price change within a period the tiers go
//! on with the period's quantity. So usage counts in the tiers of every card that may price usage of the
//! period, of whatever org or plan, whichever card priced it: an org may get a plan, leave it and come back.
//!
//! Zuora's on-demand rating does likewise: what all usage of a period costs, less what was charged for it
//! (<https://docs.zuora.com/en/zuora-billing/bill-your-customer/rating/on-demand-usage-rating>).

use chrono::{DateTime, Days, Months, NaiveDate, NaiveTime, Utc};

use super::{RateCard, TierPeriod};
use crate::metering::periods::Period;

/// A local month begins and ends less than this from the month in UTC, in every zone.
const SLACK_DAYS: u64 = 2;

/// Instants before and after a period, `[from, before)`.
#[derive(Clone, Copy)]
pub(crate) struct PeriodSpan {
    from: DateTime<Utc>,
    before: DateTime<Utc>,
}

impl PeriodSpan {
    /// The span of a local month in every zone. The end of a billing period may still change, so its span has
    /// no end.
    pub(crate) fn new(period: Period) -> Self {
        if let Some(began) = period.began {
            return Self { from: began, before: DateTime::<Utc>::MAX_UTC };
        }
        let at = |day: Option<NaiveDate>, or: DateTime<Utc>| {
            day.map_or(or, |day| day.and_time(NaiveTime::MIN).and_utc())
        };
        let next = period.label.checked_add_months(Months::new(1));
        Self {
            from: at(period.label.checked_sub_days(Days::new(SLACK_DAYS)), DateTime::<Utc>::MIN_UTC),
            before: at(
                next.and_then(|day| day.checked_add_days(Days::new(SLACK_DAYS))),
                DateTime::<Utc>::MAX_UTC,
            ),
        }
    }
}

impl RateCard {
    /// The period in which its tiers count usage of this local day and billing period. As SQL: [`PERIOD`] and
    /// [`BEGAN`].
    pub(crate) fn period_of(&self, day: NaiveDate, billing: Option<DateTime<Utc>>) -> Period {
        match self.period {
            TierPeriod::Month => Period::month(day),
            TierPeriod::Billing => Period::billing(billing, day),
        }
    }
}

/// The beginning of the billing period in which a card `c` counts usage `r`, as SQL; epoch: it counts by the
/// month.
pub(crate) const BEGAN: &str = "coalesce(CASE c.period WHEN 'billing' THEN r.billing_start END, 'epoch')";

/// The label of the period in which a card `c` counts usage `r` of the local month `r.month`, as SQL.
pub(crate) const PERIOD: &str =
    "coalesce(CASE c.period WHEN 'billing' THEN (r.billing_start AT TIME ZONE 'UTC')::date END, r.month)";

/// The indexes of the cards that may price usage of a period, each with its period (`period_of`). `cards` are
/// of one meter, in the order of precedence. As SQL: [`in_play_sql`].
pub(crate) fn in_play<'a>(
    cards: impl Iterator<Item = &'a RateCard> + Clone + 'a,
    period_of: impl Fn(&RateCard) -> Period + 'a,
) -> impl Iterator<Item = (usize, Period)> + 'a {
    let before = std::iter::once(None).chain(cards.clone().map(Some));
    cards.zip(before).enumerate().filter_map(move |(index, (card, before))| {
        // A card ends where the next one of the same owner and currency begins.
        let next = before.filter(|before| before.is_of_same_list(card)).map(|next| next.valid_from);
        let period = period_of(card);
        let span = PeriodSpan::new(period);
        let plays = card.valid_from < span.before
            && next.is_none_or(|next| next > span.from && next > card.valid_from);
        plays.then_some((index, period))
    })
}

/// [`in_play`] as SQL, for a card of [`CARDS`] and expressions for the period's label and beginning.
pub(crate) fn in_play_sql(card: &str, period: &str, began: &str) -> String {
    let at = |day: String| format!("(({day}) AT TIME ZONE 'UTC')");
    let begin = at(format!("{period}::timestamp - interval '{SLACK_DAYS} days'"));
    let end = at(format!("{period}::timestamp + interval '1 month' + interval '{SLACK_DAYS} days'"));
    format!(
        "(({began} > 'epoch' OR {card}.valid_from < {end}) AND ({card}.next_from IS NULL
            OR ({card}.next_from > {card}.valid_from
                AND {card}.next_from > CASE WHEN {began} > 'epoch' THEN {began} ELSE {begin} END)))"
    )
}

/// Every card with the start of the next one of its owner in its currency, as SQL.
pub(crate) const CARDS: &str = "(SELECT rate_card_id, meter_id, org_id, period, valid_from, version, rates,
          lead(valid_from) OVER (PARTITION BY meter_id, org_id, plan_id, currency
              ORDER BY valid_from, version) AS next_from
      FROM rate_cards)";

/// Whether no card but the one at `index` can have priced usage of the period. A card cannot when another of
/// its owner replaced it as a whole before the period began.
pub(crate) fn is_only_card(cards: &[&RateCard], index: usize, period: Period) -> bool {
    let span = PeriodSpan::new(period);
    let is_replaced = |n: usize| {
        let card = cards[n];
        cards[..n].iter().any(|later| {
            later.is_of_same_list(card)
                && later.valid_from <= card.valid_from.max(span.from)
                && later.created_at < span.from
        })
    };
    (0..cards.len()).all(|n| n == index || cards[n].valid_from >= span.before || is_replaced(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(n: i32, valid_from: &str, created_at: &str) -> RateCard {
        let at = |text: &str| text.parse().expect("a time");
        RateCard {
            rate_card_id: n,
            meter_id: 1,
            version: n,
            plan: None,
            org_id: 0,
            org: None,
            period: TierPeriod::Month,
            price_by: None,
            valid_from: at(valid_from),
            currency: "usd".to_owned(),
            rates: Vec::new(),
            created_at: at(created_at),
        }
    }

    /// Cards 1 to 4: one of January, one of 10 March, one that replaced that before it began, one of July.
    #[test]
    fn a_month_has_the_cards_that_price_any_of_it() {
        let cards = [
            card(4, "2026-07-01T00:00:00Z", "2026-06-01T00:00:00Z"),
            card(3, "2026-03-10T00:00:00Z", "2026-03-02T00:00:00Z"),
            card(2, "2026-03-10T00:00:00Z", "2026-03-01T00:00:00Z"),
            card(1, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ];
        let all: Vec<&RateCard> = cards.iter().collect();
        for (month, playing, alone) in [
            ("2026-01-01", &[1][..], &[1][..]),
            ("2026-03-01", &[3, 1], &[]),
            // Usage of March that arrived in March may have the price of card 2, which was made and replaced
            // in March. Usage that arrives in May cannot.
            ("2026-05-01", &[3], &[3]),
            // In a zone ahead of UTC, July begins during the last hours of June.
            ("2026-06-01", &[4, 3], &[]),
            ("2026-09-01", &[4], &[4]),
        ] {
            let day: NaiveDate = month.parse().expect("a day");
            let period = Period { label: day, began: None };
            let told: Vec<i32> = in_play(all.iter().copied(), |card| card.period_of(day, None))
                .map(|(place, _)| all[place].version)
                .collect();
            assert_eq!(told, playing, "{month}");
            let told: Vec<i32> = (0..4)
                .filter(|place| is_only_card(&all, *place, period))
                .map(|place| all[place].version)
                .collect();
            assert_eq!(told, alone, "{month}");
        }
    }

    /// Plan pro's cards by billing period, from 10 March and from 1 June; the meter's card of January.
    #[test]
    fn a_billing_period_has_the_cards_that_price_any_of_it() {
        let billing = |n, valid_from| RateCard {
            plan: Some("pro".to_owned()),
            period: TierPeriod::Billing,
            ..card(n, valid_from, "2026-01-01T00:00:00Z")
        };
        let cards = [
            billing(3, "2026-06-01T00:00:00Z"),
            billing(2, "2026-03-10T00:00:00Z"),
            card(1, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ];
        for (day, began, playing) in [
            // Card 3 may begin before the period ends.
            ("2026-04-02", Some("2026-03-20T08:00:00Z"), &[3, 2, 1][..]),
            ("2026-06-15", Some("2026-06-01T00:00:00Z"), &[3, 1]),
            // Without a billing period usage counts by the month.
            ("2026-04-02", None, &[2, 1]),
        ] {
            let day: NaiveDate = day.parse().expect("a day");
            let began: Option<DateTime<Utc>> = began.map(|began| began.parse().expect("a time"));
            let told: Vec<(usize, Period)> =
                in_play(cards.iter(), |card| card.period_of(day, began)).collect();
            let versions: Vec<i32> = told.iter().map(|(place, _)| cards[*place].version).collect();
            assert_eq!(versions, playing, "{day}");
            let periods: Vec<_> = told.iter().map(|(_, period)| period.began).collect();
            let meters = periods.last().copied().flatten();
            assert_eq!((periods[0], meters), (began, None), "{day}");
        }
    }
}
