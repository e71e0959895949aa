
// From two answers of /api/v1/stats to what happened between them. The server's uptime is the clock, so that a slow
// network bends no rate.

/** Whether `after` is of another process than `before`. */
function isRestarted(before, after) {
  if (after.uptime_seconds < before.uptime_seconds || after.shards.length !== before.shards.length) return true;
  // A process that took over may be older than the last answer of the one before it; its counters begin anew.
  return after.shards.some((shard, at) => shard.telemetry_samples < before.shards[at].telemetry_samples);
}

const sum = (numbers) => Object.values(numbers).reduce((all, number) => all + number, 0);

/** Numbers a second between two tellings of one shard, or of all. */
function between(before, after, seconds, bounds) {
  const per = (key) => (after[key] - before[key]) / seconds;
  const latency = after.ingest_latency_seconds.buckets.map((count, at) => count - before.ingest_latency_seconds.buckets[at]);
  const stall = after.loop_stall_seconds.buckets.map((count, at) => count - before.loop_stall_seconds.buckets[at]);
  return {
    frames: per("frames_accepted"),
    points: per("points"),
    megabits: (per("received_bytes") * 8) / 1e6,
    rejected: (sum(after.frames_rejected) - sum(before.frames_rejected)) / seconds,
    rejectedBy: Object.fromEntries(
      Object.entries(after.frames_rejected).map(([reason, count]) => [reason, (count - before.frames_rejected[reason]) / seconds]),
    ),
    waits: per("pool_waits"),
    loss: per("telemetry_samples_dropped"),
    allocations: per("allocations"),
    cpu: per("shard_cpu_seconds"),
    latency,
    p50: quantile(latency, bounds, 0.5),
    p99: quantile(latency, bounds, 0.99),
    p999: quantile(latency, bounds, 0.999),
    stall: quantile(stall, bounds, 0.99),
  };
}

/** The bound of the bucket that the quantile falls into; null without observations. */
function quantile(buckets, bounds, share) {
  const rank = Math.ceil(buckets.reduce((all, count) => all + count, 0) * share);
  if (rank === 0) return null;
  let below = 0;
  const at = buckets.findIndex((count) => (below += count) >= rank);
  return bounds[at] ?? Infinity;
}
