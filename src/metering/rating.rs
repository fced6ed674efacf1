//! Rating: what a quantity costs by a rate card. Pure.

use rust_decimal::Decimal;

use super::rates::{Rate, RateCard, TierMode, Tiers};
use crate::quantity::Sum;

/// The index of the card's rate for usage with these dimensions; `None`: none fits.
#[must_use]
pub fn rate_for(card: &RateCard, dimensions: &[(String, String)]) -> Option<usize> {
    card.rates.iter().position(|rate| {
        let fits = |form: fn(&str) -> &str| {
            let has = |(name, value): (&String, &String)| {
                dimensions.iter().any(|(n, v)| n == name && v == form(value))
            };
            rate.when.iter().all(has)
        };
        fits(|value| value) || fits(as_number)
    })
}

/// A condition with a whole number such as `1.0` also fits the number `1`: usage stores `1`
/// ([`super::data::text`]), but whoever wrote the condition may have seen `1.0` in events. [`CONDITION`] is
/// the same in SQL.
fn as_number(value: &str) -> &str {
    let Some((whole, zeros)) = value.split_once('.') else { return value };
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let is_whole = (1..=15).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && (whole == "0" || !digits.starts_with('0'));
    let is_zero = !zeros.is_empty() && zeros.bytes().all(|byte| byte == b'0');
    if is_whole && is_zero { whole } else { value }
}

/// Whether the rate `e.rate` of a card fits the dimensions of the series `s`, as SQL: the rule of
/// [`rate_for`].
pub(crate) const CONDITION: &str = r"(s.dimensions @> coalesce(e.rate -> 'when', '{}') OR s.dimensions @> (
    SELECT coalesce(jsonb_object_agg(w.key,
        regexp_replace(w.value, '^(0|-?[1-9][0-9]{0,14})\.0+$', '\1')), '{}')
    FROM jsonb_each_text(coalesce(e.rate -> 'when', '{}')) AS w))";

/// The exact cost of `quantity` more when the period's quantity was `before`, which matters to tiers only.
/// `None`: it is [`crate::quantity::LIMIT`] or more, and sums of such costs would not be exact.
///
/// Nothing is rounded: costs below a cent add up until they are charged.
#[must_use]
pub fn cost(rate: &Rate, before: Sum, quantity: Decimal) -> Option<Sum> {
    let cost = match &rate.tiers {
        None => Sum::product(quantity, rate.unit_cost)?,
        // Differences of exact totals add up to the total, whatever the steps were.
        Some(tiers) => total(tiers, before + quantity)? - total(tiers, before)?,
    };
    Some(cost).filter(|cost| cost.is_bounded())
}

/// What a period costs by the rate's tiers from one quantity to another; 0 without tiers. `None`: it is too
/// large for a sum.
#[must_use]
pub fn between(rate: &Rate, from: Sum, to: Sum) -> Option<Sum> {
    let Some(tiers) = &rate.tiers else { return Some(Sum::ZERO) };
    Some(total(tiers, to)? - total(tiers, from)?)
}

/// The exact battery units of `quantity`. `None`: too many, as in [`cost`].
#[must_use]
pub fn battery_units(rate: &Rate, quantity: Decimal) -> Option<Sum> {
    Sum::product(quantity, rate.battery_units).filter(|units| units.is_bounded())
}

