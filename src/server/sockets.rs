//! The listening socket, and how many connections the system allows.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use super::ServeError;
use crate::config::Config;
use crate::connections::{Connections, SPARE, WaitLimits};

/// Connections that the system may hold for us before we accept them.
pub(super) const BACKLOG: i32 = 1024;
/// About how many bytes of an answer the system buffers for a client. With a larger buffer we would not see
/// that a client stalls; with this one, a client that receives less than a third of it within
/// `COULOMB_ANSWER_TIMEOUT_S` counts as receiving nothing.
const SEND_BUFFER: usize = 192 << 10;
/// Open files besides the connections of clients: those of the database, exports and logs.
const OTHER_FILES: u64 = 256;
/// With fewer connections the daemon refuses to start.
const LEAST_CONNECTIONS: u64 = 32;

/// Binds `address` and listens; also returns the bound address, whose port the system may have chosen.
pub(super) fn listen(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // Accepted connections inherit it.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// Makes the register of connections: as many as the setting says, or as the limit of open files allows.
///
/// # Errors
/// [`ServeError::Files`] if that limit is too low to work with.
pub(super) fn connections(config: &Config) -> Result<Arc<Connections>, ServeError> {
    let wanted = u64::from(config.max_connections);
    let possible = possible_connections(config)?;
    if possible < wanted {
        tracing::warn!(
            wanted,
            possible,
            "COULOMB_MAX_CONNECTIONS is more than the limit of open files allows: raise that limit \
                (ulimit -n, LimitNOFILE)"
        );
    }
    let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
    let limits = WaitLimits {
        head: seconds(config.request_timeout_s),
        idle: seconds(config.keep_alive_s),
        answer: seconds(config.answer_timeout_s),
    };
    let held = config.answer_memory_mib as usize * 1024 * 1024;
    let at_most = usize::try_from(possible.min(wanted)).unwrap_or(usize::MAX);
    Ok(Arc::new(Connections::new(at_most, held, limits)))
}

/// Raises the limit of open files as far as needed and allowed; returns how many connections it allows.
///
/// # Errors
/// [`ServeError::Files`] if they are too few.
pub(super) fn possible_connections(config: &Config) -> Result<u64, ServeError> {
    let wanted = u64::from(config.max_connections);
    let others = OTHER_FILES + SPARE as u64;
    let mut files = getrlimit(Resource::Nofile);
    if files.current.is_some_and(|current| current < wanted + others) {
        let more = files.maximum.map_or(wanted + others, |maximum| maximum.min(wanted + others));
        // If this fails, the limit stays as it is, and the check below decides.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(more), maximum: files.maximum });
        files = getrlimit(Resource::Nofile);
    }
    let Some(limit) = files.current else { return Ok(wanted) };
    let needed = others + LEAST_CONNECTIONS.min(wanted);
    if limit < needed {
        return Err(ServeError::Files { limit, needed });
    }
    Ok(limit - others)
}
