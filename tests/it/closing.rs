//! Closed months: one manifest, exports that stay, and journals that other programs accept.

mod books;
mod forged;
mod journals;
mod later;
mod manifests;
mod programs;
mod year;