/// What all of a period's `quantity` costs.
fn total(tiers: &Tiers, quantity: Sum) -> Option<Sum> {
    if quantity <= Sum::ZERO {
        return Some(Sum::ZERO);
    }
    match tiers.mode {
        TierMode::Graduated => {
            let (mut cost, mut from) = (Sum::ZERO, Sum::ZERO);
            for tier in &tiers.tiers {
                let end = tier.up_to.map_or(quantity, |end| quantity.at_most(end));
                cost += (end - from).times(tier.unit_cost)? + tier.flat_cost;
                from = end;
                if from >= quantity {
                    break;
                }
            }
            Some(cost)
        }
        TierMode::Volume => {
            let fits = |end: Decimal| quantity <= Sum::from(end);
            let reached = tiers.tiers.iter().find(|tier| tier.up_to.is_none_or(fits))?;
            Some(quantity.times(reached.unit_cost)? + reached.flat_cost)
        }
        TierMode::Package => {
            let tier = tiers.tiers.first()?;
            let packages = quantity.packages(tier.package_size?)?;
            Some(Sum::from(packages).times(tier.unit_cost)? + tier.flat_cost)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::metering::rates::TierPeriod;

    fn decimal(text: &str) -> Decimal {
        text.parse().expect("a decimal")
    }

    fn rate(json: serde_json::Value) -> Rate {
        serde_json::from_value(json).expect("a rate")
    }

    fn graduated() -> Rate {
        rate(json!({ "tiers": { "mode": "graduated", "tiers": [
            { "up_to": "10", "unit_cost": "1" },
            { "up_to": "20", "unit_cost": "0.5", "flat_cost": "3" },
            { "unit_cost": "0.1" },
        ] } }))
    }

    fn volume() -> Rate {
        rate(json!({ "tiers": { "mode": "volume", "tiers": [
            { "up_to": "10", "unit_cost": "1" },
            { "up_to": "20", "unit_cost": "0.5", "flat_cost": "3" },
            { "unit_cost": "0.1" },
        ] } }))
    }

    fn package() -> Rate {
        rate(json!({ "tiers": { "mode": "package",
                "tiers": [{ "unit_cost": "7", "package_size": "1.5", "flat_cost": "2" }] } }))
    }

    /// Computed by hand, from an empty month.
    #[test]
    fn a_months_quantity_costs_what_its_tiers_say() {
        let table: [(Rate, &[(&str, &str)]); 3] = [
            (
                graduated(),
                &[
                    ("0", "0"),
                    ("0.5", "0.5"),
                    ("10", "10"),
                    // Above ten units the second tier begins: its flat cost, and its price for half a unit.
                    ("10.5", "13.25"),
                    ("20", "18"),
                    ("25", "18.5"),
                    ("-3", "0"),
                ],
            ),
            (
                volume(),
                // At twenty-one every unit costs a tenth, so more units can cost less.
                &[("0", "0"), ("10", "10"), ("10.5", "8.25"), ("20", "13"), ("21", "2.1"), ("-3", "0")],
            ),
            (
                package(),
                &[("0", "0"), ("0.1", "9"), ("1.5", "9"), ("1.6", "16"), ("3", "16"), ("3.01", "23")],
            ),
        ];
        for (rate, rows) in table {
            for (quantity, expected) in rows {
                let mode = rate.tiers.as_ref().expect("tiers").mode;
                assert_eq!(
                    cost(&rate, Sum::ZERO, decimal(quantity)),
                    Some(Sum::from(decimal(expected))),
                    "{mode:?} {quantity}"
                );
            }
        }
    }

    #[test]
    fn more_costs_what_it_adds_to_the_month() {
        for (rate, before, quantity, expected) in [
            // 2 × 1, the flat 3, 5 × 0.5
            (graduated(), "8", "7", "7.5"),
            (graduated(), "20", "5", "0.5"),
            // 13 in all, of which 10 are paid already
            (volume(), "10", "10", "3"),
            // 2.1 in all, and 13 are paid already
            (volume(), "20", "1", "-10.9"),
            (package(), "1", "0.5", "0"),
            (package(), "1.5", "0.5", "7"),
            // Voids take the month below zero
            (graduated(), "4", "-9", "-4"),
        ] {
            let got = cost(&rate, Sum::from(decimal(before)), decimal(quantity));
            assert_eq!(got, Some(Sum::from(decimal(expected))), "{:?}: {before} and {quantity}", rate.tiers);
        }
    }

    /// Computed by hand: an event's cost keeps every decimal place, so many small events cost as much as one
    /// event of their sum.
    #[test]
    fn nothing_is_too_small_to_cost() {
        for (price, quantity, one, million) in [
            // 0.09 per GB, five bytes.
            ("0.00000000009", "5", "0.00000000045", "0.00045"),
            ("0.0000000004", "1", "0.0000000004", "0.0004"),
            ("0.0000000006", "1", "0.0000000006", "0.0006"),
            // Less than the twelfth decimal place.
            ("0.000000000001", "0.4", "0.0000000000004", "0.0000004"),
            ("0.000000123457", "0.000001", "0.000000000000123457", "0.000000123457"),
            ("0.00000015", "7", "0.00000105", "1.05"),
        ] {
            let rate = rate(json!({ "unit_cost": price, "battery_units": price }));
            let (mut costs, mut units) = (Sum::ZERO, Sum::ZERO);
            for _ in 0..1_000_000 {
                costs += cost(&rate, Sum::ZERO, decimal(quantity)).expect("small");
                units += battery_units(&rate, decimal(quantity)).expect("small");
            }
            let once = cost(&rate, Sum::ZERO, decimal(quantity)).and_then(Sum::exact);
            assert_eq!(once, Some(decimal(one)), "{price} × {quantity}");
            assert_eq!([costs.exact(), units.exact()], [Some(decimal(million)); 2], "{price} × {quantity}");
        }
    }

    /// Extreme prices and quantities, also late in a month: the cost is below the limit, or there is none.
    /// Nothing panics.
    #[test]
    fn what_is_too_large_has_no_cost() {
        const LARGEST: &str = "999999999999999.999999999999";
        let tiers =
            |mode: &str, tiers: serde_json::Value| rate(json!({ "tiers": { "mode": mode, "tiers": tiers } }));
        let one_price =
            |mode: &str, price: &str| tiers(mode, json!([{ "unit_cost": price, "flat_cost": price }]));
        for price in [LARGEST, "999999999999999", "70000", "1", "0.000000000001"] {
            let rates = [
                rate(json!({ "unit_cost": price, "battery_units": price })),
                one_price("graduated", price),
                one_price("volume", price),
                tiers("package", json!([{ "unit_cost": price, "package_size": LARGEST }])),
                tiers("package", json!([{ "unit_cost": price, "package_size": "0.000000000001" }])),
                tiers("volume", json!([{ "up_to": "1", "unit_cost": price }, { "unit_cost": "0" }])),
            ];
            for rate in rates {
                for quantity in [LARGEST, "999999999999999", "70000000000000", "1", "0.000000000001"] {
                    for before in
                        ["0", "1", LARGEST, "79228162514264337593543950335", "-79228162514264337593543950335"]
                    {
                        for quantity in [decimal(quantity), -decimal(quantity)] {
                            let cost = cost(&rate, Sum::from(decimal(before)), quantity);
                            assert!(
                                cost.is_none_or(Sum::is_bounded),
                                "{rate:?} {before} {quantity}: {cost:?}"
                            );
                        }
                    }
                    let units = battery_units(&rate, decimal(quantity));
                    assert!(units.is_none_or(Sum::is_bounded), "{rate:?} {quantity}: {units:?}");
                }
            }
        }
        let dear = rate(json!({ "unit_cost": "999999999999999", "battery_units": "100" }));
        assert_eq!(cost(&dear, Sum::ZERO, decimal("1")), Some(Sum::from(decimal("999999999999999"))));
        assert_eq!(cost(&dear, Sum::ZERO, decimal("70000000000000")), None);
        assert_eq!(battery_units(&dear, decimal("10000000000000")), None);
    }

    #[test]
    fn the_first_rate_that_fits_counts() {
        let rates = json!([
            { "when": { "model": "a", "cached": "true" }, "unit_cost": "1" },
            { "when": { "model": "a" }, "unit_cost": "2" },
            { "when": { "model": "b" }, "unit_cost": 3 },
        ]);
        let card = RateCard {
            rate_card_id: 1,
            meter_id: 1,
            version: 1,
            plan: None,
            org_id: 0,
            org: None,
            period: TierPeriod::Month,
            price_by: None,
            valid_from: chrono::DateTime::UNIX_EPOCH,
            currency: "usd".to_owned(),
            rates: serde_json::from_value(rates).expect("rates"),
            created_at: chrono::DateTime::UNIX_EPOCH,
        };
        let of = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            rate_for(&card, &pairs)
        };
        assert_eq!(of(&[("cached", "true"), ("model", "a")]), Some(0));
        assert_eq!(of(&[("cached", "false"), ("model", "a")]), Some(1));
        assert_eq!(of(&[("model", "b")]), Some(2));
        assert_eq!(of(&[("model", "c")]), None);
        assert_eq!(of(&[]), None);
    }

    fn quantities() -> impl Strategy<Value = Vec<Decimal>> {
        // Voids are negative parts.
        prop::collection::vec(
            (-2_000_i64..5_000, 0_u32..4).prop_map(|(n, scale)| Decimal::new(n, scale)),
            1..20,
        )
    }

    /// Prices with many decimal places.
    fn crooked(mode: TierMode) -> Rate {
        let tiers = match mode {
            TierMode::Package => {
                json!([{ "unit_cost": "0.333333333333", "package_size": "0.7", "flat_cost": "0.1" }])
            }
            _ => json!([
                { "up_to": "3.333", "unit_cost": "0.333333333333", "flat_cost": "0.000000000007" },
                { "up_to": "777", "unit_cost": "0.142857142857" },
                { "unit_cost": "0.000000000001" },
            ]),
        };
        rate(json!({ "tiers": { "mode": mode, "tiers": tiers } }))
    }

    proptest! {
        #[test]
        fn any_split_of_a_quantity_costs_the_same_in_sum(
            parts in quantities(),
            mode in prop::sample::select(vec![TierMode::Graduated, TierMode::Volume, TierMode::Package]),
        ) {
            let rate = crooked(mode);
            let (mut before, mut sum, mut all) = (Sum::ZERO, Sum::ZERO, Decimal::ZERO);
            for part in &parts {
                sum += cost(&rate, before, *part).expect("small");
                before += *part;
                all += part;
            }
            prop_assert_eq!(Some(sum), cost(&rate, Sum::ZERO, all));
        }

        #[test]
        fn what_is_taken_back_is_undone_exactly(
            parts in quantities(),
            mode in prop::sample::select(vec![None, Some(TierMode::Graduated), Some(TierMode::Volume),
                Some(TierMode::Package)]),
        ) {
            let rate = mode.map_or_else(|| rate(json!({ "unit_cost": "0.333333333333",
                "battery_units": "0.77" })), crooked);
            let (mut before, mut costs, mut units) = (Sum::ZERO, Sum::ZERO, Sum::ZERO);
            let back = parts.iter().rev().map(|part| -part);
            for part in parts.iter().copied().chain(back) {
                costs += cost(&rate, before, part).expect("small");
                units += battery_units(&rate, part).expect("small");
                before += part;
            }
            prop_assert_eq!((before, costs, units), (Sum::ZERO, Sum::ZERO, Sum::ZERO));
        }
    }
}
