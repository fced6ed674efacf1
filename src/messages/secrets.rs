//! Secrets of endpoints, and signatures by them. Owns `message_secrets`.
//!
//! Signatures follow Standard Webhooks 1.0.0: `v1` is HMAC-SHA256 with a shared secret (`whsec_…`), `v1a` is
//! Ed25519, whose public key the receiver knows (`whpk_…`). Signed is `{id}.{timestamp}.{body}`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use utoipa::ToSchema;

use crate::error::Error;
use crate::schema::message_secrets as s;
use crate::signing::SigningKey;

/// The length of a secret: 256 bits for either kind.
const SECRET_LEN: usize = 32;
/// The longest time that a replaced secret goes on signing, in hours.
pub const LONGEST_OVERLAP_H: i64 = 14 * 24;

/// How messages are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Signature {
    /// HMAC-SHA256 with a shared secret.
    V1,
    /// Ed25519: the receiver needs the public key only.
    V1a,
}

impl Signature {
    /// As the header and the table name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1a => "v1a",
        }
    }

    /// From the table.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        if name == "v1a" { Self::V1a } else { Self::V1 }
    }
}

/// A key that signs.
pub enum Signer {
    Hmac(Vec<u8>),
    Ed25519(SigningKey),
}

impl Signer {
    /// # Errors
    /// [`Error::Internal`] when the stored bytes are no key.
    pub fn new(signature: Signature, secret: &[u8]) -> Result<Self, Error> {
        Ok(match signature {
            Signature::V1 => Self::Hmac(secret.to_vec()),
            Signature::V1a => {
                let key = SigningKey::read(&hex::encode(secret));
                Self::Ed25519(key.map_err(|_| Error::Internal("a stored key is no key".to_owned()))?)
            }
        })
    }

    /// What people get to see: the shared secret, or the public key.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Hmac(secret) => format!("whsec_{}", STANDARD.encode(secret)),
            Self::Ed25519(key) => format!("whpk_{}", STANDARD.encode(key.public())),
        }
    }

    /// One entry of the header `webhook-signature`.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        let text = format!("{id}.{timestamp}.{body}");
        match self {
            Self::Hmac(secret) => {
                let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a secret of any length");
                mac.update(text.as_bytes());
                format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
            }
            Self::Ed25519(key) => format!("v1a,{}", STANDARD.encode(key.sign(&text))),
        }
    }
}

/// The header `webhook-signature`: one signature by each key.
#[must_use]
pub fn header<'a>(signers: impl Iterator<Item = &'a Signer>, id: &str, timestamp: i64, body: &str) -> String {
    signers.map(|signer| signer.sign(id, timestamp, body)).collect::<Vec<_>>().join(" ")
}

/// Makes a new secret that signs from now on, and lets the older ones sign for `overlap` more. Returns what
/// the receiver needs; of a shared secret this is the only time.
pub fn add(
    conn: &mut PgConnection,
    (org_id, endpoint): (i64, &str),
    signature: Signature,
    overlap: TimeDelta,
    now: DateTime<Utc>,
) -> Result<String, Error> {
    let of_endpoint = s::table.filter(s::org_id.eq(org_id).and(s::endpoint_id.eq(endpoint)));
    let last: Option<i32> = of_endpoint.select(diesel::dsl::max(s::number)).first(conn)?;
    diesel::delete(of_endpoint.filter(s::expires_at.le(now))).execute(conn)?;
    diesel::update(of_endpoint.filter(s::expires_at.is_null().or(s::expires_at.gt(now + overlap))))
        .set(s::expires_at.eq(now + overlap))
        .execute(conn)?;
    let mut secret = [0_u8; SECRET_LEN];
    getrandom::fill(&mut secret).map_err(|error| Error::Internal(format!("no random numbers: {error}")))?;
    diesel::insert_into(s::table)
        .values((
            (s::org_id.eq(org_id), s::endpoint_id.eq(endpoint), s::number.eq(last.unwrap_or(0) + 1)),
            (s::secret.eq(secret.as_slice()), s::created_at.eq(now)),
        ))
        .execute(conn)?;
    Ok(Signer::new(signature, &secret)?.shown())
}

/// Stored secrets: org, endpoint, secret, when it ends.
pub(super) type StoredSecret = (i64, String, Vec<u8>, Option<DateTime<Utc>>);

/// Secrets of these endpoints, the newest of each first.
pub(super) fn load(conn: &mut PgConnection, endpoints: &[&str]) -> QueryResult<Vec<StoredSecret>> {
    s::table
        .filter(s::endpoint_id.eq_any(endpoints))
        .order((s::org_id, s::endpoint_id, s::number.desc()))
        .select((s::org_id, s::endpoint_id, s::secret, s::expires_at))
        .load(conn)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the `standardwebhooks` libraries (Python, JavaScript, Go: their own tests).
    #[test]
    fn a_signature_is_that_of_the_reference_libraries() {
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let signer = Signer::new(Signature::V1, &secret).expect("a key");
        assert_eq!(
            signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}"),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
        assert_eq!(signer.shown(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    }
}
