//! Clients that take too much: connections, memory, time, places. Health and webhooks are answered meanwhile,
//! memory stays bounded, others' requests go on, and all is as before when they are gone.

mod bodies;
mod connections;
mod shares;
