//! Framing and CBOR: bytes in, frames and borrowed events out.
#![forbid(unsafe_code)]
