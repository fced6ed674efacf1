//! Checks closed months: the chain of manifests, their signatures, and every digest and total.

use chrono::NaiveDate;
use diesel::pg::PgConnection;
use serde_json::Value;

use super::booked::next_month;
use super::manifest::{self, Heading, Previous};
use super::month::{self, ManifestRow};
use crate::error::Error;
use crate::metering::partitions;
use crate::signing::{self, SigningKey};
use crate::time::Month;

/// Differences reported for a month, at most.
const REPORTED: usize = 20;

/// What the check compared, and what it found.
#[derive(Debug, Default)]
pub struct ClosingDifferences {
    pub months: usize,
    pub unsigned: usize,
    /// Months whose usage records are gone, so that only their manifest is there.
    pub without_usage: usize,
    /// Months of which mirrors of Stripe's objects have changed since: that may happen.
    pub changed_mirrors: Vec<String>,
    /// One sentence each.
    pub differences: Vec<String>,
}

/// The keys that may have signed; none: any key.
pub struct TrustedKeys(Vec<Vec<u8>>);

impl TrustedKeys {
    /// The present key and those before it.
    ///
    /// # Errors
    /// [`Error::Internal`] when a key is malformed, which starting with it would have refused.
    pub fn new(key: Option<&str>, old: &str) -> Result<Self, Error> {
        let broken = |error: &str| Error::Internal(format!("the closing key {error}"));
        let present = key.map(SigningKey::read).transpose().map_err(broken)?;
        let mut keys = signing::read_public_keys(old).map_err(broken)?;
        keys.extend(present.map(|key| key.public()));
        Ok(Self(keys))
    }

    fn trusts(&self, key: &[u8]) -> bool {
        self.0.is_empty() || self.0.iter().any(|own| own == key)
    }
}

/// Compares every manifest with what is stored, over one snapshot.
///
/// # Errors
/// [`Error::Database`].
pub fn verify(conn: &mut PgConnection, keys: &TrustedKeys) -> Result<ClosingDifferences, Error> {
    conn.build_transaction().repeatable_read().read_only().run(|conn| {
        let mut found = ClosingDifferences::default();
        let mut previous: Option<Previous> = None;
        for row in month::rows(conn)? {
            let name = Month::containing(row.month).to_string();
            let mut differences = Vec::new();
            match serde_json::from_str::<Value>(&row.content) {
                Err(error) => differences.push(format!("it is no JSON: {error}")),
                Ok(content) => {
                    check_frame(&row, &content, previous.as_ref(), keys, &mut differences);
                    compare(conn, &row, &content, &mut found, &mut differences)?;
                }
            }
            let digest = manifest::digest(&row.content);
            if digest != row.content_sha256 {
                differences.push("its digest is not that of its content".to_owned());
            }
            found.unsigned += usize::from(row.signature.is_none());
            found.months += 1;
            differences.truncate(REPORTED);
            found
                .differences
                .extend(differences.iter().map(|what| format!("month_manifests: {name}: {what}")));
            previous = Some(Previous { month: name, sha256: hex::encode(digest) });
        }
        Ok(found)
    })
}

