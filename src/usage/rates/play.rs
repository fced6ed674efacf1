//! Which cards of a meter matter to a month. A price change within a month goes on in the tiers where the
//! month stands, so usage counts to the tiers of every card that prices any of the month, whichever card
//! priced it.
//!
//! Zuora's on-demand rating reckons likewise: what all of a period's usage costs, less what was charged for
//! it (<https://docs.zuora.com/en/zuora-billing/bill-your-customer/rating/on-demand-usage-rating>).

use chrono::{DateTime, Days, Months, NaiveDate, NaiveTime, Utc};

use super::RateCard;

/// No local month begins or ends so far from that of UTC, whatever zone an org had when its usage came.
const SLACK_DAYS: u64 = 2;

/// The instants that a local month lies within, in every zone.
#[derive(Clone, Copy)]
pub(in crate::usage) struct Around {
    from: DateTime<Utc>,
    before: DateTime<Utc>,
}

impl Around {
    /// Those of the month that begins with this day.
    pub(in crate::usage) fn month(first: NaiveDate) -> Self {
        let at = |day: Option<NaiveDate>, or: DateTime<Utc>| {
            day.map_or(or, |day| day.and_time(NaiveTime::MIN).and_utc())
        };
        let next = first.checked_add_months(Months::new(1));
        Self {
            from: at(first.checked_sub_days(Days::new(SLACK_DAYS)), DateTime::<Utc>::MIN_UTC),
            before: at(
                next.and_then(|day| day.checked_add_days(Days::new(SLACK_DAYS))),
                DateTime::<Utc>::MAX_UTC,
            ),
        }
    }
}

/// The places of the cards that price usage of the month, as cards are now. `cards` are of one meter, in the
/// order in which they count: the latest first. As SQL: [`IN_PLAY`].
pub(in crate::usage) fn in_play<'a>(
    cards: impl Iterator<Item = &'a RateCard> + Clone + 'a,
    month: Around,
) -> impl Iterator<Item = usize> + 'a {
    let after = std::iter::once(None).chain(cards.clone().map(|card| Some(card.valid_from)));
    cards
        .zip(after)
        .enumerate()
        // A card ends where the one that counts before it begins.
        .take_while(move |(_, (_, end))| end.is_none_or(|end| end > month.from))
        .filter(move |(_, (card, end))| card.valid_from < month.before && *end != Some(card.valid_from))
        .map(|(place, _)| place)
}

/// [`in_play`] as SQL, of a card `c` that ends at `next_from` and a month `month`.
pub(in crate::usage) fn in_play_sql(card: &str, month: &str) -> String {
    let at = |day: String| format!("(({day}) AT TIME ZONE 'UTC')");
    let begin = at(format!("{month}::timestamp - interval '{SLACK_DAYS} days'"));
    let end = at(format!("{month}::timestamp + interval '1 month' + interval '{SLACK_DAYS} days'"));
    format!(
        "({card}.valid_from < {end} AND ({card}.next_from IS NULL
            OR ({card}.next_from > {card}.valid_from AND {card}.next_from > {begin})))"
    )
}

/// Every card with the start of the one that follows it, as SQL.
pub(in crate::usage) const CARDS: &str = "(SELECT rate_card_id, meter_id, valid_from, version, rates,
    lead(valid_from) OVER (PARTITION BY meter_id ORDER BY valid_from, version) AS next_from FROM rate_cards)";

/// Whether no other card can have priced any usage of the month. One that was replaced as a whole before the
/// month began cannot.
pub(in crate::usage) fn is_alone(cards: &[&RateCard], place: usize, month: Around) -> bool {
    let replaced = |n: usize| {
        let card = cards[n];
        cards[..n]
            .iter()
            .any(|later| later.valid_from <= card.valid_from.max(month.from) && later.created_at < month.from)
    };
    (0..cards.len()).all(|n| n == place || cards[n].valid_from >= month.before || replaced(n))
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
            // What came in March for March may have been priced by card 2, made and replaced within it; in
            // May it cannot.
            ("2026-05-01", &[3], &[3]),
            // In a zone ahead of UTC, July's first hours are June's last.
            ("2026-06-01", &[4, 3], &[]),
            ("2026-09-01", &[4], &[4]),
        ] {
            let around = Around::month(month.parse().expect("a day"));
            let told: Vec<i32> =
                in_play(all.iter().copied(), around).map(|place| all[place].version).collect();
            assert_eq!(told, playing, "{month}");
            let told: Vec<i32> = (0..4)
                .filter(|place| is_alone(&all, *place, around))
                .map(|place| all[place].version)
                .collect();
            assert_eq!(told, alone, "{month}");
        }
    }
}
