use super::*;

fn connections(at_most: usize, held_at_most: usize) -> Arc<Connections> {
    let long = Duration::from_secs(600);
    Arc::new(Connections::new(at_most, held_at_most, WaitLimits { head: long, idle: long, answer: long }))
}

/// Pretends that the connection has waited since this time.
fn wait_since(connection: &Connection, ms: u64) {
    connection.shared.waits_since_ms.store(ms, Ordering::Relaxed);
}

fn is_closed(connection: &Connection) -> bool {
    !connection.all.lock_open().contains_key(&connection.id)
}

#[test]
fn a_new_connection_replaces_the_one_that_waited_longest() {
    let all = connections(3, 1);
    let (first, second, third) = (all.open(), all.open(), all.open());
    let (first, second, third) = (first.expect("in"), second.expect("in"), third.expect("in"));
    first.on_request();
    wait_since(&second, 200);
    wait_since(&third, 100);
    let fourth = all.open().expect("in");
    assert_eq!([&first, &second, &third].map(|one| is_closed(one)), [false, false, true]);
    assert!(!fourth.is_spare());
    // A closed connection no longer counts; dropping it changes nothing.
    drop(third);
    assert_eq!(all.count(), 3);
    drop((first, second, fourth));
    assert_eq!(all.count(), 0);
}

#[test]
fn a_client_with_a_key_stays_longer_than_a_stranger() {
    let all = connections(2, 1);
    let (known, stranger) = (all.open().expect("in"), all.open().expect("in"));
    known.mark_known();
    std::thread::sleep(Duration::from_millis(NEW_MS + 50));
    wait_since(&known, 1);
    wait_since(&stranger, BONUS_MS - 1);
    let _third = all.open().expect("in");
    assert!(is_closed(&stranger) && !is_closed(&known));
}

#[test]
fn if_all_work_some_more_get_in_as_spare_ones() {
    let all = connections(2, 1);
    let busy = || all.open().inspect(|one| one.on_request());
    let mut open: Vec<_> = (0..2 + SPARE).map(|_| busy().expect("in")).collect();
    assert!(open.iter().map(|one| one.is_spare()).eq((0..2 + SPARE).map(|n| n >= 2)));
    assert!(all.open().is_none());
    open.pop();
    assert!(all.open().is_some_and(|one| one.is_spare()));
}

#[test]
fn connections_with_unread_answers_are_closed_when_memory_is_used_up() {
    let all = connections(10, 100);
    let open: Vec<_> = (0..4).map(|_| all.open().expect("in")).inspect(|one| one.on_request()).collect();
    for (n, one) in open.iter().enumerate() {
        one.add_held(40);
        assert!(!is_closed(one), "answers in progress keep their connections");
        if n < 2 {
            one.on_stalled();
            wait_since(one, 10 - n as u64);
        }
    }
    // 61 of 161 bytes are too many: the two stalled connections are closed.
    open[2].add_held(1);
    assert!(open.iter().map(|one| is_closed(one)).eq([true, true, false, false]));
    open.iter().for_each(|one| one.release_held(one.shared.held.load(Ordering::Relaxed)));
    assert_eq!(all.held.load(Ordering::Relaxed), 0);
}
