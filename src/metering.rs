//! Metering: by what usage is counted, priced and limited, and how it is posted. It stands below the ways in
//! (`usage`) and below what decides about limits (`quota`).

pub mod catalog;
pub mod closings;
pub mod counters;
pub mod data;
pub mod event;
pub mod levels;
pub mod meters;
pub mod partitions;
pub mod periods;
pub mod posting;
pub mod rates;
pub mod rating;
pub mod resolve;
pub mod series;
pub mod slots;
pub mod unpriced;
