//! Cases of corrections and closed months.

use serde_json::json;

use super::Case;
use super::Step::{Amend, Close, Cost, Use, Used, Void};
use super::prices::{graduated, package, volume};

const OCT: &str = "2026-10-27";
const NOV: &str = "2026-11-20";

#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn cases() -> Vec<Case> {
    vec![
        (
            "a flat price, closed",
            json!([{ "unit_cost": "0.8" }]),
            vec![
                Use("1", OCT, "150"),
                Close,
                Used("150", "0"),
                Void("1"),
                Cost("120", "-120"),
                Used("0", "0"),
            ],
        ),
        (
            // 3 × 0.333333333333, amended to 7: 2.333333333331 in all
            "a flat price that does not come out even",
            json!([{ "unit_cost": "0.333333333333" }]),
            vec![
                Use("1", OCT, "3"),
                Close,
                Amend("1", "7"),
                Cost("0.999999999999", "1.333333333332"),
                Void("1"),
                Cost("0.999999999999", "-0.999999999999"),
            ],
        ),
        (
            // 100 + 50 × 0.5
            "graduated, closed",
            graduated(),
            vec![
                Use("1", OCT, "150"),
                Close,
                Void("1"),
                Cost("125", "-125"),
                Use("2", NOV, "20"),
                Cost("125", "-105"),
                Use("3", NOV, "130"),
                // 100 + 50 × 0.5 of November, less 125
                Cost("125", "0"),
                Used("0", "150"),
            ],
        ),
        (
            // 80 at 1; then 20 at 1 and 30 at 0.5. Without the first event October would have cost 50: 65
            // less.
            "graduated, closed, the first of two",
            graduated(),
            vec![
                Use("1", OCT, "80"),
                Use("2", OCT, "50"),
                Cost("115", "0"),
                Close,
                Void("1"),
                Cost("115", "-65"),
                Void("2"),
                Cost("115", "-115"),
                Used("0", "0"),
            ],
        ),
        (
            // 150 would cost 125, 140 cost 120
            "graduated, amended",
            graduated(),
            vec![Use("1", OCT, "150"), Close, Amend("1", "140"), Cost("125", "-5"), Used("140", "0")],
        ),
        (
            // 100 and 120 × 0.5 in November; October's void is not rated in November's tiers.
            "graduated, with much in the open month",
            graduated(),
            vec![
                Use("1", OCT, "90"),
                Use("2", NOV, "220"),
                Close,
                Void("1"),
                Cost("90", "70"),
                Amend("2", "100"),
                Cost("90", "10"),
                Used("0", "100"),
            ],
        ),
        (
            // 60 and 50 are 110: 44 + 3. Without the 50 they would cost 60: 13 more.
            "volume, closed",
            volume(),
            vec![
                Use("1", OCT, "60"),
                Use("2", OCT, "50"),
                Cost("47", "0"),
                Close,
                Void("2"),
                Cost("47", "13"),
                Void("1"),
                Cost("47", "-47"),
            ],
        ),
        (
            "volume, open",
            volume(),
            vec![
                Use("1", NOV, "60"),
                Use("2", NOV, "50"),
                Void("1"),
                Cost("0", "50"),
                Amend("2", "200"),
                Cost("0", "83"),
                Void("2"),
                Cost("0", "0"),
            ],
        ),
        (
            // 25 are three packages, 34 four; 25 again three
            "packages, closed",
            package(),
            vec![
                Use("1", OCT, "25"),
                Use("2", OCT, "9"),
                Cost("28", "0"),
                Close,
                Void("2"),
                Cost("28", "-7"),
                Amend("1", "30"),
                Cost("28", "-7"),
                Amend("1", "31"),
                Cost("28", "0"),
                Void("1"),
                Cost("28", "-28"),
            ],
        ),
        (
            "packages, open",
            package(),
            vec![
                Use("1", NOV, "25"),
                Use("2", NOV, "9"),
                Void("1"),
                Cost("0", "7"),
                Void("2"),
                Cost("0", "0"),
            ],
        ),
        (
            // Late usage is rated in its month, which was at 90: 10 at 1, 10 at 0.5.
            "late usage of a closed month",
            graduated(),
            vec![
                Use("1", OCT, "90"),
                Close,
                Use("2", OCT, "20"),
                Cost("90", "15"),
                Used("110", "0"),
                Void("2"),
                Cost("90", "0"),
                Used("90", "0"),
            ],
        ),
        (
            "late usage that is amended, and taken back when more has come",
            graduated(),
            vec![
                Use("1", OCT, "90"),
                Close,
                Use("2", OCT, "20"),
                Amend("2", "60"),
                // 10 at 1, 50 at 0.5
                Cost("90", "35"),
                Use("3", NOV, "10"),
                Cost("90", "45"),
                Void("1"),
                // 60 at 1 instead of 125
                Cost("90", "-20"),
                Used("60", "10"),
            ],
        ),
        (
            "taken back before the closing",
            graduated(),
            vec![Use("1", OCT, "150"), Void("1"), Close, Cost("0", "0"), Used("0", "0")],
        ),
        (
            "amended before the closing and taken back after it",
            graduated(),
            vec![
                Use("1", OCT, "150"),
                Amend("1", "120"),
                Close,
                Void("1"),
                Cost("110", "-110"),
                Used("0", "0"),
            ],
        ),
    ]
}
