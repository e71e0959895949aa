
// One lane per core: its name, its picture, its figures.

/** `[name, label, text, worth a look, what it tells]` of each figure, from rates `r` and the shard's own telling `s`. */
const FIGURES = [
  ["megabits", "Mbit/s", (r) => short(r?.megabits), () => false, "Received from peers, headers included"],
  ["connections", "Connections", (r, s) => whole(s.connections), () => false, "Open now"],
  ["cpu", "CPU", (r) => percent(r?.cpu), (r) => r?.cpu > 0.95, "Share of the core that the shard's thread used"],
  ["p50", "Latency p50", (r) => bound(r?.p50), () => false, "Half of the frames of the last second were counted within this, from the return of the read"],
  ["p99", "p99", (r) => bound(r?.p99), () => false, "99 of 100 frames of the last second were counted within this"],
  ["p999", "p99.9", (r) => bound(r?.p999), () => false, "999 of 1000 frames of the last second were counted within this"],
  ["pool", "Pool in use", (r, s) => percent(s.pool_utilization_ratio), (r, s) => s.pool_utilization_ratio > 0.9, "Most of the receive buffers in use at once since the sample before"],
  ["backlog", "Backlog", (r, s) => bytes(s.ingest_backlog_bytes), () => false, "Bytes that the kernel holds, received and not yet read"],
  ["waits", "Pool waits/s", (r) => rate(r?.waits), (r) => r?.waits > 0, "Receives that waited for a free buffer"],
  ["stall", "Loop stall", (r) => bound(r?.stall), (r) => r?.stall > 0.1, "How late the shard's own timer fired in the last second, at most"],
  ["allocations", "Allocations/s", (r) => rate(r?.allocations), () => false, "Heap allocations of the shard's thread"],
  ["loss", "Ring loss/s", (r) => rate(r?.loss), (r) => r?.loss > 0, "Samples that were overwritten before they were read; no count is lost by it"],
];

class Lane {
  history = [];

  constructor(shard) {
    this.element = document.getElementById("lane-template").content.firstElementChild.cloneNode(true);
    this.element.dataset.shard = shard;
    this.title = this.element.querySelector("h3");
    this.state = this.element.querySelector(".state");
    this.big = this.element.querySelector(".big b");
    this.canvas = this.element.querySelector("canvas");
    this.figures = FIGURES.map(([name, label, , , title]) => {
      const value = make("dd", { "data-figure": name }, UNKNOWN);
      this.element.querySelector(".figures").append(make("div", { title }, make("dt", {}, label), value));
      return value;
    });
  }

  /** `rates` is null where there are none yet; `isFirst` marks what began anew, `isCut` what follows a gap. */
  update(told, rates, from, at, { isFirst, isCut }) {
    write(this.title, `Core ${told.core}`);
    write(this.state, `shard ${told.shard} · ${told.state}`);
    this.state.classList.toggle("alert", told.state !== "accepting");
    write(this.big, rate(rates?.frames));
    FIGURES.forEach(([, , text, isAlert], index) => {
      write(this.figures[index], text(rates, told));
      this.figures[index].classList.toggle("alert", Boolean(isAlert(rates, told)));
    });
    if (rates) {
      const { frames, rejected, latency } = rates;
      this.history.push({ from, at, frames, rejected, latency, isFirst, isCut });
      while (this.history[1]?.at < at - WINDOW_MS) this.history.shift();
      this.canvas.setAttribute("aria-label", `Core ${told.core}: ${whole(frames)} frames a second, 99 of 100 counted within ${bound(rates.p99)}`);
    }
  }
}

class Lanes {
  lanes = [];
  element = document.getElementById("lanes");
  /** How long ago the moment is that somebody points at, in milliseconds. */
  pointed = null;

  constructor() {
    const point = ({ target, offsetX }) => {
      this.pointed = target instanceof HTMLCanvasElement ? ageAt(target, offsetX) : null;
      this.draw();
    };
    this.element.addEventListener("pointermove", point);
    this.element.addEventListener("pointerleave", point);
  }

  update(stats, rates, from, at, marks) {
    if (this.lanes.length !== stats.shards.length) {
      this.lanes = stats.shards.map((shard) => new Lane(shard.shard));
      this.element.replaceChildren(...this.lanes.map((lane) => lane.element));
    }
    this.bounds = stats.histogram_bounds_seconds;
    stats.shards.forEach((shard, index) => this.lanes[index].update(shard, rates?.[index], from, at, marks));
    this.draw(at);
  }

  draw(now) {
    if (!this.bounds) return;
    this.now = now ?? this.now;
    const scale = commonScale(this.lanes.map((lane) => lane.history), this.bounds);
    for (const { canvas, history } of this.lanes) {
      drawLane(canvas, history, scale, this.now);
      if (this.pointed !== null) drawReading(canvas, history, scale, this.now - this.pointed, this.pointed);
    }
  }
}
