//! Usage above a limit that refuses usage.

use chrono::Utc;
use coulomb::billing::directory::Directory;
use coulomb::billing::org_name::OrgName;
use coulomb::metering::counters::{self, CounterKey};
use coulomb::metering::periods::UsageTime;
use coulomb::quota::enforce::{Demand, Refusal, enforce};
use rust_decimal::Decimal;

use super::platform;
use crate::support::requests::{exempt, quota, reserve};

#[tokio::test]
async fn usage_over_a_refusing_limit_is_not_admitted() {
    let refusing = quota(100).with("refuse_usage", true);
    let world = platform().with(refusing).with(quota(5).period("month")).start().await;
    world.send(exempt("staff")).await.status(201);
    world.reserved(reserve(3).with("expires_in_s", 1).id("short")).await;
    world.execute("UPDATE quota_reservations SET expires_at = now() + interval '1 hour'");
    let mut conn = world.platform();
    let rules = coulomb::quota::rulebook::RulebookCache::default().refresh(&mut conn).expect("reads");
    let org = OrgName::of_any("acme", "org").find(&Directory::default(), &mut conn).expect("is there");
    assert!(rules.limits.may_refuse(&org));
    let now = Utc::now();
    let uses = |amount: i64| -> Vec<(CounterKey, Decimal)> {
        let slots = counters::slots_for(&rules.catalog, org.org_id, 1, &[]);
        slots
            .map(|slot| {
                (CounterKey::new(slot, org.org_id, None, UsageTime::of(&org, now)), Decimal::from(amount))
            })
            .collect()
    };
    let asked =
        [(60, None), (38, None), (37, None), (1, None), (500, Some("staff")), (-600, None), (1, None)];
    let all: Vec<_> = asked.iter().map(|(amount, subject)| (uses(*amount), *subject)).collect();
    let demands: Vec<Demand<'_>> = all
        .iter()
        .map(|(counters, subject)| Demand { org: &org, subject: *subject, counters, units: Decimal::ZERO })
        .collect();
    let (verdicts, _) = enforce(&mut conn, &rules, &demands, &mut (), now).expect("decides");
    let refused: Vec<bool> = verdicts.iter().map(Option::is_some).collect();
    // 60 fits, then 38 is too much with the 3 reserved, 37 fits exactly.
    assert_eq!(refused, [false, true, false, true, false, false, false]);
    let Some(Refusal::Quota(why)) = &verdicts[1] else { panic!("refused") };
    let told = (why.used.0, why.reserved.0, why.remaining.map(|left| left.0));
    assert_eq!(told, (60.into(), 3.into(), Some(37.into())));
    assert_eq!(world.counters(), "0/3 0/3", "a decision changes nothing");
    // An expired reservation no longer counts, and is ended.
    let later = now + chrono::TimeDelta::hours(2);
    let (verdicts, _) = enforce(&mut conn, &rules, &demands[1..2], &mut (), later).expect("decides");
    assert!(verdicts[0].is_none());
    assert_eq!(world.counters(), "0/0 0/0");
    let uses: Vec<_> = uses(98).into_iter().map(|(key, quantity)| (key, quantity.into())).collect();
    let moved = counters::add(&mut conn, &uses).expect("adds");
    assert_eq!(moved.iter().map(|moved| moved.used.shown()).collect::<Vec<_>>(), [98.into(), 98.into()]);
}
