//! Whose objects the database has: those of one company's account at Stripe. A key of another account would
//! mix two companies, and would charge the usage of one in the account of the other.

use diesel::pg::PgConnection;

use super::Sync;
use super::accounts::{self, Account, Noted};
use super::read::Reader;
use crate::error::Error;
use crate::stripe::client::CallError;

/// Why calls for an account stopped.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// A call failed.
    Call(CallError),
    Database(Error),
}

impl From<CallError> for Stopped {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl<E: Into<Error>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

impl Sync {
    /// Compares the key's account with that of the objects, once in a process. The first one is noted.
    /// Returns its id (`acct_…`).
    ///
    /// # Errors
    /// [`CallError::OtherAccount`] when it is another one; when the call or the database fails.
    pub(crate) fn check_account(
        &self,
        conn: &mut PgConnection,
        account: &Account,
    ) -> Result<String, Stopped> {
        let realm = account.realm();
        let known = account.stripe_id.as_ref();
        if let Some(known) = known.filter(|_| self.state().checked.contains(&realm)) {
            return Ok(known.clone());
        }
        let reader = Reader { client: self.client().clone(), realm: realm.clone(), version: None };
        let (id, _) = self.runtime().block_on(reader.account())?;
        match known {
            Some(known) => is_same(&id, known)?,
            None => accounts::note(conn, &realm, &Noted { stripe_id: Some(id.clone()), ..Noted::default() })?,
        }
        self.state().checked.insert(realm);
        Ok(id)
    }
}

/// Checks that the key's account is the one whose objects the database has.
///
/// # Errors
/// [`CallError::OtherAccount`] when it is another one.
pub(crate) fn is_same(of_key: &str, known: &str) -> Result<(), CallError> {
    if of_key == known {
        return Ok(());
    }
    Err(CallError::OtherAccount(format!(
        "STRIPE_SECRET_KEY is a key of {of_key}, but this database has the objects of {known}: set a key of \
         {known}, or use another database"
    )))
}
