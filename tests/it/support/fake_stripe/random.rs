//! Numbers and ids that look random and are the same in every run.

/// A stream of numbers that its seed decides (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// A number from 0 to `limit` - 1.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + i64::try_from(self.below(u64::try_from(high - low + 1).unwrap_or(1))).unwrap_or(0)
    }

    /// True with this probability: 0 never, 1 always.
    pub fn chance(&mut self, probability: f64) -> bool {
        let share = self.next() % 1_000_000;
        (share as f64) < probability * 1_000_000.0
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        let position = self.below(list.len() as u64);
        &list[usize::try_from(position).expect("a position in the list")]
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            let other = usize::try_from(self.below(last as u64 + 1)).expect("a position in the list");
            list.swap(last, other);
        }
    }
}

fn mixed(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The letters and digits of the id with this number. Ids are not ordered in time, as those of Stripe.
pub fn token(number: u64, length: usize) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut random = Random::new(mixed(number));
    (0..length).map(|_| char::from(*random.pick(DIGITS))).collect()
}
