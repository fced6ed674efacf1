//! JSON as a tree that borrows its texts from the input: a Stripe object has a hundred fields, and we need
//! only some of them.

use serde::{Deserialize, Deserializer};
pub use serde_json_borrow::Value as Json;

/// A field of an object; null if the object has no such field. If the object has it twice, the last one
/// counts, as in [`serde_json::Value`]; the tree's own `get` would find the first.
#[must_use]
pub fn field<'a>(json: &'a Json<'a>, name: &str) -> &'a Json<'a> {
    static NOTHING: Json<'_> = Json::Null;
    let Json::Object(fields) = json else { return &NOTHING };
    // Most names differ in their length or at their ends. Comparing these first needs no call.
    let ends = |text: &str| (text.len(), text.bytes().next(), text.bytes().next_back());
    let wanted = ends(name);
    let found = fields.as_vec().iter().rev().find(|(other, _)| ends(other) == wanted && **other == *name);
    found.map_or(&NOTHING, |(_, value)| value)
}

/// A tree as a field of a struct that derives `Deserialize`. The derived code needs `'de: 'a`, but [`Json`]
/// itself needs the two lifetimes to be equal.
#[derive(Debug, Default)]
pub struct Tree<'a>(pub Json<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Tree<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Json::deserialize(deserializer).map(Tree)
    }
}

/// Reads JSON. It checks once that all of the input is UTF-8, which is cheaper than a check of each text.
/// Input that is not UTF-8 is read nevertheless: that works if `T` does not need the bad text.
///
/// # Errors
/// When the input is not JSON, or does not fit `T`.
pub fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> serde_json::Result<T> {
    match std::str::from_utf8(json) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_slice(json),
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IgnoredAny;
    use serde_json::Value;

    use super::*;

    /// The projection and `serde_json::Value` must read the same event in the same way.
    #[test]
    fn of_a_field_given_twice_the_last_one_counts() {
        let text = r#"{"a": 1, "b": {"c": "x", "d": [{"e": 1, "f": 2, "e": 3}], "c": "y"},
            "a": 2, "a": null, "g": 0, "g": 4}"#;
        let (tree, value): (Json<'_>, Value) =
            (read(text.as_bytes()).unwrap(), serde_json::from_str(text).unwrap());
        assert_eq!(Value::from(&tree), value);
        assert_eq!(tree.to_string(), value.to_string());
        for name in ["a", "b", "g", "nothing"] {
            assert_eq!(Value::from(field(&tree, name)), value[name], "{name}");
        }
        let entry = &field(field(&tree, "b"), "d").as_array().unwrap()[0];
        assert_eq!((field(entry, "e").as_i64(), field(entry, "f").as_i64()), (Some(3), Some(2)));
        assert!(field(&Json::Null, "a").is_null() && field(entry, "c").is_null());
    }

    #[test]
    fn numbers_are_those_of_serde_json() {
        let whole = "0 -0 7 -7 9223372036854775807 9223372036854775808 -9223372036854775808 \
            -9223372036854775809 18446744073709551615";
        let others = "-0.0 12.0 12.5 0.1 1e3 1e21 1e-7 5e-324 18446744073709551616 2.2250738585072011e-308 \
            0.30000000000000004";
        for text in whole.split(' ').chain(others.split(' ')) {
            let (tree, value): (Json<'_>, Value) =
                (read(text.as_bytes()).unwrap(), serde_json::from_str(text).unwrap());
            assert_eq!(tree.to_string(), value.to_string());
            assert_eq!((tree.as_i64(), Value::from(&tree)), (value.as_i64(), value), "{text}");
        }
        assert!(read::<Json<'_>>(b"1e999").is_err());
    }

    #[test]
    fn texts_are_borrowed_unless_they_have_escapes() {
        let json = r#"{"plain":"é","esc\u0061ped":"\ud83d\ude00"}"#.as_bytes();
        let tree: Json<'_> = read(json).unwrap();
        let inside = |text: &str| json.as_ptr_range().contains(&text.as_ptr());
        assert!(inside(field(&tree, "plain").as_str().unwrap()));
        assert_eq!(field(&tree, "escaped").as_str(), Some("😀"));
        assert!(read::<IgnoredAny>(b"\"\xff\"").is_ok(), "nobody looks at it");
        for (broken, readable) in
            [(&b"{\"a\":\"\xff\"}"[..], false), (b"{\"a\":\"\\ud83d\"}", false), (b"{\"a\":\"b\"}", true)]
        {
            assert_eq!(read::<Json<'_>>(broken).is_ok(), readable);
            assert_eq!(serde_json::from_slice::<Value>(broken).is_ok(), readable);
        }
    }
}