/// Month, chain and signature.
fn check_frame(
    row: &ManifestRow,
    content: &Value,
    previous: Option<&Previous>,
    keys: &TrustedKeys,
    differences: &mut Vec<String>,
) {
    let named: Option<Previous> = serde_json::from_value(content["previous"].clone()).ok();
    if named.as_ref() != previous {
        let name = |one: Option<&Previous>| {
            one.map_or_else(|| "no manifest".to_owned(), |one| format!("{} ({})", one.month, one.sha256))
        };
        let (named, there) = (name(named.as_ref()), name(previous));
        differences.push(format!("it names {named} as the one before, but that is {there}"));
    }
    if let Some(previous) = previous
        && let Ok(month) = previous.month.parse::<Month>()
        && next_month(month.first_day()) != row.month
    {
        differences.push(format!("the one before it is of {}: months are missing", previous.month));
    }
    let signed_by = content["signed_by"].as_str();
    match (&row.public_key, &row.signature) {
        (Some(key), Some(signature)) => {
            if signed_by != Some(&hex::encode(key)) {
                differences.push("it does not name the key that signed it".to_owned());
            }
            if !signing::is_signed(&row.content, key, signature) {
                differences.push("its signature does not fit its content".to_owned());
            } else if !keys.trusts(key) {
                let what = "it is signed by a key that is neither COULOMB_CLOSING_KEY nor in \
                    COULOMB_CLOSING_OLD_KEYS";
                differences.push(what.to_owned());
            }
        }
        _ if signed_by.is_some() => differences.push("its signature is missing".to_owned()),
        _ => {}
    }
}

/// Computes the manifest again and compares.
fn compare(
    conn: &mut PgConnection,
    row: &ManifestRow,
    content: &Value,
    found: &mut ClosingDifferences,
    differences: &mut Vec<String>,
) -> Result<(), Error> {
    let text = |field: &str| content[field].as_str().unwrap_or_default().to_owned();
    let accounts = content["stripe"]["accounts"].as_array().map(|accounts| {
        accounts.iter().filter_map(|account| account.as_str().map(str::to_owned)).collect::<Vec<_>>()
    });
    let closed_at = month::closed_at(conn, row.month)?;
    if closed_at.is_none() {
        differences.push("the month is not closed".to_owned());
    }
    let heading = Heading {
        month: row.month,
        closed_at: closed_at.unwrap_or(row.created_at),
        created_at: row.created_at,
        actor: text("actor"),
        previous: serde_json::from_value(content["previous"].clone()).ok(),
        signed_by: content["signed_by"].as_str().map(str::to_owned),
        accounts: accounts.unwrap_or_default(),
    };
    let computed = match manifest::compute(conn, heading) {
        Ok(manifest) => manifest::tree(&manifest)?,
        Err(Error::Internal(what)) => {
            differences.push(what);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let (mut stated, mut computed) = (content.clone(), computed);
    if !is_whole(conn, row.month)? {
        // The records were there when the manifest was made.
        found.without_usage += 1;
        stated["usage"] = Value::Null;
        computed["usage"] = Value::Null;
    }
    if stated["stripe"]["seen"] != computed["stripe"]["seen"] {
        found.changed_mirrors.push(text("month"));
        computed["stripe"]["seen"] = stated["stripe"]["seen"].clone();
    }
    differ("", &stated, &computed, differences);
    Ok(())
}

fn is_whole(conn: &mut PgConnection, month: NaiveDate) -> Result<bool, Error> {
    Ok(partitions::first_whole_day(conn)?.is_none_or(|first| first <= month))
}

/// Names each place where two trees differ.
fn differ(path: &str, stated: &Value, computed: &Value, differences: &mut Vec<String>) {
    let at = |part: &str| if path.is_empty() { part.to_owned() } else { format!("{path}.{part}") };
    match (stated, computed) {
        (Value::Object(stated), Value::Object(computed)) => {
            let names: std::collections::BTreeSet<&String> = stated.keys().chain(computed.keys()).collect();
            for name in names {
                let of = |tree: &serde_json::Map<String, Value>| tree.get(name).cloned().unwrap_or_default();
                differ(&at(name), &of(stated), &of(computed), differences);
            }
        }
        (Value::Array(stated), Value::Array(computed)) => {
            for n in 0..stated.len().max(computed.len()) {
                let of = |list: &[Value]| list.get(n).cloned().unwrap_or_default();
                differ(&at(&n.to_string()), &of(stated), &of(computed), differences);
            }
        }
        (stated, computed) if stated != computed => {
            differences.push(format!("{path}: it says {stated}, but the rows come to {computed}"));
        }
        _ => {}
    }
}
