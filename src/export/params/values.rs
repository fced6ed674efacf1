//! Reads single parameters. Every error names the parameter and says what it must be.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::ExportRange;
use crate::error::Error;
use crate::export::zone::Zone;
use crate::time::{Day, Moment};

/// Reads named values into the parameters of those names. Unknown and repeated names are refused.
pub(in crate::export) fn named<T: Default + Serialize + DeserializeOwned>(
    pairs: impl IntoIterator<Item = (String, String)>,
) -> Result<T, Error> {
    let broken = |error: serde_json::Error| Error::Internal(error.to_string());
    let known = serde_json::to_value(T::default()).map_err(broken)?;
    let mut given = Map::new();
    for (name, value) in pairs {
        if known.get(&name).is_none() {
            let names: Vec<&str> =
                known.as_object().into_iter().flat_map(|all| all.keys().map(String::as_str)).collect();
            return Err(Error::invalid(name, format!("is not a parameter; those are {}", names.join(", "))));
        }
        if given.insert(name.clone(), value.into()).is_some() {
            return Err(Error::invalid(name, "is given twice: give it once"));
        }
    }
    serde_json::from_value(given.into()).map_err(broken)
}

/// The parameters that were given, by name.
pub(in crate::export) fn given(params: &impl Serialize) -> Result<Map<String, Value>, Error> {
    let all = crate::json::to_tree(params)?;
    let Value::Object(all) = all else { return Ok(Map::new()) };
    Ok(all.into_iter().filter(|(_, value)| !value.is_null()).collect())
}

pub(in crate::export) fn choice<T: Copy>(
    name: &'static str,
    text: &str,
    all: &[T],
    name_of: fn(T) -> &'static str,
) -> Result<T, Error> {
    all.iter().copied().find(|known| name_of(*known) == text).ok_or_else(|| {
        let known: Vec<&str> = all.iter().map(|known| name_of(*known)).collect();
        Error::invalid(name, format!("must be one of {}", known.join(", ")))
    })
}

/// The name of a parameter and its value.
pub(in crate::export) type Given<'a> = (&'static str, &'a Option<String>);

/// A period; days in it are those of `zone`.
pub(in crate::export) fn period(
    (from_name, from): Given<'_>,
    (before_name, before): Given<'_>,
    zone: Zone,
) -> Result<ExportRange, Error> {
    let period =
        ExportRange { from: instant(from_name, from, zone)?, before: instant(before_name, before, zone)? };
    match (period.from, period.before) {
        (Some(from), Some(before)) if from >= before => {
            Err(Error::invalid(before_name, format!("must be after {from_name}: the period is empty")))
        }
        _ => Ok(period),
    }
}

fn instant(name: &'static str, text: &Option<String>, zone: Zone) -> Result<Option<DateTime<Utc>>, Error> {
    let Some(text) = text else { return Ok(None) };
    let day = || text.parse::<Day>().map(|day| zone.start_of(day.0));
    let time = text.parse::<Moment>().map(|at| at.0).or_else(|_| day());
    time.map(Some).map_err(|_| {
        Error::invalid(
            name,
            "must be a time such as 2026-01-31T00:00:00Z (in a URL write the + of an offset as %2B) or a day \
                such as 2026-01-31",
        )
    })
}

/// The zone of `time_zone`; UTC when left out.
pub(in crate::export) fn zone(text: &Option<String>) -> Result<Zone, Error> {
    let Some(text) = text else { return Ok(Zone::UTC) };
    Zone::named(text).ok_or_else(|| {
        Error::invalid("time_zone", format!("`{text}` is not an IANA time zone such as Europe/Berlin"))
    })
}

pub(in crate::export) fn boolean(name: &'static str, text: &Option<String>) -> Result<Option<bool>, Error> {
    match text.as_deref() {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(Error::invalid(name, "must be true or false")),
    }
}

pub(in crate::export) fn every_realm(text: &Option<String>) -> Result<bool, Error> {
    match text.as_deref() {
        None => Ok(false),
        Some("all") => Ok(true),
        Some(_) => Err(Error::invalid("realms", "must be all, or left out")),
    }
}

/// An id or a number; not empty.
pub(in crate::export) fn id(name: &'static str, text: &Option<String>) -> Result<Option<String>, Error> {
    match text {
        Some(text) if text.is_empty() => {
            Err(Error::invalid(name, "must not be empty: leave it out or give a value"))
        }
        text => Ok(text.clone()),
    }
}

/// The parts of a list separated by commas.
pub(in crate::export) fn parts(text: &str) -> Vec<String> {
    text.split(',').map(|part| part.trim().to_owned()).collect()
}

/// Takes the parameters `dimension.<name>` out: each as `name=value`, and the others.
pub(in crate::export) fn split_dimensions(
    pairs: impl IntoIterator<Item = (String, String)>,
) -> (Vec<String>, Vec<(String, String)>) {
    let (dimensions, others): (Vec<_>, Vec<_>) =
        pairs.into_iter().partition(|(name, _)| name.starts_with("dimension."));
    let pair = |(name, value): &(String, String)| {
        format!("{}={value}", name.strip_prefix("dimension.").unwrap_or(name))
    };
    (dimensions.iter().map(pair).collect(), others)
}

/// Reads texts `name=value`.
pub(in crate::export) fn dimensions(pairs: &[String]) -> Result<BTreeMap<String, String>, Error> {
    let mut dimensions = BTreeMap::new();
    for pair in pairs {
        let (name, value) = pair
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| Error::invalid("dimension", "must be a name and a value, such as model=large"))?;
        if dimensions.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(Error::invalid(format!("dimension.{name}"), "is given twice: give it once"));
        }
    }
    Ok(dimensions)
}

/// Dimensions as parameters that were given.
pub(in crate::export) fn given_dimensions(
    dimensions: &BTreeMap<String, String>,
) -> impl Iterator<Item = (String, Value)> {
    dimensions.iter().map(|(name, value)| (format!("dimension.{name}"), value.as_str().into()))
}
