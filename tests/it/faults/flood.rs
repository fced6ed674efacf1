//! Clients that take too many connections, too much memory, time or space in queues. Meanwhile health checks
//! and webhooks are answered, memory stays bounded, other clients' requests succeed. Afterwards all is as
//! before.

mod bodies;
mod connections;
mod shares;
