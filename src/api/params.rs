//! Reads the query string of a request. Every error names its parameter.

use std::collections::BTreeMap;
use std::fmt::Display;

use actix_web::dev::Payload;
use actix_web::http::Method;
use actix_web::web::Query;
use actix_web::{FromRequest, HttpRequest};
use serde::de::value::{SeqDeserializer, StrDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, Unexpected,
    Visitor,
};
use serde::forward_to_deserialize_any;

use crate::error::Error;
use crate::json;
use crate::text::{NO_NUL, has_nul, strip_nul};

/// The names and values of a query string, in their order.
///
/// # Errors
/// [`Error::Invalid`] when it is not a query string, or has the NUL character.
pub fn pairs(query: &str) -> Result<Vec<(String, String)>, Error> {
    let pairs = Query::<Vec<(String, String)>>::from_query(query)
        .map_err(|_| Error::invalid("query", "must be name=value&name=value, percent-encoded"))?
        .into_inner();
    match pairs.iter().find(|(name, text)| has_nul(name) || has_nul(text)) {
        Some((name, _)) => Err(Error::invalid(strip_nul(name), NO_NUL)),
        None => Ok(pairs),
    }
}

/// Names of the query parameters of a path's operations, as the description has them. Each path under `/v1`
/// carries its own.
#[derive(Clone, Debug, Default)]
pub(super) struct QueryNames(Vec<(Method, Vec<String>)>);

impl QueryNames {
    pub(super) fn insert(&mut self, method: Method, names: Vec<String>) {
        self.0.push((method, names));
    }

    fn of(&self, method: &Method) -> Option<&[String]> {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        self.0.iter().find(|(of, _)| of == method).map(|(_, names)| &**names)
    }
}

/// The one parameter whose name has a free part, `dimension.<name>`, and the paths that take it.
const OPEN_NAME: &str = "dimension.";
const PATHS_WITH_OPEN_NAME: [&str; 7] = [
    "/v1/usage/daily",
    "/v1/usage/records",
    "/v1/usage/breakdown",
    "/v1/usage/breakdown/export",
    "/v1/usage/breakdown/export/totals",
    "/v1/usage/export",
    "/v1/usage/export/totals",
];

/// Refuses a parameter that the operation does not have, and one that is given twice: nobody would notice
/// that a filter was ignored. Paths outside of `/v1` take any: clients of Stripe, OpenMeter and Lago may add
/// parameters of their own.
///
/// # Errors
/// [`Error::Invalid`] naming the parameter, and those that there are.
pub fn check_names(request: &HttpRequest) -> Result<(), Error> {
    let query = request.query_string();
    let known = request.app_data::<QueryNames>().and_then(|names| names.of(request.method()));
    let (false, Some(known)) = (query.is_empty(), known) else { return Ok(()) };
    let has_open_name =
        request.match_pattern().is_some_and(|path| PATHS_WITH_OPEN_NAME.contains(&path.as_str()));
    let is_open = |name: &str| has_open_name && name.len() > OPEN_NAME.len() && name.starts_with(OPEN_NAME);
    let params = Params::parse(query)?;
    match params.0.into_keys().find(|name| !known.contains(name) && !is_open(name)) {
        None => Ok(()),
        Some(name) if known.is_empty() => {
            Err(Error::invalid(name, "is no parameter of this route, which has none: leave it out"))
        }
        Some(name) => {
            let rule = format!("is no parameter of this route: it has {}", known.join(", "));
            Err(Error::invalid(name, rule))
        }
    }
}

/// Query parameters that no struct has taken yet.
#[derive(Debug)]
pub struct Params(BTreeMap<String, String>);

impl Params {
    /// The parameters of a query string.
    ///
    /// # Errors
    /// As [`pairs`], and [`Error::Invalid`] for a parameter given twice.
    pub fn parse(query: &str) -> Result<Self, Error> {
        let mut params = BTreeMap::new();
        for (name, text) in pairs(query)? {
            if params.insert(name.clone(), text).is_some() {
                return Err(Error::invalid(name, "is given twice: give it once"));
            }
        }
        Ok(Self(params))
    }

    /// Takes the parameters that are fields of `T`; absent ones must be `Option` or have a default.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the parameter whose value does not fit.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        T::deserialize(ParameterReader(&mut self.0)).map_err(|wrong| Error::invalid(wrong.field, wrong.rule))
    }

    /// Takes the parameters whose names begin with `prefix`, which is cut off.
    pub fn take_prefixed(&mut self, prefix: &str) -> BTreeMap<String, String> {
        let (taken, rest) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|(name, _)| name.strip_prefix(prefix).is_some_and(|name| !name.is_empty()));
        self.0 = rest;
        BTreeMap::into_iter(taken).map(|(name, text)| (name[prefix.len()..].to_owned(), text)).collect()
    }

    /// Refuses what is left: a filter that is not understood must not be ignored.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first unknown parameter.
    pub fn done(&self) -> Result<(), Error> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(Error::invalid(
                name.clone(),
                "is no parameter of this route: leave it out (/docs lists those there are)",
            )),
        }
    }
}

impl FromRequest for Params {
    type Error = Error;
    type Future = std::future::Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        std::future::ready(Self::parse(request.query_string()))
    }
}

