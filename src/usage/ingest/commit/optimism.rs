//! Whether a batch is expected to be all new.

/// In a smaller batch the way of claiming keys makes no difference.
const MIN_EVENTS: usize = 16;

/// Expecting that all events are new makes claiming their keys cheaper, and costs a transaction when it is
/// wrong. After a repeat the next batches go with care, more of them the more often that happens.
#[derive(Debug, Default)]
pub(super) struct Optimism {
    /// Batches that still go with care.
    careful: u32,
    /// How many the next repeat will cost.
    penalty: u32,
}

impl Optimism {
    pub(super) fn expects_new(&mut self, events: usize) -> bool {
        if events < MIN_EVENTS {
            return false;
        }
        if self.careful == 0 {
            self.penalty = self.penalty.saturating_sub(1);
            return true;
        }
        self.careful -= 1;
        false
    }

    /// There was a repeat.
    pub(super) fn disappointed(&mut self) {
        self.penalty = (self.penalty * 2).clamp(4, 256);
        self.careful = self.penalty;
    }
}
