//! What a walk through an account reads: its steps. Pure.

use chrono::{DateTime, TimeDelta};
use serde::{Deserialize, Serialize};

use super::kinds::{LISTED, Listed, Params};
use super::window::Window;

/// How far back Stripe lists events, in days (<https://docs.stripe.com/api/events/list>).
const EVENT_DAYS: i64 = 30;
/// How far back a comparison reads everything, in days.
const RECENT_DAYS: i64 = 35;
/// A comparison reads this share of what is older: so the whole account is compared once a month.
const SHARES: i64 = 30;
/// Where the windows of a backfill end, in days before it began: more is sold lately than years ago.
const WINDOW_ENDS: &[i64] = &[0, 14, 60, 180, 365, 730];
const DAY_S: i64 = 86_400;
/// When Stripe began.
const STRIPE_BEGAN: i64 = 1_262_304_000;

/// What a step reads, and where it goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Plan {
    /// A list of objects with these parameters.
    List {
        params: Vec<(String, String)>,
        window: Window,
    },
    Events {
        window: Window,
    },
    /// What exists on test clocks.
    TestClocks,
    /// Objects that we hold as alive and that Stripe did not show since this second: read one by one.
    Unseen {
        before: i64,
        after: Option<(String, String)>,
    },
}

/// A step to plan: kind of object, what of it, for people, and where it begins.
pub(super) type NewStep = (String, String, Plan);

fn list_step(kind: &Listed, params: Params, from: i64, upper: i64) -> NewStep {
    let day =
        |at: i64| DateTime::from_timestamp(at, 0).map_or(String::new(), |at| at.date_naive().to_string());
    let named = params.iter().filter(|(name, _)| *name != "expand[]");
    let named: String = named.map(|(name, value)| format!("{name}={value}, ")).collect();
    let params = params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let what = format!("{named}created {} to {}", day(from), day(upper));
    (kind.object.to_owned(), what, Plan::List { params, window: Window::new(from, upper) })
}

/// Everything up to now: windows of a fixed upper bound, so that what is created meanwhile moves no page.
pub(super) fn of_backfill(now: i64, livemode: bool) -> Vec<NewStep> {
    let days = |days: i64| now - TimeDelta::days(days).num_seconds();
    let events = Plan::Events { window: Window::new(days(EVENT_DAYS), now) };
    let mut steps = vec![("event".to_owned(), format!("the last {EVENT_DAYS} days"), events)];
    for kind in LISTED {
        for params in kind.variants {
            for (n, end) in WINDOW_ENDS.iter().enumerate() {
                let from = WINDOW_ENDS.get(n + 1).map_or(STRIPE_BEGAN, |end| days(*end) + 1);
                steps.push(list_step(kind, params, from, days(*end)));
            }
        }
    }
    if !livemode {
        let what = "on test clocks".to_owned();
        steps.push(("test_helpers.test_clock".to_owned(), what, Plan::TestClocks));
    }
    steps.push(unseen_step(now));
    steps
}

fn unseen_step(before: i64) -> NewStep {
    let what = "held as alive, and not in a list".to_owned();
    ("unseen".to_owned(), what, Plan::Unseen { before, after: None })
}

/// What is new, what may still change, and a share of the rest.
pub(super) fn of_comparison(now: i64) -> Vec<NewStep> {
    let recent = now - TimeDelta::days(RECENT_DAYS).num_seconds();
    let share = (recent - STRIPE_BEGAN) / SHARES + 1;
    let begin = STRIPE_BEGAN + share * (now / DAY_S % SHARES);
    // The shares move by up to a day from one night to the next.
    let from = (begin - DAY_S).max(STRIPE_BEGAN);
    let mut steps = Vec::new();
    for kind in LISTED {
        for params in kind.variants {
            steps.push(list_step(kind, params, recent + 1, now));
            steps.push(list_step(kind, params, from, (begin + share - 1).min(recent)));
        }
        for params in kind.alive {
            steps.push(list_step(kind, params, STRIPE_BEGAN, recent));
        }
    }
    // What the shares of a month did not show.
    steps.push(unseen_step(recent));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_a_backfill_have_no_gap_and_no_overlap() {
        let now = 1_795_000_000;
        let steps = of_backfill(now, true);
        for kind in LISTED {
            for params in kind.variants {
                let params: Vec<(String, String)> =
                    params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
                let windows = steps.iter().filter(|(object, ..)| object == kind.object);
                let mut windows: Vec<(i64, i64)> = windows
                    .filter_map(|(.., plan)| match plan {
                        Plan::List { params: own, window } if *own == params => {
                            Some((window.from, window.upper))
                        }
                        _ => None,
                    })
                    .collect();
                windows.sort_unstable();
                assert_eq!(
                    (windows[0].0, windows[windows.len() - 1].1),
                    (STRIPE_BEGAN, now),
                    "{}",
                    kind.object
                );
                assert!(windows.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{windows:?}");
            }
        }
    }

    #[test]
    fn thirty_comparisons_read_all_of_the_past() {
        let day = 86_400;
        let now = 1_795_000_000;
        let mut windows: Vec<(i64, i64)> = (0..SHARES)
            .filter_map(|n| {
                let steps = of_comparison(now + n * day);
                steps.into_iter().find_map(|(object, _, plan)| match plan {
                    Plan::List { window, .. } if object == "product" && window.from < now - 40 * day => {
                        Some((window.from, window.upper))
                    }
                    _ => None,
                })
            })
            .collect();
        windows.sort_unstable();
        assert!(windows.windows(2).all(|pair| pair[1].0 <= pair[0].1 + 1), "{windows:?}");
        assert_eq!(windows[0].0, STRIPE_BEGAN);
        assert!(windows[windows.len() - 1].1 >= now - (RECENT_DAYS + 1) * day);
    }
}
