
// What is drawn: the picture of a lane, and sparklines.

const WINDOW_MS = 180_000;
const GUTTER = 52;
const AXIS = 16;

let ink;

/** Colours of the page's theme, for canvases. */
function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  ink = { accent: colour("--accent"), alert: colour("--alert"), line: colour("--line"), soft: colour("--soft"), ink: colour("--ink"), surface: colour("--surface"), font: `11px ${style.fontFamily}` };
}

/** The next round number, so that a scale changes seldom. */
function niceMax(number) {
  if (!(number > 0)) return 10;
  const power = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 4, 6, 8, 10].map((step) => step * power).find((step) => step >= number * 0.999);
}

/** A canvas's context, cleared, in CSS pixels; null while it is not shown. */
function begin(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  if (width === 0) return null;
  const scale = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/**
 * Frames/s of one lane over the spread of their latencies.
 * `history`: `{ at, from, frames, rejected, latency, isFirst }`, oldest first; `scale`: what all lanes share.
 */
function drawLane(canvas, history, scale, now) {
  const area = begin(canvas);
  if (!area) return;
  const { context, width, height } = area;
  const spread = Math.round((height - AXIS) * 0.36);
  const top = 6;
  const base = height - AXIS - spread - 10;
  const x = (at) => GUTTER + ((at - now + WINDOW_MS) / WINDOW_MS) * (width - GUTTER);
  const y = (frames) => base - (frames / scale.frames) * (base - top);

  context.font = ink.font;
  context.textBaseline = "middle";
  context.lineWidth = 1;
  context.strokeStyle = ink.line;
  context.fillStyle = ink.soft;
  context.textAlign = "right";
  for (const part of [0, 0.5, 1]) {
    const level = Math.round(y(scale.frames * part)) + 0.5;
    context.beginPath();
    context.moveTo(GUTTER, level);
    context.lineTo(width, level);
    context.stroke();
    if (part > 0) context.fillText(short(scale.frames * part), GUTTER - 8, level);
  }
  for (const minutes of [0, 1, 2, 3]) {
    const at = x(now - minutes * 60_000);
    context.textAlign = minutes === 0 ? "right" : minutes === 3 ? "left" : "center";
    context.fillText(minutes === 0 ? "now" : `−${minutes} min`, at, height - AXIS / 2 + 1);
  }

  context.save();
  context.beginPath();
  context.rect(GUTTER, 0, width - GUTTER, height);
  context.clip();
  drawLine(context, history, x, y, base);
  context.fillStyle = ink.alert;
  for (const sample of history) {
    if (sample.rejected > 0) context.fillRect(x(sample.from), base - 3, Math.max(2, x(sample.at) - x(sample.from) - 1), 3);
    if (sample.isFirst) context.fillRect(Math.round(x(sample.from)), top, 1, height - AXIS - top);
  }
  drawSpread(context, history, scale, x, height - AXIS - spread, spread);
  context.restore();
  drawSpreadAxis(context, scale, height - AXIS - spread, spread);
}

function drawLine(context, history, x, y, base) {
  // A run is what no gap cuts.
  const runs = [];
  for (const sample of history) {
    if (sample.isCut || runs.length === 0) runs.push([]);
    runs.at(-1).push(sample);
  }
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  for (const run of runs) {
    const line = new Path2D();
    run.forEach((sample) => line.lineTo(x(sample.at), y(sample.frames)));
    const fill = new Path2D(line);
    fill.lineTo(x(run.at(-1).at), base);
    fill.lineTo(x(run[0].at), base);
    context.fillStyle = context.strokeStyle = ink.accent;
    context.globalAlpha = 0.14;
    context.fill(fill);
    context.globalAlpha = 1;
    context.stroke(line);
  }
}

/** A column an interval, a row a bucket, darker where more frames are. */
function drawSpread(context, history, scale, x, top, height) {
  const rows = scale.last - scale.first + 1;
  context.fillStyle = ink.accent;
  for (const sample of history) {
    const all = sample.latency.reduce((total, count) => total + count, 0);
    const [left, right] = [x(sample.from), x(sample.at)];
    if (all === 0 || right < GUTTER) continue;
    sample.latency.forEach((count, bucket) => {
      if (count === 0) return;
      // A root, so that one slow frame of a thousand still shows.
      context.globalAlpha = 0.1 + 0.9 * Math.sqrt(count / all);
      const lower = top + height - ((bucket - scale.first) / rows) * height;
      context.fillRect(left, lower - height / rows, Math.max(1, right - left - 0.5), Math.max(1, height / rows - 0.5));
    });
  }
  context.globalAlpha = 1;
}

function drawSpreadAxis(context, scale, top, height) {
  context.fillStyle = ink.soft;
  context.textAlign = "right";
  context.fillText(bound(scale.bounds[scale.last] ?? Infinity), GUTTER - 8, top + 5);
  context.fillText(bound(scale.bounds[scale.first]), GUTTER - 8, top + height - 5);
}

/** How long ago the moment at `x` of a lane's picture is; null beside it. */
function ageAt(canvas, x) {
  const age = WINDOW_MS * (1 - (x - GUTTER) / (canvas.clientWidth - GUTTER));
  return age >= 0 && age <= WINDOW_MS ? age : null;
}

/** What a lane did at one moment, over its picture. */
function drawReading(canvas, history, scale, moment, age) {
  const sample = history.find(({ from, at }) => from < moment && moment <= at);
  if (!sample) return;
  const context = canvas.getContext("2d");
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const x = GUTTER + (1 - age / WINDOW_MS) * (width - GUTTER);
  context.fillStyle = ink.soft;
  context.fillRect(Math.round(x), 0, 1, height - AXIS);
  const text = `${clock(sample.at)}   ${rate(sample.frames)}/s   p99 ${bound(quantile(sample.latency, scale.bounds, 0.99))}`;
  const wide = context.measureText(text).width + 16;
  const left = x + wide > width ? x - wide : x + 1;
  context.fillStyle = ink.surface;
  context.fillRect(left, 0, wide, 20);
  context.fillStyle = ink.ink;
  context.textAlign = "left";
  context.fillText(text, left + 8, 10);
}

/** The scales that all lanes share, so that they can be compared by eye. */
function commonScale(histories, bounds) {
  let [frames, first, last] = [0, Infinity, 0];
  for (const sample of histories.flat()) {
    frames = Math.max(frames, sample.frames);
    sample.latency.forEach((count, bucket) => {
      if (count > 0) [first, last] = [Math.min(first, bucket), Math.max(last, bucket)];
    });
  }
  if (first === Infinity) [first, last] = [2, 9];
  // At least eight rows: fewer would be a wall.
  last = Math.min(bounds.length, Math.max(last, first + 7));
  return { frames: niceMax(frames), first: Math.max(0, Math.min(first, last - 7)), last, bounds };
}

/** Values as a line that fills the box; null is a place without one. */
function drawSparkline(canvas, values) {
  const area = begin(canvas);
  if (!area || values.length < 2) return;
  const { context, width, height } = area;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = (at) => width - 3 - ((values.length - 1 - at) / (SPARK_VALUES - 1)) * (width - 6);
  const y = (value) => (high === low ? height / 2 : height - 4 - ((value - low) / (high - low)) * (height - 8));
  context.strokeStyle = context.fillStyle = ink.accent;
  context.lineWidth = 1.25;
  context.lineJoin = "round";
  context.beginPath();
  values.forEach((value, at) => context.lineTo(x(at), y(value)));
  context.stroke();
  context.beginPath();
  context.arc(x(values.length - 1), y(values.at(-1)), 1.8, 0, 2 * Math.PI);
  context.fill();
}
