//! Sources: the Stripe objects that were paid.

use serde_json::{Value, json};

use crate::billing::markers::Marker;
use crate::error::Error;
use crate::realm::Realm;

/// What was paid: the Stripe object that effects come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SaleSource {
    pub(crate) realm: Realm,
    pub(crate) kind: SourceKind,
    pub(crate) id: String,
}

/// Kind of a source. Sources are worked on in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SourceKind {
    Invoice,
    /// A payment intent that pays no invoice.
    PaymentIntent,
    /// A checkout session without an invoice and without a payment intent.
    CheckoutSession,
}

impl SourceKind {
    /// Its name in the database and in markers.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Invoice => "invoice",
            Self::PaymentIntent => "payment_intent",
            Self::CheckoutSession => "checkout_session",
        }
    }

    /// The kind with this name in the database.
    pub(crate) fn parse(name: &str) -> Result<Self, Error> {
        [Self::Invoice, Self::PaymentIntent, Self::CheckoutSession]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| Error::Internal(format!("`{name}` is no kind of sale source")))
    }
}

impl SaleSource {
    /// From columns of the database.
    pub(crate) fn from_columns(
        account: String,
        livemode: bool,
        kind: &str,
        id: String,
    ) -> Result<Self, Error> {
        Ok(Self { realm: Realm { account, livemode }, kind: SourceKind::parse(kind)?, id })
    }

    /// A marker that has this source worked on.
    #[must_use]
    pub(crate) fn to_marker(&self) -> Marker {
        Marker { realm: self.realm.clone(), kind: self.kind.name().to_owned(), id: self.id.clone() }
    }

    /// The key of the grant for a line of this source. An org has one grant a key. Ids are unique in a realm
    /// only, so the key of a connected account or of test mode names its realm.
    #[must_use]
    pub(crate) fn grant_key(&self, line: &str) -> String {
        let mut key = String::new();
        if !self.realm.account.is_empty() {
            key.push_str(&self.realm.account);
            key.push('/');
        }
        if !self.realm.livemode {
            key.push_str("test/");
        }
        key.push_str(self.kind.name());
        key.push(':');
        key.push_str(&self.id);
        if !line.is_empty() {
            key.push(':');
            key.push_str(line);
        }
        key
    }

    /// The link of a grant or a ledger entry to this source.
    #[must_use]
    pub(crate) fn link(&self) -> Value {
        self.link_to(self.kind.name(), &self.id)
    }

    /// A link to another Stripe object of the same realm.
    #[must_use]
    pub(crate) fn link_to(&self, object: &str, id: &str) -> Value {
        let mut link = json!({ "object": object, "id": id });
        if !self.realm.account.is_empty() {
            link["account"] = self.realm.account.clone().into();
        }
        if !self.realm.livemode {
            link["livemode"] = false.into();
        }
        link
    }

    /// Id of the clawback cause "another invoice counts for the period of this one". The SQL that reads facts
    /// spells it too (`facts/invoices.rs`).
    #[must_use]
    pub(crate) fn repeated_period_cause(&self) -> String {
        format!("{}:period", self.id)
    }
}
