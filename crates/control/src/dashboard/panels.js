
// Everything besides lanes and sensors: totals, rejected frames, events, the server itself.

/** `[key, label, rate or number, what has added up]`; its word comes first, so that a growing number moves nothing. */
const TOTALS = [
  ["frames", "Frames/s", (r) => rate(r?.frames), (t) => ["frames_accepted", t.frames_accepted, "accepted"]],
  ["megabits", "Mbit/s", (r) => short(r?.megabits), (t) => ["received_bytes", t.received_bytes, "bytes"]],
  ["points", "Points/s", (r) => short(r?.points), (t) => ["points", t.points, "in all"]],
  ["connections", "Connections", (r, t) => whole(t.connections), (t) => ["connections_accepted", t.connections_accepted, "accepted"]],
  ["series", "Live series", (r, t) => whole(t.series), (t) => ["series_evicted", t.series_evicted, "evicted"]],
  ["rejected", "Rejected/s", (r) => rate(r?.rejected), (t) => ["frames_rejected", sum(t.frames_rejected), "in all"]],
];

class Totals {
  constructor() {
    this.tiles = TOTALS.map(([name, label]) => {
      const tile = { big: make("b", { "data-rate": name }, UNKNOWN), count: make("span", {}, UNKNOWN), of: make("span") };
      const small = make("p", { class: "sum" }, tile.of, " ", tile.count);
      document.getElementById("totals").append(make("div", { class: `tile ${name}` }, make("h2", {}, label), tile.big, small));
      return tile;
    });
  }

  update(totals, rates) {
    TOTALS.forEach(([, , big, small], index) => {
      const tile = this.tiles[index];
      const [key, number, of] = small(totals);
      write(tile.big, big(rates, totals));
      tile.count.dataset.total = key;
      write(tile.count, whole(number));
      write(tile.of, of);
    });
    this.tiles.at(-1).big.classList.toggle("alert", rates?.rejected > 0);
  }
}

const words = (label) => label.replaceAll("_", " ");

class Rejected {
  rows = new Map();

  update(totals, rates) {
    const counts = Object.entries(totals.frames_rejected);
    const all = sum(totals.frames_rejected);
    const most = Math.max(1, ...counts.map(([, count]) => count));
    for (const [reason, count] of counts) {
      const row = this.rows.get(reason) ?? this.add(reason);
      row.element.classList.toggle("none", count === 0);
      row.bar.style.inlineSize = `${(count / most) * 100}%`;
      write(row.count, whole(count));
      write(row.rate, rates?.rejectedBy[reason] > 0 ? `${rate(rates.rejectedBy[reason])}/s` : "");
    }
    const share = all / (all + totals.frames_accepted);
    write(document.getElementById("rejected-hint"), all === 0 ? "none since the start" : `${share < 0.0001 ? "<\u202f0.01" : (share * 100).toFixed(2)}\u202f% of all`);
  }

  add(reason) {
    const row = { bar: make("i", { "aria-hidden": "true" }), count: make("b", { "data-rejected": reason }), rate: make("span", { class: "rate" }) };
    row.element = make("li", {}, make("span", { class: "name" }, words(reason)), make("span", { class: "track" }, row.bar), row.rate, row.count);
    document.getElementById("rejected").append(row.element);
    this.rows.set(reason, row);
    return row;
  }
}

class Events {
  list = document.getElementById("events");

  update({ events }, total) {
    const empty = document.getElementById("events-empty");
    empty.hidden = events.length > 0;
    write(empty, total > 0 ? "" : "Nobody has broken a rule since the start.");
    write(document.getElementById("events-hint"), total === 0 ? "none since the start" : `${whole(total)} since the start`);
    const item = ({ time, time_unix_nanos: nanos, kind, peer, detail }) => {
      const when = nanos / 1e6;
      const isToday = new Date(when).toDateString() === new Date().toDateString();
      return make("li", {},
        make("time", { datetime: time ?? "", title: DATE.format(when) }, isToday ? clock(when) : DATE.format(when)),
        make("strong", {}, words(kind)), make("code", {}, peer), make("span", {}, detail));
    };
    this.list.replaceChildren(...events.map(item));
  }
}

class Server {
  constructor() {
    this.process = new Definitions("process");
    this.configuration = new Definitions("configuration");
  }

  update(stats, cpu) {
    const { totals, build, uptime_seconds: uptime } = stats;
    const started = totals.process_start_time_seconds;
    write(document.getElementById("version"), `${build.version}`);
    document.getElementById("version").title = `revision ${build.revision}`;
    write(document.getElementById("uptime"), `up ${duration(uptime)}`);
    this.process.update([
      ["version", build.version],
      ["revision", build.revision],
      ["started", started == null ? UNKNOWN : DATE.format(started * 1000)],
      ["uptime", duration(uptime)],
      ["resident memory", bytes(totals.process_resident_memory_bytes)],
      ["heap allocated", bytes(totals.memory_allocated_bytes)],
      ["CPU of the process", percent(cpu)],
      ["descriptors", `${whole(totals.process_open_fds)} of ${whole(totals.process_max_fds)}`],
      ...(totals.tls_certificate_expiry_timestamp_seconds == null ? []
        : [["certificate expires", DATE.format(totals.tls_certificate_expiry_timestamp_seconds * 1000)]]),
    ]);
    const changed = stats.configuration.filter(({ source }) => source !== "default").length;
    write(document.getElementById("server-hint"), `${changed} of ${stats.configuration.length} settings are not the default`);
    this.configuration.update(stats.configuration.map(({ key, value, source }) => [key, value ?? UNKNOWN, source === "default" ? null : source]));
  }
}

/** A list of names and values that is made once and then written into. */
class Definitions {
  rows = new Map();

  constructor(id) {
    this.list = document.getElementById(id);
  }

  update(entries) {
    for (const [name, value, note] of entries) {
      if (!this.rows.has(name)) {
        const row = { value: make("dd", { "data-name": name }), note: make("dd", { class: "note" }) };
        row.element = make("div", {}, make("dt", {}, name), row.note, row.value);
        this.list.append(row.element);
        this.rows.set(name, row);
      }
      const row = this.rows.get(name);
      write(row.value, value);
      row.value.title = value;
      write(row.note, note ?? "");
      row.element.classList.toggle("changed", note != null);
    }
  }
}
