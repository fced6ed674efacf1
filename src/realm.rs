//! The Stripe world that an object lives in.

/// Account and mode. The same id in two realms names two objects; they never mix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Realm {
    /// Connected account (`acct_…`), empty for the platform's own.
    pub account: String,
    /// Live or test mode, as the Stripe event says.
    pub livemode: bool,
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