/// A parameter, and the rule that it breaks.
#[derive(Debug)]
struct Wrong {
    field: String,
    rule: String,
}

impl Display for Wrong {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: {}", self.field, self.rule)
    }
}

impl std::error::Error for Wrong {}

impl serde::de::Error for Wrong {
    fn custom<T: Display>(rule: T) -> Self {
        Self { field: "query".to_owned(), rule: rule.to_string() }
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format!("must be one of {}", expected.join(", ")))
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(json::wanted(&expected.to_string()))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(json::wanted(&expected.to_string()))
    }

    fn missing_field(field: &'static str) -> Self {
        Self { field: field.to_owned(), rule: "is missing: it must be given".to_owned() }
    }
}

/// Gives a struct the parameters that it has fields for.
struct ParameterReader<'a>(&'a mut BTreeMap<String, String>);

impl<'de> Deserializer<'de> for ParameterReader<'_> {
    type Error = Wrong;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let taken: Vec<_> =
            fields.iter().filter_map(|&name| Some((name, Param(self.0.remove(name)?)))).collect();
        visitor.visit_map(Taken { rest: taken.into_iter(), next: None })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Wrong> {
        Err(serde::de::Error::custom("parameters are read into structs"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The parameters of one struct. An error in a value gets the parameter's name here.
struct Taken {
    rest: std::vec::IntoIter<(&'static str, Param)>,
    next: Option<(&'static str, Param)>,
}

impl<'de> MapAccess<'de> for Taken {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Wrong> {
        self.next = self.rest.next();
        let name = self.next.as_ref().map(|(name, _)| StrDeserializer::new(name));
        name.map(|name| seed.deserialize(name)).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let (name, param) =
            self.next.take().ok_or_else(|| <Wrong as serde::de::Error>::custom("no value"))?;
        seed.deserialize(param).map_err(|wrong| Wrong { field: name.to_owned(), ..wrong })
    }
}

/// One parameter. Its text is read as the type of its field.
struct Param(String);

fn wrong<T>(rule: &str) -> Result<T, Wrong> {
    Err(serde::de::Error::custom(rule))
}

impl<'de> IntoDeserializer<'de, Wrong> for Param {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! whole_numbers {
    ($($name:ident $type:ident $visit:ident),+) => {
        $(fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            match self.0.parse() {
                Ok(number) => visitor.$visit(number),
                Err(_) => wrong(&json::wanted(stringify!($type))),
            }
        })+
    };
}

impl<'de> Deserializer<'de> for Param {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_string(self.0)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0.as_str() {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => wrong("must be true or false"),
        }
    }

    whole_numbers! {
        deserialize_i8 i8 visit_i8, deserialize_i16 i16 visit_i16, deserialize_i32 i32 visit_i32,
            deserialize_i64 i64 visit_i64,
        deserialize_u8 u8 visit_u8, deserialize_u16 u16 visit_u16, deserialize_u32 u32 visit_u32,
            deserialize_u64 u64 visit_u64
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    /// A list is separated by commas.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_seq(SeqDeserializer::new(self.0.split(',').map(|item| Self(item.to_owned()))))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_enum(self.0.into_deserializer())
    }

    forward_to_deserialize_any! {
        f32 f64 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier
        ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::time::Moment;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "snake_case")]
    enum Part {
        Lines,
        Raw,
    }

    #[derive(Debug, Deserialize)]
    struct Wanted {
        status: Option<String>,
        livemode: Option<bool>,
        limit: Option<i64>,
        created_from: Option<Moment>,
        #[serde(default)]
        expand: Vec<Part>,
    }

    fn read(query: &str) -> Result<Wanted, String> {
        let say = |error: Error| match error {
            Error::Invalid { field, .. } => field.into_owned(),
            other => panic!("{other}"),
        };
        let mut params = Params::parse(query).map_err(say)?;
        let wanted = params.take().map_err(say)?;
        params.done().map_err(say).map(|()| wanted)
    }

    #[test]
    fn values_are_read_as_their_fields_want() {
        let wanted = read(
            "status=a%20b&livemode=true&limit=7&created_from=2026-01-31T01:00:00%2B01:00&expand=lines,raw",
        )
        .expect("all fit");
        assert_eq!(wanted.status.as_deref(), Some("a b"));
        assert_eq!((wanted.livemode, wanted.limit), (Some(true), Some(7)));
        assert_eq!(wanted.created_from.expect("given").0.to_rfc3339(), "2026-01-31T00:00:00+00:00");
        assert_eq!(wanted.expand, [Part::Lines, Part::Raw]);
        assert!(read("").expect("nothing is needed").expand.is_empty());
    }

    #[test]
    fn what_is_wrong_names_its_parameter() {
        for (query, field) in [
            ("livemode=yes", "livemode"),
            ("limit=1.5", "limit"),
            ("limit=99999999999999999999", "limit"),
            ("created_from=yesterday", "created_from"),
            ("created_from=2026-01-31", "created_from"),
            ("created_from=%2B12026-01-31T00:00:00Z", "created_from"),
            ("expand=lines,all", "expand"),
            ("status=a&status=b", "status"),
            ("status=%00", "status"),
            ("colour=red", "colour"),
        ] {
            assert_eq!(read(query).map(|wanted| format!("{wanted:?}")), Err(field.to_owned()), "{query}");
        }
    }
}
