//! The database: where it runs, connections to it, its schema.

pub mod embedded;
