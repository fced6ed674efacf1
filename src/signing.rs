//! Ed25519 signatures (RFC 8032). The only file that uses `ring`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

const FORM: &str = "must be an Ed25519 private key: PEM (PKCS#8), as `openssl genpkey -algorithm ed25519` \
    writes it, or its 32 bytes in hexadecimal or base64";

/// A private key.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Reads a key: PEM of PKCS#8, or the 32 bytes of the seed in hexadecimal or base64.
    ///
    /// # Errors
    /// The rest of a sentence that begins with the setting's name. It never holds the key.
    pub fn read(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if let Some(body) = text.strip_prefix("-----BEGIN PRIVATE KEY-----") {
            let body: String = body
                .split("-----END")
                .next()
                .unwrap_or_default()
                .chars()
                .filter(|c| !c.is_whitespace())
                .collect();
            let der = STANDARD.decode(body).map_err(|_| FORM)?;
            // What `openssl` writes does not hold the public key.
            return Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map(Self).map_err(|_| FORM);
        }
        let seed = hex::decode(text).or_else(|_| STANDARD.decode(text)).map_err(|_| FORM)?;
        Ed25519KeyPair::from_seed_unchecked(&seed).map(Self).map_err(|_| FORM)
    }

    /// The public key: 32 bytes.
    #[must_use]
    pub fn public(&self) -> Vec<u8> {
        self.0.public_key().as_ref().to_vec()
    }

    /// Signs a text: 64 bytes.
    #[must_use]
    pub fn sign(&self, text: &str) -> Vec<u8> {
        self.0.sign(text.as_bytes()).as_ref().to_vec()
    }
}

/// Whether the holder of a key signed the text.
#[must_use]
pub fn is_signed(text: &str, public_key: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public_key).verify(text.as_bytes(), signature).is_ok()
}

/// Reads public keys in hexadecimal, separated by commas.
///
/// # Errors
/// The rest of a sentence that begins with the setting's name.
pub fn read_public_keys(text: &str) -> Result<Vec<Vec<u8>>, &'static str> {
    let keys = text.split(',').map(str::trim).filter(|key| !key.is_empty());
    keys.map(|key| match hex::decode(key) {
        Ok(key) if key.len() == 32 => Ok(key),
        _ => Err("must be public keys of 64 hexadecimal digits, separated by commas"),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032, 7.1, test 1: seed, public key, signature of nothing.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    const SIGNATURE: &str = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33b\
        acc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";

    #[test]
    fn every_form_of_a_key_signs_alike() {
        let seed = hex::decode(SEED).expect("hexadecimal");
        // RFC 8410: what comes before the seed in PKCS#8.
        let mut der = hex::decode("302e020100300506032b657004220420").expect("hexadecimal");
        der.extend(&seed);
        let pem =
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der));
        for text in [SEED.to_owned(), STANDARD.encode(&seed), pem] {
            let key = SigningKey::read(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(hex::encode(key.public()), PUBLIC);
            assert_eq!(hex::encode(key.sign("")), SIGNATURE);
            assert!(is_signed("", &key.public(), &key.sign("")));
            assert!(!is_signed("1", &key.public(), &key.sign("")));
        }
        for wrong in ["", "abc", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", &SEED[2..]] {
            assert!(SigningKey::read(wrong).is_err(), "{wrong}");
        }
    }
}
