//! The `Stripe-Signature` header. It proves that somebody who knows our secret, so Stripe, sent exactly these
//! bytes a short time ago.
//!
//! The header reads `t=<unix seconds>,v1=<hex>[,v1=<hex>…][,v0=…]`. Each `v1` is HMAC-SHA256 over
//! `"{t}.{body}"`; the key is the endpoint's secret with its prefix `whsec_`. While somebody replaces a
//! secret, Stripe signs with the old and the new one. Source:
//! <https://docs.stripe.com/webhooks#verify-manually>.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// How far `t` may be from our clock, in seconds, if no setting says otherwise. Stripe's own libraries use
/// the same value.
pub const DEFAULT_TOLERANCE_SECONDS: i64 = 300;

/// The most `v1` signatures a header may carry. Stripe sends one for each active secret of the endpoint, so
/// one or two.
pub const MAX_SIGNATURES: usize = 16;

/// Length of an HMAC-SHA256 in bytes.
const MAC_LEN: usize = 32;

/// Why a delivery is not accepted as Stripe's. The answer is always 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No secret is configured.
    #[error("no Stripe signing secret is configured: set the endpoint's whsec_… secret")]
    NoSecret,
    /// The header has a byte outside ASCII.
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
    /// There are two `t` with different texts, so it is not clear which one was signed.
    #[error("the Stripe-Signature header has two different t=: send one delivery with one header")]
    TwoTimestamps,
    /// There is no `v1`.
    #[error("the Stripe-Signature header has no v1= signature: pass it on exactly as Stripe sent it")]
    NoSignature,
    /// There are `v1`, but none is 64 hexadecimal digits.
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
    /// Signed too long ago.
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
    /// Signed too far in the future.
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

/// The active secrets of one endpoint. The HMAC key schedule of each is computed once.
#[derive(Clone)]
pub struct SigningSecrets {
    keys: Vec<Hmac<Sha256>>,
}

impl SigningSecrets {
    /// Takes the secrets as Stripe shows them (`whsec_…`; the prefix is part of the key). Blank ones are left
    /// out, because everybody can sign with an empty key.
    pub fn new(secrets: &[impl AsRef<[u8]>]) -> Self {
        let keys = secrets
            .iter()
            .map(AsRef::as_ref)
            .filter(|secret| !secret.trim_ascii().is_empty())
            .map(|secret| Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
            .collect();
        Self { keys }
    }

    /// Whether no secret is configured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Checks one delivery: `header` is the value of `Stripe-Signature`, `body` the raw bytes received.
    /// Returns `t`, the unix second of signing; see [`verify`] for the rule.
    ///
    /// # Errors
    /// Each way to fail is a variant of [`SignatureError`]. The clock is compared before the MAC is computed,
    /// so a replay of an old delivery costs little.
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
                // The body is hashed once for each secret. Compared with that, the clone and the
                // constant-time comparison cost little.
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

/// Checks a `Stripe-Signature` header against the raw body and returns `t`, the unix second of signing.
///
/// It is enough that one `v1` fits one of `secrets`. Other schemes (`v0`, unknown names) are ignored, and so
/// is the case of hexadecimal digits. `t` may be up to `tolerance_seconds` before or after the clock (less
/// than zero counts as zero). For many deliveries keep a [`SigningSecrets`] instead.
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

/// The parts of a header that the check uses.
struct Header<'a> {
    /// `t` as sent: Stripe signs this text, not the number.
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
                    // Skip a signature that cannot be read: another one may fit.
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

/// Accepts digits only: no sign and no space, which other programs may read as another number.
fn parse_seconds(text: &[u8]) -> Option<i64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
