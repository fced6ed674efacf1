//! The account and mode at Stripe that an object lives in.

use crate::error::Error;

/// Account and mode. The same id in two realms names two objects; they never mix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Realm {
    /// Connected account (`acct_…`), empty for the platform's own.
    pub account: String,
    /// Live or test mode, as the Stripe event says.
    pub livemode: bool,
}

/// The realms that act: one mode, our own account, and the connected accounts that the settings name. What
/// happens in another realm is mirrored and has no effects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActingRealms {
    livemode: bool,
    /// Sorted. Our own account is the empty text, and always among them.
    accounts: Vec<String>,
}

/// Live mode, and our own account alone.
impl Default for ActingRealms {
    fn default() -> Self {
        Self::new(true, [])
    }
}

impl ActingRealms {
    /// One mode, our own account and these connected accounts.
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

    /// The acting realm of an account that somebody names.
    ///
    /// # Errors
    /// [`Error::Invalid`] names `account` when it does not act: a typo would find nothing, and look like an
    /// account without objects.
    pub fn of_account(&self, account: String) -> Result<Realm, Error> {
        if !self.accounts.contains(&account) {
            return Err(Error::invalid(
                "account",
                "must be empty, or an account that COULOMB_STRIPE_ACCOUNTS names",
            ));
        }
        Ok(Realm { account, livemode: self.livemode })
    }

    #[must_use]
    pub fn acts(&self, realm: &Realm) -> bool {
        realm.livemode == self.livemode && self.accounts.contains(&realm.account)
    }
}

/// Selects the realm of an object. What a caller leaves out follows from where the object is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RealmSelector {
    /// Connected account, empty for the platform's own; left out: any.
    pub account: Option<String>,
    /// Live or test mode; left out: either.
    pub livemode: Option<bool>,
}

/// Why a selector selects no realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnclearRealm {
    /// The object is known in no realm that fits.
    Nowhere,
    /// It is known in both modes.
    Mode,
    /// It is known in several accounts.
    Account,
}

impl RealmSelector {
    /// The only realm that fits, among those in which the object is known.
    ///
    /// # Errors
    /// [`UnclearRealm`] when none fits, or several do.
    pub fn select(&self, known: impl IntoIterator<Item = Realm>) -> Result<Realm, UnclearRealm> {
        let fits = |realm: &Realm| {
            self.account.as_ref().is_none_or(|account| *account == realm.account)
                && self.livemode.is_none_or(|livemode| livemode == realm.livemode)
        };
        let mut found = known.into_iter().filter(fits);
        let first = found.next().ok_or(UnclearRealm::Nowhere)?;
        match found.find(|realm| *realm != first) {
            None => Ok(first),
            Some(other) if other.livemode != first.livemode => Err(UnclearRealm::Mode),
            Some(_) => Err(UnclearRealm::Account),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn realm(account: &str, livemode: bool) -> Realm {
        Realm { account: account.to_owned(), livemode }
    }

    fn selector(account: Option<&str>, livemode: Option<bool>) -> RealmSelector {
        RealmSelector { account: account.map(str::to_owned), livemode }
    }

    #[test]
    fn one_mode_acts_of_our_own_account_and_those_that_are_named() {
        let live = ActingRealms::default();
        let test = ActingRealms::new(false, ["acct_1".to_owned()]);
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
    fn an_account_that_is_named_must_act() {
        let test = ActingRealms::new(false, ["acct_1".to_owned()]);
        assert_eq!(test.of_account(String::new()).expect("our own"), realm("", false));
        assert_eq!(test.of_account("acct_1".to_owned()).expect("it acts"), realm("acct_1", false));
        assert_eq!(test.of_account("acct_2".to_owned()).expect_err("a typo").field(), Some("account"));
    }

    #[test]
    fn what_is_left_out_is_taken_from_what_is_known_and_never_guessed() {
        let all = || [realm("", true), realm("", false), realm("acct_1", true)];
        for (asked, known) in [
            (selector(None, None), Err(UnclearRealm::Mode)),
            (selector(None, Some(true)), Err(UnclearRealm::Account)),
            (selector(None, Some(false)), Ok(realm("", false))),
            (selector(Some(""), None), Err(UnclearRealm::Mode)),
            (selector(Some(""), Some(true)), Ok(realm("", true))),
            (selector(Some("acct_1"), None), Ok(realm("acct_1", true))),
            (selector(Some("acct_1"), Some(false)), Err(UnclearRealm::Nowhere)),
        ] {
            assert_eq!(asked.select(all()), known, "{asked:?}");
        }
        assert_eq!(selector(None, None).select([]), Err(UnclearRealm::Nowhere));
    }
}
