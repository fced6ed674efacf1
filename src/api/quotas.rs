//! Limits, and who may go on.

pub mod check;
pub mod exemptions;
pub mod limits;
