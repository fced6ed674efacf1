//! The operations of the API's description, with one valid request for each.

use serde_json::{Map, Value, json};

pub(super) struct Operation {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) path_params: Vec<String>,
    pub(super) query: Vec<String>,
    pub(super) headers: Vec<String>,
    /// Schemas of the body by content type.
    pub(super) bodies: Vec<(String, Value)>,
    /// Possible statuses, each with its content types.
    pub(super) responses: Vec<(u16, Vec<String>)>,
}

pub(super) fn operations(api: &Value) -> Vec<Operation> {
    let paths = api["paths"].as_object().expect("paths");
    let mut operations = Vec::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().expect("methods") {
            let named = |place: &str| {
                let params = operation["parameters"].as_array().into_iter().flatten();
                let there = params.filter(|param| param["in"] == place);
                there.map(|param| param["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
            };
            let content = operation["requestBody"]["content"].as_object().cloned().unwrap_or_default();
            let responses = operation["responses"].as_object().expect("responses").iter();
            operations.push(Operation {
                method: method.to_uppercase(),
                path: path.clone(),
                path_params: named("path"),
                query: named("query"),
                headers: named("header"),
                bodies: content.into_iter().map(|(kind, body)| (kind, body["schema"].clone())).collect(),
                responses: responses
                    .map(|(status, answer)| {
                        let kinds = answer["content"].as_object().into_iter().flatten();
                        (status.parse().expect("a number"), kinds.map(|(kind, _)| kind.clone()).collect())
                    })
                    .collect(),
            });
        }
    }
    operations
}

/// The referenced schema, or the schema itself.
fn resolved<'a>(api: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(name) => resolved(api, api.pointer(&name[1..]).expect("a component")),
        None => schema,
    }
}

/// Of several alternatives, takes the first that is not null.
fn concrete<'a>(api: &'a Value, schema: &'a Value) -> &'a Value {
    let schema = resolved(api, schema);
    for list in ["oneOf", "anyOf"] {
        if let Some(options) = schema[list].as_array() {
            let first = options.iter().find(|option| option["type"] != "null").expect("an alternative");
            return concrete(api, first);
        }
    }
    schema
}

/// Properties of an object and of its parts (`allOf`).
fn properties(api: &Value, schema: &Value) -> (Map<String, Value>, Vec<String>) {
    let schema = concrete(api, schema);
    let mut all = schema["properties"].as_object().cloned().unwrap_or_default();
    let strings = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let mut required = strings(&schema["required"]);
    for part in schema["allOf"].as_array().into_iter().flatten() {
        let (more, needed) = properties(api, part);
        all.extend(more);
        required.extend(needed);
    }
    (all, required)
}

/// A valid value with only the required fields. `known` has values for some names.
pub(super) fn sample(
    api: &Value,
    name: &str,
    schema: &Value,
    known: &dyn Fn(&str) -> Option<Value>,
) -> Value {
    if let Some(value) = known(name) {
        return value;
    }
    let schema = concrete(api, schema);
    if let Some(words) = schema["enum"].as_array() {
        return words[0].clone();
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().find(|kind| *kind != "null").cloned().unwrap_or_default(),
        kind => kind.clone(),
    };
    match kind.as_str() {
        Some("string") => match schema["format"].as_str() {
            Some("date-time") => json!("2026-10-01T00:00:00Z"),
            Some("date") => json!("2026-10-01"),
            _ => schema["examples"].get(0).cloned().unwrap_or_else(|| json!("1")),
        },
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        Some("array") => json!([sample(api, "", &schema["items"], known)]),
        _ => {
            let (all, required) = properties(api, schema);
            let fields = required
                .iter()
                .filter_map(|name| Some((name.clone(), sample(api, name, all.get(name)?, known))));
            Value::Object(fields.collect())
        }
    }
}

/// Where values are in a body, each as a path of keys.
pub(super) fn places(api: &Value, schema: &Value, depth: usize) -> Vec<Vec<String>> {
    let schema = concrete(api, schema);
    let mut found = Vec::new();
    let mut below = |key: String, schema: &Value| {
        found.push(vec![key.clone()]);
        if depth > 0 {
            found.extend(places(api, schema, depth - 1).into_iter().map(|mut place| {
                place.insert(0, key.clone());
                place
            }));
        }
    };
    for (name, schema) in properties(api, schema).0 {
        below(name, &schema);
    }
    if schema["items"].is_object() {
        below("0".to_owned(), &schema["items"]);
    }
    if schema["additionalProperties"].is_object() {
        below("key".to_owned(), &schema["additionalProperties"]);
    }
    found
}

/// `body` with a marker at a place; missing objects on the way are made.
pub(super) fn marked(mut body: Value, place: &[String], marker: &str) -> Value {
    let mut at = &mut body;
    for key in place {
        at = if key == "0" {
            if !at.is_array() {
                *at = json!([null]);
            }
            &mut at[0]
        } else {
            if !at.is_object() {
                *at = json!({});
            }
            &mut at[key]
        };
    }
    *at = json!(marker);
    body
}
