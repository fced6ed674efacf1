//! Three messages a day to each number: the fourth to the same number is refused, another number passes, and
//! a number on the white list always passes. After local midnight the count starts again, and counters older
//! than seven days are deleted.

use super::product;
use crate::support::answer::Answer;
use crate::support::requests::{exempt, limit, meter, org, plan, reserve, settle};
use crate::support::world::until;
use crate::support::{Daemon, World};

/// A tenant in Jakarta, at half past eleven at night. Its plan has three messages a day to each number; its
/// own phone, +62-800, has no limit.
async fn gateway() -> World {
    let three = limit("3").meter("messages").per_subject();
    let world = product("2027-02-03T16:30:00Z")
        .with(org("tenant").zone("Asia/Jakarta"))
        .with(meter("messages").event_name("message.sent").aggregation("count"))
        .with(plan("gateway").limits([three]))
        .start()
        .await;
    world.puts_on_plan("tenant", "gateway").await;
    let friend = exempt("+62-800").org("tenant").meter("messages").per_subject();
    world.send(friend).await.status(201);
    world
}

/// Sends a message if a place for it can be reserved, and uses the place.
async fn send(world: &World, number: &str) -> Answer {
    let made = world.send(reserve(1).org("tenant").meter("messages").subject(number)).await;
    if made.status == 201 {
        world.send(settle(&made.id())).await.status(200);
    }
    made
}

#[tokio::test]
async fn three_messages_a_day_to_a_number() {
    let world = gateway().await;
    for _ in 0..3 {
        send(&world, "+62-811").await.status(201);
    }
    let refused = send(&world, "+62-811").await.status(409);
    let told = ["limit", "used", "remaining", "resets_at"].map(|field| refused.text(field));
    assert_eq!(told, ["3", "3", "0", "2027-02-03T17:00:00Z"]);
    send(&world, "+62-822").await.status(201);
    for _ in 0..5 {
        send(&world, "+62-800").await.status(201);
    }
    world.turn("2027-02-03T16:59:59Z");
    send(&world, "+62-811").await.status(409);
    world.turn("2027-02-03T17:00:00Z");
    for _ in 0..3 {
        send(&world, "+62-811").await.status(201);
    }
    send(&world, "+62-811").await.status(409);

    // 3 + 1 + 5 on the third of February, 3 on the fourth; each is a usage record.
    let path = "/v1/usage/daily?org=tenant&from=2027-02-01&to=2027-03-01&group_by=day";
    let days = world.get(path).await.status(200);
    let quantity = |day: &str| {
        let row = days.rows().iter().find(|row| row["day"] == day);
        row.and_then(|row| row["quantity"].as_str())
    };
    assert_eq!((quantity("2027-02-03"), quantity("2027-02-04")), (Some("9"), Some("3")), "{days}");
    world.balances();

    // A daemon that starts when the counters are old deletes them, and keeps the usage.
    let counters = || world.number("SELECT count(*) FROM quota_counters WHERE subject <> ''");
    assert_eq!(counters(), 4);
    world.turn("2027-02-12T01:00:00Z");
    let _fresh = Daemon::clocked(&world, world.clock());
    // The counters of the third are deleted, that of the fourth is kept.
    until("old counters are gone", async || counters() == 1).await;
    assert_eq!(world.number("SELECT count(*) FROM usage_records"), 12);
}
