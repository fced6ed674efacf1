//! Usage over a limit that refuses it.

use chrono::Utc;
use coulomb::billing::directory::Directory;
use coulomb::billing::org_name::OrgName;
use serde_json::json;

use super::House;
#[tokio::test]
async fn usage_over_a_refusing_limit_is_not_admitted() {
    use coulomb::metering::counters::{self, CounterKey};
    use coulomb::quota::enforce::{Demand, admit};
    use rust_decimal::Decimal;

    let house = House::new().await;
    house.quota(json!(100), json!({ "refuse_usage": true })).await;
    house.quota(json!(5), json!({ "period": "month" })).await;
    house.database.execute(&format!(
        "INSERT INTO quota_exemptions SELECT org_id, 'qex_1', 1, 'staff', 'ours', now() FROM orgs;
         UPDATE catalog SET version = version + 1; SELECT '{}'",
        house.org
    ));
    house.reserved(json!(3), json!({ "expires_in_s": 1, "id": "short" })).await;
    house.database.execute("UPDATE quota_reservations SET expires_at = now() + interval '1 hour'");
    let mut conn = house.database.platform();
    let (catalog, limits) =
        (coulomb::metering::catalog::CatalogCache::default(), coulomb::quota::limits::LimitsCache::default());
    let (catalog, limits) =
        (catalog.refresh(&mut conn).expect("reads"), limits.refresh(&mut conn).expect("reads"));
    let org = OrgName::of_any("acme", "org").find(&Directory::default(), &mut conn).expect("is there");
    assert!(limits.may_refuse(&org));
    let now = Utc::now();
    let uses = |amount: i64| -> Vec<(CounterKey, Decimal)> {
        let slots = counters::slots_for(&catalog, org.org_id, 1, &[]);
        slots
            .map(|slot| (CounterKey::new(slot, org.org_id, None, org.day(now), None), Decimal::from(amount)))
            .collect()
    };
    let asked =
        [(60, None), (38, None), (37, None), (1, None), (500, Some("staff")), (-600, None), (1, None)];
    let all: Vec<_> = asked.iter().map(|(amount, subject)| (uses(*amount), *subject)).collect();
    let demands: Vec<Demand<'_>> = all
        .iter()
        .map(|(counters, subject)| Demand {
            org: &org,
            subject: *subject,
            counters,
            units: rust_decimal::Decimal::ZERO,
        })
        .collect();
    let (verdicts, _) = admit(&mut conn, (&catalog, &limits), &demands, &mut (), now).expect("decides");
    let refused: Vec<bool> = verdicts.iter().map(Option::is_some).collect();
    // 60, then 38 is too much beside the 3 set aside, 37 fits exactly.
    assert_eq!(refused, [false, true, false, true, false, false, false]);
    let Some(coulomb::quota::enforce::Refusal::Quota(why)) = &verdicts[1] else { panic!("refused") };
    assert_eq!(
        (why.used.0, why.reserved.0, why.remaining.map(|left| left.0)),
        (60.into(), 3.into(), Some(37.into()))
    );
    assert_eq!(house.counters(), "0/3 0/3", "to decide changes nothing");
    // What is overdue counts no longer, and is ended.
    let later = now + chrono::TimeDelta::hours(2);
    let (verdicts, _) =
        admit(&mut conn, (&catalog, &limits), &demands[1..2], &mut (), later).expect("decides");
    assert!(verdicts[0].is_none());
    assert_eq!(house.counters(), "0/0 0/0");
    let uses: Vec<_> = uses(98).into_iter().map(|(key, quantity)| (key, quantity.into())).collect();
    let moved = counters::add(&mut conn, &uses).expect("adds");
    assert_eq!(moved.iter().map(|moved| moved.used.shown()).collect::<Vec<_>>(), [98.into(), 98.into()]);
}
