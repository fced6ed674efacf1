//! The address of a client, also behind proxies.

use std::net::IpAddr;

use actix_web::HttpRequest;
use actix_web::http::header::{HeaderName, USER_AGENT};

use super::RequestId;
use crate::app::App;
use crate::audit::Origin;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Where a request came from, for the audit log.
pub(crate) fn origin(app: &App, request: &HttpRequest) -> Origin {
    let agent = request.headers().get(USER_AGENT).and_then(|value| value.to_str().ok());
    Origin {
        request_id: RequestId::of(request),
        address: client(app, request),
        user_agent: agent.map(str::to_owned),
    }
}

/// The client's address: that of the connection. If it is a proxy that the settings trust, the last address
/// in `X-Forwarded-For` that is none: each proxy adds the address that it saw, and what stands before it a
/// client may have made up.
pub(crate) fn client(app: &App, request: &HttpRequest) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip().to_canonical();
    if !app.config.trusted_proxies.has(peer) {
        return Some(peer);
    }
    let values: Vec<&str> =
        request.headers().get_all(FORWARDED_FOR).filter_map(|value| value.to_str().ok()).collect();
    let mut seen = peer;
    for text in values.iter().rev().flat_map(|value| value.rsplit(',')) {
        let Some(address) = read(text) else { break };
        seen = address;
        if !app.config.trusted_proxies.has(address) {
            break;
        }
    }
    Some(seen)
}

/// An address, with or without a port.
fn read(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let plain = text.parse::<IpAddr>().ok();
    let address = plain.or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address| address.to_canonical())
}
