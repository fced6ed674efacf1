//! A quota is never oversold in any race: many clients on two daemons, checked against a log that the clients
//! keep.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::quota::platform;
use crate::support::requests::quota;

const CLIENTS: u64 = 64;
/// Operations on one subject, enough to reach each limit many times.
const OPS_A_SUBJECT: u64 = 400;
const LIMIT: i64 = 100;

/// A fact that a client knows for certain: from `at` on, `by` more (or less) of a subject's limit is taken.
struct Entry {
    at: DateTime<Utc>,
    subject: u64,
    by: i64,
}

/// Pseudo-random numbers, the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

struct Held {
    id: String,
    subject: u64,
    amount: i64,
    expires_at: DateTime<Utc>,
}

#[derive(Default)]
struct Client {
    log: Vec<Entry>,
    settled: BTreeMap<u64, i64>,
    /// The overage that answers to settlements have reported.
    over: BTreeMap<u64, i64>,
    answers: HashMap<&'static str, u64>,
}

struct Place {
    bases: Vec<String>,
    key: String,
    http: reqwest::Client,
}

impl Place {
    /// Sends until there is an answer: an overloaded daemon may be asked again, because every operation runs
    /// once.
    async fn post(&self, dice: &mut Dice, path: &str, body: &Value) -> (u16, Value) {
        loop {
            let base = &self.bases[usize::try_from(dice.roll(2)).expect("small")];
            let sent = self.http.post(format!("{base}{path}")).bearer_auth(&self.key).json(body).send().await;
            let Ok(response) = sent else { continue };
            let status = response.status().as_u16();
            if matches!(status, 429 | 503) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            return (status, response.json().await.expect("JSON"));
        }
    }
}

impl Client {
    fn count(&mut self, what: &'static str) {
        *self.answers.entry(what).or_default() += 1;
    }

    async fn run(mut self, n: u64, place: Arc<Place>, next: Arc<AtomicU64>, ops: u64) -> Self {
        let mut dice = Dice(n * 7919 + 1);
        let mut held: Vec<Held> = Vec::new();
        loop {
            let op = next.fetch_add(1, Ordering::Relaxed);
            if op >= ops {
                break;
            }
            let subject = op / OPS_A_SUBJECT;
            match dice.roll(10) {
                0..=1 => self.check(&place, &mut dice, subject).await,
                2..=5 => {
                    let id = format!("c{n}-{op}");
                    held.extend(self.reserve(&place, &mut dice, subject, &id).await);
                }
                kind if !held.is_empty() => {
                    let at = usize::try_from(dice.roll(held.len() as u64)).expect("small");
                    let one = held.swap_remove(at);
                    if kind == 6 {
                        // Let it expire.
                        self.expire(&one);
                    } else if kind == 7 {
                        self.release(&place, &mut dice, &one).await;
                    } else {
                        self.settle(&place, &mut dice, one).await;
                    }
                }
                _ => self.check(&place, &mut dice, subject).await,
            }
        }
        for one in held {
            self.release(&place, &mut dice, &one).await;
        }
        self
    }

    async fn check(&mut self, place: &Place, dice: &mut Dice, subject: u64) {
        let item = json!({ "org": "acme", "meter": "tokens", "subject": format!("s{subject}"),
            "amount": 1 + dice.roll(9) });
        let (status, answer) = place.post(dice, "/v1/quota/check", &json!({ "items": [item] })).await;
        assert_eq!(status, 200, "{answer}");
        let quota = &answer["results"][0]["quotas"][0];
        let number = |name: &str| quota[name].as_str().expect("text").parse::<Decimal>().expect("a number");
        let left = number("limit") - number("used") - number("reserved");
        assert_eq!(number("remaining"), left.max(Decimal::ZERO), "{quota}");
        self.count("checked");
    }

    async fn reserve(&mut self, place: &Place, dice: &mut Dice, subject: u64, id: &str) -> Option<Held> {
        let amount = i64::try_from(1 + dice.roll(12)).expect("small");
        let seconds = 1 + dice.roll(2) * 14;
        let body = json!({ "org": "acme", "meter": "tokens", "subject": format!("s{subject}"),
            "amount": amount, "id": id, "expires_in_s": seconds });
        let (status, answer) = place.post(dice, "/v1/quota/reserve", &body).await;
        let at = Utc::now();
        if status == 409 {
            assert_eq!(answer["code"], "quota_exceeded", "{answer}");
            self.count("refused");
            return None;
        }
        assert_eq!(status, 201, "{answer}");
        if answer["state"] != "open" {
            return None;
        }
        self.count("reserved");
        let expires_at = answer["expires_at"].as_str().expect("text").parse().expect("a time");
        self.log.push(Entry { at, subject, by: amount });
        Some(Held { id: id.to_owned(), subject, amount, expires_at })
    }

    /// A reservation surely exists until its deadline, or until the client asked to end it.
    fn gone(&mut self, one: &Held, asked: DateTime<Utc>) {
        self.log.push(Entry { at: one.expires_at.min(asked), subject: one.subject, by: -one.amount });
    }

    fn expire(&mut self, one: &Held) {
        self.gone(one, one.expires_at);
        self.count("left");
    }

