//! Writes a log event as one line of JSON: time, level, target, the event's fields, then the fields of its
//! request.

use std::fmt::{self, Debug, Display, Write};

use chrono::{SecondsFormat, Utc};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes events. The JSON format of `tracing-subscriber` writes a span twice, and writes source paths of the
/// build machine.
pub(super) struct JsonLines;

/// Writes fields as `,"name":value`.
pub(super) struct JsonFields;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields_json = FieldVisitor::default();
        event.record(&mut fields_json);
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
        let target = fields_json.target.as_deref().unwrap_or_else(|| event.metadata().target());
        write!(writer, r#"{{"timestamp":"{time}","level":"{}","target":"#, event.metadata().level())?;
        write!(writer, "{}{}", quoted(target), fields_json.text)?;
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                writer.write_str(&fields.fields)?;
            }
        }
        writer.write_str("}\n")
    }
}

impl<'w> FormatFields<'w> for JsonFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut fields_json = FieldVisitor::default();
        fields.record(&mut fields_json);
        writer.write_str(&fields_json.text)
    }
}

#[derive(Default)]
struct FieldVisitor {
    text: String,
    /// The target of a record of the `log` crate.
    target: Option<String>,
}

impl FieldVisitor {
    fn write_field(&mut self, field: &Field, value: impl Display) {
        // These fields have places in a library's source, of no use to operators.
        if !field.name().starts_with("log.") {
            // Writing to a String cannot fail.
            let _ = write!(self.text, ",{}:{value}", quoted(field.name()));
        }
    }
}

impl Visit for FieldVisitor {
    fn record_f64(&mut self, field: &Field, value: f64) {
        let number = serde_json::Number::from_f64(value);
        self.write_field(field, number.map_or_else(|| "null".to_owned(), |number| number.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.write_field(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.write_field(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.write_field(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            self.target = Some(value.to_owned());
        }
        self.write_field(field, quoted(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.write_field(field, quoted(&format!("{value:?}")));
    }
}

fn quoted(text: &str) -> String {
    // Serialising a string cannot fail.
    serde_json::to_string(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(log: impl FnOnce()) -> Vec<Value> {
        let captured = Captured::default();
        let output = captured.clone();
        let subscriber = tracing_subscriber::fmt()
            .event_format(JsonLines)
            .fmt_fields(JsonFields)
            .with_writer(move || output.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let text = String::from_utf8(captured.0.lock().expect("no panic").clone()).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[test]
    fn an_event_is_one_line_with_its_span_once() {
        let hostile = "a\"b\n{\"level\":\"ERROR\"}\u{1b}[31m\r\n";
        let mut written = lines(|| {
            let _span = tracing::info_span!("request", request_id = "r1", path = hostile).entered();
            tracing::info!(n = 1, f = 0.5, ok = true, text = %hostile, wrong = f64::NAN, "said");
        });
        let mut line = written.pop().expect("a line");
        assert!(written.is_empty());
        let time = line.as_object_mut().expect("an object").remove("timestamp").expect("a time");
        assert!(time.as_str().is_some_and(|time| time.ends_with('Z') && time.len() == 27), "{time}");
        let target = "coulomb::logging::json::tests";
        assert_eq!(
            line,
            json!({ "level": "INFO", "target": target, "message": "said", "n": 1, "f": 0.5, "ok": true,
                "text": hostile, "wrong": null, "request_id": "r1", "path": hostile })
        );
    }
}
