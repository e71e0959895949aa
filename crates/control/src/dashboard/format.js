// Numbers as text. Widths stay put: figures are tabular, and a unit changes seldom.

const GROUPED = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const UNKNOWN = "–";

/** Every digit, in groups of three. */
const whole = (number) => (number == null ? UNKNOWN : GROUPED.format(Math.round(number)));

/** Three digits that count and the unit that goes with them. */
function scaled(number, units, step) {
  let unit = 0;
  while (Math.abs(number) >= step * 0.9995 && unit < units.length - 1) {
    number /= step;
    unit += 1;
  }
  const size = Math.abs(number);
  const digits = size >= 99.95 || Number.isInteger(number) ? 0 : size >= 9.995 ? 1 : 2;
  return `${number.toFixed(digits)}${units[unit] ? "\u202f" + units[unit] : ""}`;
}

const short = (number) => (number == null ? UNKNOWN : scaled(number, ["", "k", "M", "G", "T"], 1000));
const bytes = (number) => (number == null ? UNKNOWN : scaled(number, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"], 1024));
const percent = (ratio) => (ratio == null ? UNKNOWN : `${(ratio * 100).toFixed(ratio >= 0.0995 || ratio === 0 ? 0 : 1)}\u202f%`);

/** A rate, to the tenth while it is small. */
const rate = (number) => (number == null ? UNKNOWN : number > 0 && number < 9.95 ? number.toFixed(1) : whole(number));

/** The bound of a histogram's bucket. */
function bound(seconds) {
  if (seconds == null) return UNKNOWN;
  if (seconds === Infinity) return ">\u202f8\u202fs";
  if (seconds < 1e-3) return `${Math.round(seconds * 1e6)}\u202fµs`;
  if (seconds < 1) return `${Math.round(seconds * 1e3)}\u202fms`;
  return `${seconds.toFixed(1)}\u202fs`;
}

/** `3 d 4 h`, `1 h 02 min`, `4 min 10 s`, `12 s`. */
function duration(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  const [d, h, m] = [Math.floor(s / 86400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60];
  const two = (number) => String(number).padStart(2, "0");
  if (d > 0) return `${d} d ${two(h)} h`;
  if (h > 0) return `${h} h ${two(m)} min`;
  if (m > 0) return `${m} min ${two(s % 60)} s`;
  return `${s} s`;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DATE = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

const clock = (milliseconds) => CLOCK.format(milliseconds);

/** A measured value, which may be of any size. */
function measured(value) {
  if (value == null) return UNKNOWN;
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e9 || size < 1e-3)) return value.toExponential(2);
  if (Number.isInteger(value)) return whole(value);
  return size >= 10000 ? whole(value) : value.toFixed(size >= 1000 ? 1 : size >= 1 ? 2 : 3);
}

/** Writes a text only where it differs: what stays is not laid out again. */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
