
// The table of sensors. The server tells more than are shown, so that rows need not change places for nothing.

const ROWS = 12;
const ASKED = 60;
const SPARK_VALUES = 40;
const KNOWN_MAX = 600;

class Sensors {
  sort = "count";
  search = "";
  /** By source and sensor: the last values, and what was told last. Insertion order is the order of age. */
  known = new Map();
  shown = [];
  body = document.getElementById("sensors");
  empty = document.getElementById("sensors-empty");
  hint = document.getElementById("sensors-hint");

  constructor() {
    this.rows = Array.from({ length: ROWS }, () => new SensorRow());
    this.body.append(...this.rows.map((row) => row.element));
  }

  get query() {
    const parameters = new URLSearchParams({ sort: this.sort, limit: ASKED });
    if (this.search) parameters.set("search", this.search);
    return `api/v1/sensors?${parameters}`;
  }

  /** A new question: what was shown has no claim to its place. */
  ask(change) {
    Object.assign(this, change);
    this.shown = [];
  }

  /** After a restart counts begin anew. */
  forget() {
    this.known.clear();
  }

  fail() {
    write(this.hint, "no answer, asking again");
  }

  update({ sensors }, at) {
    write(this.hint, "");
    for (const told of sensors) {
      told.key = `${told.id}\u0000${told.sensor}`;
      const known = this.known.get(told.key) ?? { values: [] };
      this.known.delete(told.key);
      this.known.set(told.key, known);
      const isNext = known.count <= told.count && at > known.at;
      known.rate = isNext ? (told.count - known.count) / ((at - known.at) / 1000) : null;
      known.values.push(told.last);
      if (known.values.length > SPARK_VALUES) known.values.shift();
      Object.assign(known, { count: told.count, at });
    }
    for (const key of this.known.keys()) {
      if (this.known.size <= KNOWN_MAX) break;
      this.known.delete(key);
    }
    this.shown = this.choose(sensors);
    this.rows.forEach((row, index) => row.show(this.shown[index], this.known));
    this.empty.hidden = sensors.length > 0;
    write(this.empty, this.search
      ? `No source or sensor has “${this.search}” in its name.`
      : "No sensor has reported yet. Send a frame to the data port, and it appears here.");
  }

  /** Who is shown stays, in its place, as long as it is about as busy, or as new, as who would come instead. */
  choose(sensors) {
    if (sensors.length === 0) return [];
    const size = (told) => (this.sort === "count" ? told.count : told.last_timestamp);
    const slack = this.sort === "count" ? 0.03 * size(sensors[0]) : 3e9;
    const least = size(sensors[Math.min(ROWS, sensors.length) - 1]) - slack;
    const now = new Map(sensors.map((told) => [told.key, told]));
    const stay = this.shown.map((told) => now.get(told.key)).filter((told) => told && size(told) >= least);
    const staying = new Set(stay.map((told) => told.key));
    const chosen = [...stay, ...sensors.filter((told) => !staying.has(told.key))].slice(0, ROWS);
    // Neighbours change places only when they differ by more than that.
    for (let end = chosen.length - 1; end > 0; end -= 1) {
      for (let at = 0; at < end; at += 1) {
        if (size(chosen[at + 1]) > size(chosen[at]) + slack) [chosen[at], chosen[at + 1]] = [chosen[at + 1], chosen[at]];
      }
    }
    return chosen;
  }

  draw() {
    this.rows.forEach((row) => row.draw());
  }
}

class SensorRow {
  constructor() {
    // The roles stay where the narrow page lays rows out as a grid.
    const cell = (name) => make("td", { class: name, role: "cell" });
    this.cells = ["id", "sensor", "number last", "trend", "number rate", "number range", "number range", "number count", "number age"].map(cell);
    this.spark = make("canvas", { "aria-hidden": "true" });
    this.cells[3].append(this.spark);
    this.element = make("tr", { role: "row" }, ...this.cells);
    this.element.hidden = true;
  }

  show(told, known) {
    this.element.hidden = !told;
    this.values = told ? known.get(told.key).values : [];
    if (!told) return;
    const [id, sensor, last, , pace, lowest, highest, count, age] = this.cells;
    for (const [cell, text] of [[id, told.id], [sensor, told.sensor]]) {
      write(cell, text);
      cell.title = text;
    }
    write(last, measured(told.last));
    write(pace, rate(known.get(told.key).rate));
    write(lowest, measured(told.min));
    write(highest, measured(told.max));
    write(count, whole(told.count));
    const old = (Date.now() - told.last_timestamp / 1e6) / 1000;
    write(age, old < 1 ? "now" : duration(old).replace(/ \d+ (s|min|h)$/, ""));
    this.draw();
  }

  draw() {
    if (!this.element.hidden) drawSparkline(this.spark, this.values);
  }
}
