//! `GET /v1/billing/meters/{id}/event_summaries`: usage as Stripe sums it.

use rust_decimal::prelude::ToPrimitive;
use serde_json::{Value, json};

use super::lists::list;
use super::random;
use super::server::{Answer, Call};
use super::state::State;

impl State {
    pub(super) fn list_summaries(&self, call: &Call, id: &str) -> Answer {
        self.try_list_summaries(call, id).unwrap_or_else(|answer| answer)
    }

    fn try_list_summaries(&self, call: &Call, id: &str) -> Result<Answer, Answer> {
        let realm = self.realm(&call.realm);
        let Some(meter) = realm.find("billing.meter", id) else { return Err(Answer::missing("meter", id)) };
        let text = |name: &'static str| {
            let message = format!("Missing required param: {name}.");
            let missing = || Answer::refusal(&message, Some("parameter_missing"), Some(name));
            call.params[name].as_str().ok_or_else(missing)
        };
        let customer = text("customer")?;
        let window = match call.params["value_grouping_window"].as_str() {
            None => None,
            Some("hour") => Some(3600),
            Some("day") => Some(86_400),
            Some(_) => {
                let message = "Invalid value_grouping_window: must be one of hour or day";
                return Err(Answer::refusal(message, None, Some("value_grouping_window")));
            }
        };
        // Stripe takes whole minutes, and whole windows where it groups.
        let step = window.unwrap_or(60);
        let second = |name: &'static str| {
            let message = format!("{name} must be a unix second that is a multiple of {step}.");
            let parsed = text(name)?.parse::<i64>().ok().filter(|second| second % step == 0);
            parsed.ok_or_else(|| Answer::refusal(&message, None, Some(name)))
        };
        let (start, end) = (second("start_time")?, second("end_time")?);
        if start >= end {
            return Err(Answer::refusal("start_time must be before end_time.", None, Some("start_time")));
        }
        let length = window.unwrap_or(end - start);
        let windows = (start..end).step_by(usize::try_from(length).expect("a length"));
        let mut data: Vec<Value> = windows
            .filter_map(|from| {
                let to = (from + length).min(end);
                let total = realm.meters.total(&meter.value, customer, from, to)?;
                let number = u64::try_from(from).unwrap_or_default();
                Some(json!({ "id": format!("mtrusg_{}", random::token(number, 20)),
                    "object": "billing.meter_event_summary", "aggregated_value": total.to_f64(),
                    "start_time": from, "end_time": to, "livemode": call.realm.livemode, "meter": id }))
            })
            .collect();
        data.reverse();
        let limit = call.params["limit"].as_str().and_then(|text| text.parse().ok()).unwrap_or(10);
        let after = call.params["starting_after"].as_str();
        let skipped = after.and_then(|id| data.iter().position(|summary| summary["id"] == id));
        let mut data = data.split_off(skipped.map_or(0, |position| position + 1));
        let has_more = data.len() > limit;
        data.truncate(limit);
        Ok(Answer::ok(&list(&format!("/{}", call.path), data, has_more)))
    }
}
