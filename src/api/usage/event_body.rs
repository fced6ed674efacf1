//! Bodies with usage events, as the API's description shows them. [`crate::metering::event`] reads them.

use utoipa::ToSchema;

use crate::quantity::Quantity;
use crate::time::Moment;

/// A usage event as it is sent. A CloudEvent has `type` and `time` for `event_name` and `occurred_at`, and
/// may have attributes of its own.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a body")]
#[schema(as = UsageEvent)]
pub(crate) struct EventBody {
    /// Your id of the event. With `source` and the org it is the event's key.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    id: String,
    /// Who reports it; empty when left out.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    source: Option<String>,
    /// The org, by its id or your own id of it; the key's own when left out.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    org: Option<String>,
    /// Which meters count it.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    event_name: String,
    /// When it happened; now when left out.
    #[schema(value_type = Option<Moment>)]
    occurred_at: Option<Moment>,
    /// Who in the org caused it.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    member: Option<String>,
    /// The subject that quotas per subject count it to.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    subject: Option<String>,
    /// The values and dimensions that meters read.
    #[schema(value_type = Option<Object>)]
    data: Option<()>,
    /// A cost to set; needs the scope usage:price.
    cost: Option<Quantity>,
}

/// Usage events in one body.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a body")]
#[schema(as = UsageEvents)]
pub(crate) struct EventsBody {
    /// At most 10,000.
    #[schema(max_items = 10000)]
    events: Vec<EventBody>,
}

/// One usage event or many.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a body")]
#[serde(untagged)]
#[schema(as = UsageEventOrEvents)]
pub(crate) enum OneOrMany {
    /// One.
    One(EventBody),
    /// Many.
    Many(Vec<EventBody>),
    /// Many, in an object.
    Wrapped(EventsBody),
}

/// A CloudEvent 1.0 with usage.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a body")]
pub(crate) struct CloudEvent {
    /// `1.0`.
    #[schema(pattern = r"^1\.0$")]
    specversion: String,
    /// Your id of it.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    id: String,
    /// Who reports it.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    source: Option<String>,
    /// Which meters count it.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    r#type: String,
    /// When it happened; now when left out.
    #[schema(value_type = Option<Moment>)]
    time: Option<Moment>,
    /// With a key of the platform the org, unless there is an attribute `org`.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    subject: Option<String>,
    /// The values and dimensions that meters read.
    #[schema(value_type = Option<Object>)]
    data: Option<()>,
}
