//! Requests and their answers as a connection sees them: when one begins and ends, and what it holds until
//! its client has it.

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

/// Bytes of an answer that are handed over at once: what a client does not take is not copied either.
const SLICE: usize = 16 << 10;

/// Tells the connection when a request has come and when its answer is written, and lets an answer go out in
/// slices.
///
/// # Errors
/// Passes on what the service says.
pub(super) async fn watch<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<Answer>, actix_web::Error> {
    let under_way = request.conn_data::<Rc<Connection>>().map(UnderWay::begin);
    let spare = under_way.as_ref().is_some_and(|under_way| under_way.connection.is_spare());
    if spare && !has_room_always(request.path()) {
        let busy = Error::Busy("as many connections as allowed are open: try again in a second");
        let mut response = busy.error_response();
        response.head_mut().set_connection_type(ConnectionType::Close);
        let response = request.into_response(response);
        return Ok(response.map_body(|_, body| Answer::new(Content::Stream(body), under_way)));
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
        Answer::new(content, under_way)
    }))
}

/// What is answered on the spare connections, too.
fn has_room_always(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics" | "/webhooks/stripe")
}

/// A request is under way, until this goes.
struct UnderWay {
    connection: Rc<Connection>,
    /// Bytes of the answer that the connection holds.
    held: usize,
}

impl UnderWay {
    fn begin(connection: &Rc<Connection>) -> Self {
        connection.begin();
        Self { connection: Rc::clone(connection), held: 0 }
    }

    fn hold(&mut self, bytes: usize) {
        self.held = bytes;
        self.connection.hold(bytes);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.connection.release(self.held);
        self.connection.end();
    }
}

/// The body of an answer.
pub(super) struct Answer {
    content: Content,
    _under_way: Option<UnderWay>,
}

enum Content {
    /// `shared`: all answers to this route are the same bytes, which no connection holds for itself.
    Whole { left: Bytes, shared: bool },
    /// Comes as it is taken.
    Stream(BoxBody),
}

impl Answer {
    fn new(content: Content, mut under_way: Option<UnderWay>) -> Self {
        if let (Content::Whole { left, shared: false }, Some(under_way)) = (&content, &mut under_way)
            && left.len() > SLICE
        {
            under_way.hold(left.len());
        }
        Self { content, _under_way: under_way }
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
                // Its memory goes as a whole, with the last slice.
                Poll::Ready(Some(Ok(left.split_to(left.len().min(SLICE)))))
            }
            Content::Stream(body) => Pin::new(body).poll_next(cx),
        }
    }

    /// Short ones are packed, or written, in one piece.
    fn try_into_bytes(mut self) -> Result<Bytes, Self> {
        match &mut self.content {
            Content::Whole { left, .. } if left.len() <= SLICE => Ok(std::mem::take(left)),
            _ => Err(self),
        }
    }
}
