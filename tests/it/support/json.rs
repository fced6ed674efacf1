//! JSON for tests: fields by path, and values as text that a test can quote.

use serde_json::{Map, Value};

/// The place at `path` in `value`: names and list positions, joined by dots. Missing objects are made.
pub fn place<'a>(value: &'a mut Value, path: &str) -> &'a mut Value {
    path.split('.').fold(value, |value, step| match value {
        Value::Array(list) => &mut list[step.parse::<usize>().expect("a position in a list")],
        value => &mut value[step],
    })
}

/// The value at `path`, as for [`place`]; null if there is none. The empty path is the value itself.
pub fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    if path.is_empty() {
        return value;
    }
    path.split('.').fold(value, |value, step| match (value, step.parse::<usize>()) {
        (Value::Array(list), Ok(position)) => list.get(position).unwrap_or(&Value::Null),
        (value, _) => &value[step],
    })
}

/// `value` as text to compare: as many fields on a line as fit, in alphabetical order. Random ids become
/// `org_…`, because they differ in each run.
pub fn shown(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value, 0);
    text
}

const WIDTH: usize = 90;

fn write(text: &mut String, value: &Value, indent: usize) {
    let (open, close, parts) = match value {
        Value::Object(fields) => {
            ('{', '}', fields.iter().map(|(name, value)| (format!("{name:?}: "), value)).collect())
        }
        Value::Array(list) => ('[', ']', list.iter().map(|value| (String::new(), value)).collect()),
        _ => (' ', ' ', Vec::new()),
    };
    let line = inline(value);
    if parts.is_empty() || indent + line.chars().count() <= WIDTH {
        return text.push_str(&line);
    }
    text.push(open);
    let last = parts.len() - 1;
    let mut width = WIDTH;
    for (n, (name, part)) in parts.into_iter().enumerate() {
        let line = format!("{name}{}{}", inline(part), if n < last { "," } else { "" });
        let needs = 1 + line.chars().count();
        let fits = indent + 1 + needs <= WIDTH;
        if fits && width + needs <= WIDTH {
            text.push(' ');
            text.push_str(&line);
            width += needs;
            continue;
        }
        text.push('\n');
        text.extend(std::iter::repeat_n(' ', indent + 2));
        if fits {
            text.push_str(&line);
            width = indent + 1 + needs;
        } else {
            text.push_str(&name);
            write(text, part, indent + 2);
            text.push_str(if n < last { "," } else { "" });
            width = WIDTH;
        }
    }
    text.push('\n');
    text.extend(std::iter::repeat_n(' ', indent));
    text.push(close);
}

fn inline(value: &Value) -> String {
    match value {
        Value::Object(fields) if fields.is_empty() => "{}".to_owned(),
        Value::Object(fields) => {
            let fields: Vec<_> = fields.iter().map(|(name, v)| format!("{name:?}: {}", inline(v))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::String(text) => format!("{:?}", without_chance(text)),
        other => other.to_string(),
    }
}

/// A text; a random id (`org_019ac…`) is cut to its prefix.
fn without_chance(text: &str) -> String {
    match text.rsplit_once('_') {
        Some((kind, id)) if id.len() >= 20 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            format!("{kind}_…")
        }
        _ => text.to_owned(),
    }
}

/// `value` without the fields of these names at any depth.
pub fn without(value: &Value, names: &[&str]) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, _)| !names.contains(&name.as_str()));
            kept.map(|(name, value)| (name.clone(), without(value, names))).collect::<Map<_, _>>().into()
        }
        Value::Array(list) => list.iter().map(|value| without(value, names)).collect(),
        other => other.clone(),
    }
}
