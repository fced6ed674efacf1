//! Tells the connection when a request begins and ends, and how many bytes of its answer wait for the client.

use std::error::Error as StdError;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::ResponseError;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::ConnectionType;
use actix_web::middleware::Next;
use actix_web::web::Bytes;

use crate::api::http::Shared;
use crate::connections::Connection;
use crate::error::Error;

/// How many bytes of an answer go to the HTTP library at once. It copies only these, so an answer that a
/// client does not receive is not copied as a whole.
const SLICE: usize = 16 << 10;

/// Middleware: tells the connection when a request has come and when its answer is written, and sends the
/// answer in slices. On a spare connection it refuses most requests.
///
/// # Errors
/// The error of the service.
pub(super) async fn report_to_connection<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<Answer>, actix_web::Error> {
    let in_progress = request.conn_data::<Rc<Connection>>().map(RequestInProgress::new);
    let spare = in_progress.as_ref().is_some_and(|request| request.connection.is_spare());
    if spare && !is_always_answered(request.path()) {
        let busy = Error::Busy("as many connections as allowed are open: try again in a second");
        let mut response = busy.error_response();
        response.head_mut().set_connection_type(ConnectionType::Close);
        let response = request.into_response(response);
        return Ok(response.map_body(|_, body| Answer::new(Content::Stream(body), in_progress)));
    }
    let response = next.call(request).await?;
    let shared = response.response().extensions().contains::<Shared>();
    Ok(response.map_body(|_, body| {
        let content = match body.size() {
            BodySize::None => Content::Stream(body.boxed()),
            _ => match body.try_into_bytes() {
                Ok(left) => Content::Whole { left, shared },
                Err(body) => Content::Stream(body.boxed()),
            },
        };
        Answer::new(content, in_progress)
    }))
}

/// Whether this path is answered on spare connections too.
fn is_always_answered(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics" | "/webhooks/stripe")
}

/// A request in progress; dropping it means that its answer is written or given up.
struct RequestInProgress {
    connection: Rc<Connection>,
    /// Bytes of the answer that the connection holds.
    held: usize,
}

impl RequestInProgress {
    fn new(connection: &Rc<Connection>) -> Self {
        connection.on_request();
        Self { connection: Rc::clone(connection), held: 0 }
    }

    fn hold_answer(&mut self, bytes: usize) {
        self.held = bytes;
        self.connection.add_held(bytes);
    }
}

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        self.connection.release_held(self.held);
        self.connection.on_answered();
    }
}

/// The body of an answer.
pub(super) struct Answer {
    content: Content,
    _in_progress: Option<RequestInProgress>,
}

enum Content {
    /// `shared`: all answers of this route are the same bytes in memory, so they do not count for a
    /// connection.
    Whole { left: Bytes, shared: bool },
    /// Produced while the client receives it.
    Stream(BoxBody),
}

impl Answer {
    fn new(content: Content, mut in_progress: Option<RequestInProgress>) -> Self {
        if let (Content::Whole { left, shared: false }, Some(in_progress)) = (&content, &mut in_progress)
            && left.len() > SLICE
        {
            in_progress.hold_answer(left.len());
        }
        Self { content, _in_progress: in_progress }
    }
}

impl MessageBody for Answer {
    type Error = Box<dyn StdError>;

    fn size(&self) -> BodySize {
        match &self.content {
            Content::Whole { left, .. } => BodySize::Sized(left.len() as u64),
            Content::Stream(body) => body.size(),
        }
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        match &mut this.content {
            Content::Whole { left, .. } if left.is_empty() => Poll::Ready(None),
            Content::Whole { left, .. } => {
                // All slices share one allocation, which is freed with the last slice.
                Poll::Ready(Some(Ok(left.split_to(left.len().min(SLICE)))))
            }
            Content::Stream(body) => Pin::new(body).poll_next(cx),
        }
    }

    /// Gives a short answer away in one piece, so that it can be compressed.
    fn try_into_bytes(mut self) -> Result<Bytes, Self> {
        match &mut self.content {
            Content::Whole { left, .. } if left.len() <= SLICE => Ok(std::mem::take(left)),
            _ => Err(self),
        }
    }
}
