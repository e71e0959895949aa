//! TelemetryRing.
