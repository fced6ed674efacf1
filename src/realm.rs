//! The Stripe world that an object lives in.

/// Account and mode. The same id in two realms names two objects; they never mix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Realm {
    /// Connected account (`acct_…`), empty for the platform's own.
    pub account: String,
    /// Live or test mode, as the Stripe event says.
    pub livemode: bool,
}

/// The realms that act: one mode, our own account, and connected accounts by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    livemode: bool,
    /// Sorted; ours is empty and always among them.
    accounts: Vec<String>,
}

/// Live mode, and our own account alone.
impl Default for Trusted {
    fn default() -> Self {
        Self::new(true, [])
    }
}

impl Trusted {
    /// One mode, our own account and these connected ones.
    #[must_use]
    pub fn new(livemode: bool, connected: impl IntoIterator<Item = String>) -> Self {
        let mut accounts: Vec<String> = connected.into_iter().chain([String::new()]).collect();
        accounts.sort_unstable();
        accounts.dedup();
        Self { livemode, accounts }
    }

    /// Live or test mode.
    #[must_use]
    pub fn livemode(&self) -> bool {
        self.livemode
    }

    /// Our own account (empty) and the connected ones.
    #[must_use]
    pub fn accounts(&self) -> &[String] {
        &self.accounts
    }

    /// Whether a realm acts.
    #[must_use]
    pub fn acts(&self, realm: &Realm) -> bool {
        realm.livemode == self.livemode && self.accounts.contains(&realm.account)
    }
}

/// Which realm a caller means; what is left out is taken from what is known of the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeantRealm {
    /// Connected account, empty for the platform's own; left out: any.
    pub account: Option<String>,
    /// Live or test mode; left out: either.
    pub livemode: Option<bool>,
}

/// Why no realm can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclear {
    /// The object is known in none of those that may be meant.
    Nowhere,
    /// It is known in both modes.
    Mode,
    /// It is known in several accounts.
    Account,
}

impl MeantRealm {
    /// The one that is meant of those in which the object is known.
    ///
    /// # Errors
    /// [`Unclear`] where it is not one.
    pub fn of(&self, known: impl IntoIterator<Item = Realm>) -> Result<Realm, Unclear> {
        let meant = |realm: &Realm| {
            self.account.as_ref().is_none_or(|account| *account == realm.account)
                && self.livemode.is_none_or(|livemode| livemode == realm.livemode)
        };
        let mut found = known.into_iter().filter(meant);
        let first = found.next().ok_or(Unclear::Nowhere)?;
        match found.find(|realm| *realm != first) {
            None => Ok(first),
            Some(other) if other.livemode != first.livemode => Err(Unclear::Mode),
            Some(_) => Err(Unclear::Account),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn realm(account: &str, livemode: bool) -> Realm {
        Realm { account: account.to_owned(), livemode }
    }

    fn meant(account: Option<&str>, livemode: Option<bool>) -> MeantRealm {
        MeantRealm { account: account.map(str::to_owned), livemode }
    }

    #[test]
    fn one_mode_acts_of_our_own_account_and_those_that_are_named() {
        let live = Trusted::default();
        let test = Trusted::new(false, ["acct_1".to_owned()]);
        for (of, acts) in [
            (realm("", true), (true, false)),
            (realm("", false), (false, true)),
            (realm("acct_1", true), (false, false)),
            (realm("acct_1", false), (false, true)),
            (realm("acct_2", false), (false, false)),
        ] {
            assert_eq!((live.acts(&of), test.acts(&of)), acts, "{of:?}");
        }
    }

    #[test]
    fn what_is_left_out_is_taken_from_what_is_known_and_never_guessed() {
        let all = || [realm("", true), realm("", false), realm("acct_1", true)];
        for (asked, known) in [
            (meant(None, None), Err(Unclear::Mode)),
            (meant(None, Some(true)), Err(Unclear::Account)),
            (meant(None, Some(false)), Ok(realm("", false))),
            (meant(Some(""), None), Err(Unclear::Mode)),
            (meant(Some(""), Some(true)), Ok(realm("", true))),
            (meant(Some("acct_1"), None), Ok(realm("acct_1", true))),
            (meant(Some("acct_1"), Some(false)), Err(Unclear::Nowhere)),
        ] {
            assert_eq!(asked.of(all()), known, "{asked:?}");
        }
        assert_eq!(meant(None, None).of([]), Err(Unclear::Nowhere));
    }
}
