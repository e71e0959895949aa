//! Rollup.
#![forbid(unsafe_code)]
