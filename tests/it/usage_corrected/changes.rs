//! Cases of price changes within a month.

use serde_json::json;

use super::Case;
use super::Step::{Amend, Card, Close, Cost, Use, Void};
use super::prices::{dearer, free, graduated, package, tiers};

const CHANGE: &str = "2026-11-10T00:00:00Z";
const BEFORE: &str = "2026-11-05";
const AFTER: &str = "2026-11-15";

#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn cases() -> Vec<Case> {
    vec![
        (
            // 60 at 1; 40 × 2 and 20 × 1; 60 at 0.5, because the month is at 120. Voiding the last gives back
            // the first card's cost of 120 less its price of 60. 10 more are at 120 again, although that card
            // counts in no month any more.
            "amended under a card that was replaced since",
            graduated(),
            vec![
                Use("1", BEFORE, "60"),
                Card(CHANGE, dearer()),
                Use("2", AFTER, "60"),
                Use("3", BEFORE, "60"),
                Cost("0", "190"),
                Card("2026-10-01T00:00:00Z", dearer()),
                Amend("3", "10"),
                Cost("0", "165"),
                Void("3"),
                Cost("0", "160"),
            ],
        ),
        (
            // As before, but no card was replaced: the counter equals the records.
            "amended under a card that counts still",
            graduated(),
            vec![
                Use("1", BEFORE, "60"),
                Card(CHANGE, dearer()),
                Use("2", AFTER, "60"),
                Use("3", BEFORE, "60"),
                Amend("3", "10"),
                Cost("0", "165"),
            ],
        ),
        (
            // 10 of the later 90 are free, 80 cost 0.12. The first ones cost nothing, so nothing is given
            // back.
            "the allowance is the month's",
            free("0.1"),
            vec![
                Use("1", BEFORE, "90"),
                Card(CHANGE, free("0.12")),
                Use("2", AFTER, "90"),
                Cost("0", "9.6"),
                Void("1"),
                Cost("0", "9.6"),
                Void("2"),
                Cost("0", "0"),
            ],
        ),
        (
            "the later is taken back first",
            free("0.1"),
            vec![
                Use("1", BEFORE, "90"),
                Card(CHANGE, free("0.12")),
                Use("2", AFTER, "90"),
                Void("2"),
                Cost("0", "0"),
                Use("3", AFTER, "15"),
                // 10 free, 5 at 0.12
                Cost("0", "0.6"),
            ],
        ),
        (
            // 110: 10 at 0.1. Amended to 120, the event keeps its place: 20 at 0.1.
            "an amendment stands where the event stood",
            free("0.1"),
            vec![
                Use("1", BEFORE, "110"),
                Card(CHANGE, free("0.12")),
                Use("2", AFTER, "50"),
                Cost("0", "7"),
                Amend("1", "120"),
                Cost("0", "8"),
                Amend("2", "60"),
                Cost("0", "9.2"),
            ],
        ),
        (
            // The month is at 140 when the late 10 come: 10 at the old 0.1.
            "late usage of the time before",
            free("0.1"),
            vec![
                Use("1", BEFORE, "90"),
                Card(CHANGE, free("0.12")),
                Use("2", AFTER, "50"),
                Cost("0", "4.8"),
                Use("3", BEFORE, "10"),
                Cost("0", "5.8"),
                Void("3"),
                Cost("0", "4.8"),
            ],
        ),
        (
            // 90 at a flat 0.2 are 18; the month is at 90, so 10 are free and 20 cost 0.12.
            "from a flat price to tiers",
            json!([{ "unit_cost": "0.2" }]),
            vec![
                Use("1", BEFORE, "90"),
                Card(CHANGE, free("0.12")),
                Use("2", AFTER, "30"),
                Cost("0", "20.4"),
                Void("1"),
                Cost("0", "2.4"),
            ],
        ),
        (
            "from tiers to a flat price and back",
            free("0.1"),
            vec![
                Use("1", BEFORE, "90"),
                Card(CHANGE, json!([{ "unit_cost": "0.2" }])),
                Use("2", AFTER, "20"),
                Cost("0", "4"),
                Card("2026-11-18T00:00:00Z", free("0.12")),
                Use("3", "2026-11-19", "5"),
                // The month is at 110.
                Cost("0", "4.6"),
            ],
        ),
        (
            // One rate for all becomes one for model a: its usage of the month counts.
            "from one rate to one by dimension",
            free("0.1"),
            vec![
                Use("1", BEFORE, "90"),
                Card(
                    CHANGE,
                    json!([{ "when": { "model": "a" }, "tiers": { "mode": "graduated", "tiers": [
                        { "up_to": "100", "unit_cost": "0" }, { "unit_cost": "0.3" } ] } },
                            { "unit_cost": "1" }]),
                ),
                Use("2", AFTER, "20"),
                Cost("0", "3"),
            ],
        ),
        (
            // 95 in packages of ten: 70. Then the month is in its tenth package, and 6 more start the
            // eleventh.
            "packages",
            package(),
            vec![
                Use("1", BEFORE, "95"),
                Card(CHANGE, tiers("package", json!([{ "unit_cost": "8", "package_size": "10" }]))),
                Use("2", AFTER, "5"),
                Cost("0", "70"),
                Use("3", AFTER, "1"),
                Cost("0", "78"),
            ],
        ),
        (
            // A card that was replaced before it priced anything changes nothing.
            "a card that is replaced by another of the same time",
            free("0.1"),
            vec![
                Card(CHANGE, free("5")),
                Use("1", BEFORE, "90"),
                Card(CHANGE, free("0.12")),
                Use("2", AFTER, "30"),
                Cost("0", "2.4"),
            ],
        ),
        (
            // Both belong to October; given back in November.
            "in a closed month",
            free("0.1"),
            vec![
                Use("1", "2026-10-05", "120"),
                Card("2026-10-10T00:00:00Z", free("0.12")),
                Use("2", "2026-10-15", "50"),
                Cost("8", "0"),
                Close,
                Void("2"),
                Cost("8", "-6"),
                Void("1"),
                Cost("8", "-8"),
            ],
        ),
    ]
}