    async fn release(&mut self, place: &Place, dice: &mut Dice, one: &Held) {
        self.gone(one, Utc::now());
        let (status, answer) =
            place.post(dice, &format!("/v1/quota/{}/release", one.id), &json!({ "org": "acme" })).await;
        assert_eq!(status, 200, "{answer}");
        self.count("released");
    }

    /// Settles less than was reserved or the same, and sometimes more, which is recorded whatever the limit.
    /// Only the reserved amount counts as admitted before, and nothing once the reservation may have expired.
    async fn settle(&mut self, place: &Place, dice: &mut Dice, one: Held) {
        let sides = u64::try_from(one.amount + 1).expect("small");
        let more = if dice.roll(8) == 0 { dice.roll(60) } else { 0 };
        let used = i64::try_from(dice.roll(sides) + more).expect("small");
        let asked = Utc::now();
        let body = json!({ "org": "acme", "amount": used });
        let (status, answer) = place.post(dice, &format!("/v1/quota/{}/settle", one.id), &body).await;
        let at = Utc::now();
        assert_eq!((status, &answer["settled_amount"]), (200, &json!(used.to_string())), "{answer}");
        self.gone(&one, asked);
        let by = if at < one.expires_at { used.min(one.amount) } else { 0 };
        self.log.push(Entry { at, subject: one.subject, by });
        *self.settled.entry(one.subject).or_default() += used;
        let over: i64 = answer["overage"].as_str().expect("text").parse().expect("whole");
        *self.over.entry(one.subject).or_default() += over;
        self.count(if over > 0 { "over" } else { "settled" });
    }
}

async fn race(ops: u64) {
    let all = quota(Value::Null).period("month");
    let world = platform().daemons(2).with(quota(LIMIT).per_subject()).with(all).start().await;
    let bases = world.daemons.iter().map(|daemon| daemon.base.clone()).collect();
    let place = Arc::new(Place { bases, key: world.key.clone(), http: reqwest::Client::new() });
    let next = Arc::new(AtomicU64::new(0));
    let started = std::time::Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| tokio::spawn(Client::default().run(n, Arc::clone(&place), Arc::clone(&next), ops)))
        .collect();
    let mut log = Vec::new();
    let (mut settled, mut over) = (BTreeMap::<u64, i64>::new(), BTreeMap::<u64, i64>::new());
    let mut answers = BTreeMap::<&str, u64>::new();
    for client in clients {
        let done = client.await.expect("a client's checks hold");
        log.extend(done.log);
        done.settled.into_iter().for_each(|(subject, used)| *settled.entry(subject).or_default() += used);
        done.over.into_iter().for_each(|(subject, by)| *over.entry(subject).or_default() += by);
        done.answers.into_iter().for_each(|(what, n)| *answers.entry(what).or_default() += n);
    }
    println!("{ops} operations in {:?}: {answers:?}", started.elapsed());
    for what in ["checked", "refused", "reserved", "left", "released", "settled", "over"] {
        assert!(answers.get(what).is_some_and(|n| *n > 0), "nothing was {what}: {answers:?}");
    }

    // At every moment, surely reserved and surely used amounts together fit the limit. Of simultaneous
    // entries, endings come first.
    log.sort_by_key(|entry| (entry.at, entry.by));
    let (mut taken, mut most) = (BTreeMap::<u64, i64>::new(), 0);
    for entry in &log {
        let taken = taken.entry(entry.subject).or_default();
        *taken += entry.by;
        most = most.max(*taken);
        assert!(*taken <= LIMIT, "subject {} had {taken} of {LIMIT} admitted at {}", entry.subject, entry.at);
    }
    assert!(most > LIMIT * 9 / 10, "no subject came near the limit: {most}");

    // Nothing is lost: the used amount is what was settled, and reserved amounts come back.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(90);
    while world.number("SELECT count(*) FROM quota_reservations WHERE state = 'open'") > 0 {
        assert!(std::time::Instant::now() < deadline, "reservations do not expire");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let total: i64 = settled.values().sum();
    assert_eq!(world.number("SELECT sum(used)::bigint FROM quota_counters WHERE slot_id = 2"), total);
    assert_eq!(world.number("SELECT count(*) FROM quota_counters WHERE reserved <> 0"), 0);
    for (subject, used) in &settled {
        let stored = world.number(&format!(
            "SELECT used::bigint FROM quota_counters WHERE slot_id = 1 AND subject = 's{subject}'"
        ));
        assert_eq!(stored, *used, "subject {subject}");
        // All overage was reported exactly once.
        assert_eq!(over[subject], (*used - LIMIT).max(0), "subject {subject}");
    }
    let kept = i64::try_from(answers["settled"] + answers["over"]).expect("small");
    assert_eq!(world.number("SELECT count(*) FROM usage_keys"), kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_is_never_oversold() {
    race(20_000).await;
}

/// The number of operations is `COULOMB_TEST_QUOTA_OPS`, a million unless set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn a_quota_is_never_oversold_in_a_million_operations() {
    let ops = std::env::var("COULOMB_TEST_QUOTA_OPS").ok().and_then(|ops| ops.parse().ok());
    race(ops.unwrap_or(1_000_000)).await;
}
