//! The receive buffers of one core.
