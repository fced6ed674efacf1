//! The `Stripe-Signature` header: did Stripe, knowing our secret, send exactly these bytes lately?
//!
//! The header reads `t=<unix seconds>,v1=<hex>[,v1=<hex>…][,v0=…]`; each `v1` is HMAC-SHA256 over
//! `"{t}.{body}"` with the endpoint's `whsec_…` secret, prefix included. While a secret is rolled Stripe
//! signs with the old and the new one. Source: <https://docs.stripe.com/webhooks#verify-manually>.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// How far `t` may be from our clock, in seconds, unless a setting says otherwise. Stripe's own libraries use
/// the same.
pub const DEFAULT_TOLERANCE_SECONDS: i64 = 300;

/// The most `v1` signatures a header may carry. Stripe sends one for each active secret of the endpoint, so
/// one or two.
pub const MAX_SIGNATURES: usize = 16;

/// Bytes of an HMAC-SHA256.
const MAC_LEN: usize = 32;

/// Why a delivery is not accepted as Stripe's. All of these are answered 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no secret to check against.
    #[error("no Stripe signing secret is configured: set the endpoint's whsec_… secret")]
    NoSecret,
    /// A byte outside ASCII.
    #[error(
        "the Stripe-Signature header holds bytes outside ASCII: pass the header on exactly as Stripe sent it"
    )]
    NotAscii,
    /// A part between commas is not `name=value`.
    #[error(
        "the Stripe-Signature header is not a list of name=value parts: pass it on exactly as Stripe sent it"
    )]
    Malformed,
    /// There is no `t`.
    #[error("the Stripe-Signature header has no t= (time of signing): pass it on exactly as Stripe sent it")]
    NoTimestamp,
    /// `t` is not a count of seconds that fits 63 bits.
    #[error(
        "t= in the Stripe-Signature header is not a number of seconds: pass it on exactly as Stripe sent it"
    )]
    BadTimestamp,
    /// Two `t` that are not the same text: which of them was signed is not for the sender to leave open.
    #[error("the Stripe-Signature header has two different t=: send one delivery with one header")]
    TwoTimestamps,
    /// There is no `v1`.
    #[error("the Stripe-Signature header has no v1= signature: pass it on exactly as Stripe sent it")]
    NoSignature,
    /// There are `v1`, and none is 64 hexadecimal digits.
    #[error(
        "v1= in the Stripe-Signature header is not 64 hexadecimal digits: pass it on exactly as Stripe sent \
         it"
    )]
    BadSignature,
    /// More `v1` than [`MAX_SIGNATURES`].
    #[error(
        "the Stripe-Signature header has more than {MAX_SIGNATURES} v1= signatures: send it as Stripe made it"
    )]
    TooManySignatures,
    /// Signed longer ago than tolerated; both in seconds.
    #[error(
        "signed {age} s ago, more than the tolerated {tolerance} s: check this machine's clock, or let \
         Stripe send it again"
    )]
    TooOld {
        /// Seconds between `t` and now.
        age: u64,
        /// Seconds tolerated.
        tolerance: u64,
    },
    /// Signed further in the future than tolerated; both in seconds.
    #[error(
        "signed {ahead} s in the future, more than the tolerated {tolerance} s: check this machine's clock"
    )]
    InFuture {
        /// Seconds between now and `t`.
        ahead: u64,
        /// Seconds tolerated.
        tolerance: u64,
    },
    /// No signature fits any active secret.
    #[error(
        "no v1= signature fits the body under any active secret: check the endpoint's whsec_… secret, and \
         that no proxy changes the body"
    )]
    Mismatch,
}

/// The active secrets of one endpoint, each with its HMAC key schedule worked out once.
#[derive(Clone)]
pub struct SigningSecrets {
    keys: Vec<Hmac<Sha256>>,
}

