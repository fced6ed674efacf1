//! The digests by which usage is named and compared. All of them are stored, so how they are made never
//! changes.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::event::{Cost, UsageEvent};
use super::usage::Metered;

/// The key of an event: 16 bytes of a digest of source and id. When the id is a UUID of version 7, the key
/// begins with its time, so keys of one time are neighbours in the index (RFC 9562, section 5.7).
#[must_use]
pub fn event_key(source: &str, id: &str) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(u32::try_from(source.len()).unwrap_or(u32::MAX).to_be_bytes());
    hash.update(source);
    hash.update(id);
    let digest = hash.finalize();
    let mut key: [u8; 16] = digest[..16].try_into().expect("a digest has 32 bytes");
    if let Ok(uuid) = Uuid::try_parse(id)
        && uuid.get_version_num() == 7
    {
        key[..6].copy_from_slice(&uuid.as_bytes()[..6]);
    }
    Uuid::from_bytes(key)
}

/// 64 bits of a digest of what is stored of an event: the series that count it (meter, member, dimensions),
/// the quantity or value and the labels of each, its subject, the cost that it sets, and its time, if the
/// caller sent one. So equal values have an equal digest, however they are written, and fields that no meter
/// reads do not matter.
///
/// A different digest proves nothing: the catalogue may have changed between an event and its repeat, and
/// keys of older versions have a digest of the event's text. Then the stored records decide
/// (`posting/repeats.rs`).
pub(super) fn content_digest(event: &UsageEvent<'_>, metered: &[Metered]) -> i64 {
    let mut bytes = Vec::with_capacity(128);
    let mut text = |text: Option<&str>| {
        let length = text.map_or(u32::MAX, |text| u32::try_from(text.len()).unwrap_or(u32::MAX - 1));
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(text.unwrap_or_default().as_bytes());
    };
    text(event.subject.as_deref());
    let cost = event.cost.map(|cost| match cost {
        Cost::Major(cost) => cost.normalize().to_string(),
        Cost::Minor(cost) => format!("{} minor", cost.normalize()),
    });
    text(cost.as_deref());
    for metered in metered {
        text(metered.value.as_deref());
    }
    for metered in metered {
        bytes.extend_from_slice(&metered.series.series_id.to_be_bytes());
        bytes.extend_from_slice(&metered.quantity.normalize().serialize());
    }
    for labels in metered.iter().filter_map(|metered| metered.labels.as_deref()) {
        bytes.extend_from_slice(labels.as_bytes());
    }
    if let Some(at) = event.occurred_at {
        bytes.extend_from_slice(&at.timestamp_micros().to_be_bytes());
    }
    first_64_bits(&bytes)
}

/// 63 bits of a digest of everything that makes the series. The length stands before each text.
pub(super) fn series_number(
    (org_id, meter_id): (i64, i32),
    member: Option<&str>,
    dimensions: &[(&str, &str)],
    currency: Option<&str>,
) -> i64 {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend_from_slice(&org_id.to_be_bytes());
    bytes.extend_from_slice(&meter_id.to_be_bytes());
    let mut text = |text: &str| {
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    text(if member.is_some() { "m" } else { "" });
    text(member.unwrap_or_default());
    for (name, value) in dimensions {
        text(name);
        text(value);
    }
    // A name without a value stands for no dimension.
    if let Some(currency) = currency {
        text(currency);
    }
    first_64_bits(&bytes) & i64::MAX
}

/// 16 bytes of a digest of a unique value.
#[must_use]
pub fn value_digest(value: &str) -> Uuid {
    Uuid::from_bytes(Sha256::digest(value)[..16].try_into().expect("a digest has 32 bytes"))
}

fn first_64_bits(bytes: &[u8]) -> i64 {
    let digest = Sha256::digest(bytes);
    i64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}