impl SigningSecrets {
    /// Takes the secrets as Stripe shows them (`whsec_…`, the prefix is part of the key). Blank ones are left
    /// out: anyone can sign with an empty key.
    pub fn new(secrets: &[impl AsRef<[u8]>]) -> Self {
        let keys = secrets
            .iter()
            .map(AsRef::as_ref)
            .filter(|secret| !secret.trim_ascii().is_empty())
            .map(|secret| Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
            .collect();
        Self { keys }
    }

    /// Whether there is no secret to check against.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Checks one delivery: `header` is the value of `Stripe-Signature`, `body` the raw bytes received.
    /// Answers `t`, the second of signing; see [`verify`] for the rule.
    ///
    /// # Errors
    /// Each way to fail is a variant of [`SignatureError`]. The clock is compared before the MAC is worked
    /// out, so a replay of an old delivery costs little.
    pub fn verify(
        &self,
        header: &[u8],
        body: &[u8],
        now_unix_seconds: i64,
        tolerance_seconds: i64,
    ) -> Result<i64, SignatureError> {
        if self.keys.is_empty() {
            return Err(SignatureError::NoSecret);
        }
        let header = Header::parse(header)?;
        header.check_clock(now_unix_seconds, tolerance_seconds)?;
        for key in &self.keys {
            let mut mac = key.clone();
            mac.update(header.t_text);
            mac.update(b".");
            mac.update(body);
            for signature in &header.signatures[..header.count] {
                // The body is hashed once for each secret; the clone and the constant-time comparison are the
                // small part.
                if mac.clone().verify_slice(signature).is_ok() {
                    return Ok(header.t);
                }
            }
        }
        Err(SignatureError::Mismatch)
    }
}

impl fmt::Debug for SigningSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningSecrets({} active)", self.keys.len())
    }
}

/// Checks a `Stripe-Signature` header against the raw body and answers `t`, the unix second of signing.
///
/// Any `v1` may match any of `secrets`; other schemes (`v0`, unknown names) are ignored; hexadecimal digits
/// may be of either case. `t` and the clock may differ by `tolerance_seconds` either way (less than zero
/// counts as zero). For many deliveries keep a [`SigningSecrets`] instead.
///
/// # Errors
/// Each way to fail is a variant of [`SignatureError`].
pub fn verify(
    header: &[u8],
    body: &[u8],
    secrets: &[impl AsRef<[u8]>],
    now_unix_seconds: i64,
    tolerance_seconds: i64,
) -> Result<i64, SignatureError> {
    SigningSecrets::new(secrets).verify(header, body, now_unix_seconds, tolerance_seconds)
}

/// The parts of a header that count.
struct Header<'a> {
    /// `t` as sent: the MAC is over this text, not over the number.
    t_text: &'a [u8],
    t: i64,
    signatures: [[u8; MAC_LEN]; MAX_SIGNATURES],
    count: usize,
}

impl<'a> Header<'a> {
    fn parse(header: &'a [u8]) -> Result<Self, SignatureError> {
        if !header.is_ascii() {
            return Err(SignatureError::NotAscii);
        }
        let mut t_text: Option<&[u8]> = None;
        let mut signatures = [[0; MAC_LEN]; MAX_SIGNATURES];
        let (mut seen, mut count) = (0, 0);
        for part in header.split(|&byte| byte == b',') {
            let part = part.trim_ascii();
            let equals = part.iter().position(|&byte| byte == b'=').ok_or(SignatureError::Malformed)?;
            let (name, value) = (&part[..equals], &part[equals + 1..]);
            match name {
                b"t" if t_text.is_some_and(|earlier| earlier != value) => {
                    return Err(SignatureError::TwoTimestamps);
                }
                b"t" => t_text = Some(value),
                b"v1" if seen == MAX_SIGNATURES => return Err(SignatureError::TooManySignatures),
                b"v1" => {
                    seen += 1;
                    // One unreadable signature does not spoil another that is good.
                    if hex::decode_to_slice(value, &mut signatures[count]).is_ok() {
                        count += 1;
                    }
                }
                _ => {}
            }
        }
        let t_text = t_text.ok_or(SignatureError::NoTimestamp)?;
        let t = parse_seconds(t_text).ok_or(SignatureError::BadTimestamp)?;
        match (seen, count) {
            (0, _) => Err(SignatureError::NoSignature),
            (_, 0) => Err(SignatureError::BadSignature),
            _ => Ok(Self { t_text, t, signatures, count }),
        }
    }

    fn check_clock(&self, now: i64, tolerance: i64) -> Result<(), SignatureError> {
        let tolerance = u64::try_from(tolerance).unwrap_or(0);
        match now.abs_diff(self.t) {
            apart if apart <= tolerance => Ok(()),
            age if self.t < now => Err(SignatureError::TooOld { age, tolerance }),
            ahead => Err(SignatureError::InFuture { ahead, tolerance }),
        }
    }
}

/// Digits only: no sign, no space, nothing that another reader could take for another number.
fn parse_seconds(text: &[u8]) -> Option<i64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
