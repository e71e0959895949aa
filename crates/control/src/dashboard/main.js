
// Asking. One question at a time, about one a second; sensors less often, events when there are new ones. Nothing is
// asked while nobody looks. A server that does not answer is asked less and less often, until it does.

const EVERY_MS = 1000;
const SENSORS_EVERY_MS = 3000;
const RETRY_MS = [1000, 2000, 4000, 8000];
const ANSWER_TIMEOUT_MS = 5000;

const lanes = new Lanes();
const sensors = new Sensors();
const totals = new Totals();
const rejected = new Rejected();
const events = new Events();
const server = new Server();
const main = document.getElementById("main");
const pause = document.getElementById("pause");

/** What was told last, and when by our own clock. */
let before = null;
let eventsTold = null;
let sensorsDue = 0;
let goneSince = null;
let failures = 0;
let isPaused = false;
let timer = null;
/** The wait, or the question under way, that a newer one makes void. */
let turn = 0;

// Beside this page, whatever prefix a proxy puts before it; without the user and password that its address may have.
const base = location.origin + location.pathname.replace(/[^/]*$/, "");

async function get(path) {
  const answer = await fetch(base + path, { signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS), cache: "no-store" });
  if (answer.ok) return answer.json();
  const failure = new Error(answer.status === 401 ? "It asks for its token: load this page again" : `It answered with ${answer.status}`);
  throw failure;
}

function show(stats, at) {
  const isNew = before !== null && isRestarted(before.stats, stats);
  const seconds = before && !isNew ? stats.uptime_seconds - before.stats.uptime_seconds : 0;
  const bounds = stats.histogram_bounds_seconds;
  const has = seconds > 0.05;
  const rates = has ? stats.shards.map((shard, index) => between(before.stats.shards[index], shard, seconds, bounds)) : null;
  const all = has ? between(before.stats.totals, stats.totals, seconds, bounds) : null;
  const cpu = has ? (stats.totals.process_cpu_seconds - before.stats.totals.process_cpu_seconds) / seconds : null;
  if (isNew) {
    sensors.forget();
    sensorsDue = 0;
    eventsTold = null;
  }
  const marks = { isFirst: before?.isNew ?? false, isCut: before?.isNew || before?.wasGone || false };
  lanes.update(stats, rates, before?.at ?? at, at, marks);
  totals.update(stats.totals, all);
  rejected.update(stats.totals, all);
  server.update(stats, cpu);
  before = { stats, at, isNew, wasGone: goneSince !== null };
}

async function ask(mine) {
  const stats = await get("api/v1/stats");
  if (mine !== turn) return;
  show(stats, Date.now());
  const told = sum(stats.totals.security_events);
  if (told !== eventsTold) {
    const answer = await get("api/v1/events");
    if (mine !== turn) return;
    events.update(answer, told);
    eventsTold = told;
  }
  if (performance.now() >= sensorsDue) await askSensors(mine);
}

/** A failure is told beside the sensors: one busy shard keeps them back, and all other numbers go on. */
async function askSensors(mine) {
  const [query, asked] = [sensors.query, performance.now()];
  sensorsDue = asked + SENSORS_EVERY_MS;
  const answer = await get(query).catch((error) => error);
  if (mine !== turn || query !== sensors.query) return;
  const now = performance.now();
  if (answer instanceof Error) sensors.fail();
  else sensors.update(answer, now);
  // A large table takes the server longer, and is asked for less often.
  sensorsDue = asked + Math.max(SENSORS_EVERY_MS, 20 * (now - asked));
}

async function next() {
  const mine = ++turn;
  clearTimeout(timer);
  if (document.hidden || isPaused) return;
  const asked = performance.now();
  let wait = EVERY_MS;
  try {
    await ask(mine);
    if (mine !== turn) return;
    back();
  } catch (error) {
    if (mine !== turn) return;
    wait = gone(error);
  }
  // From question to question, so that a second is one.
  timer = setTimeout(next, Math.max(100, wait - (performance.now() - asked)));
}

function say(state, text) {
  const status = document.getElementById("status");
  status.dataset.state = state;
  write(status.querySelector("span"), text);
}

function back() {
  [goneSince, failures] = [null, 0];
  document.getElementById("notice").hidden = true;
  document.body.classList.remove("gone");
  main.classList.remove("waiting");
  document.title = `corelane · ${location.host}`;
  say("live", "live");
}

/** Tells that nobody answers, and returns how long to wait. */
function gone(error) {
  goneSince ??= before?.at ?? Date.now();
  const wait = RETRY_MS[Math.min(failures, RETRY_MS.length - 1)];
  failures += 1;
  // One answer that fails may be chance; the numbers are still fresh.
  if (failures < 2 && before) return wait;
  const notice = document.getElementById("notice");
  const why = error.message.startsWith("It ") ? error.message : "It may be restarting, or the network is down";
  write(notice.querySelector("strong"), before ? `No numbers from the server since ${clock(goneSince)}.` : "The server does not answer.");
  write(notice.querySelector("span"), `${why}. Asking again every ${RETRY_MS.at(-1) / 1000} s or sooner.`);
  notice.hidden = false;
  document.body.classList.add("gone");
  document.title = "no answer · corelane";
  say("gone", "no answer");
  return wait;
}

pause.addEventListener("click", () => {
  isPaused = !isPaused;
  pause.setAttribute("aria-pressed", String(isPaused));
  write(pause, isPaused ? "Resume" : "Pause");
  if (isPaused) say("paused", "paused");
  next();
});

for (const tab of document.querySelectorAll("[data-sort]")) {
  tab.addEventListener("click", () => {
    document.querySelectorAll("[data-sort]").forEach((other) => other.setAttribute("aria-pressed", String(other === tab)));
    sensors.ask({ sort: tab.dataset.sort });
    askNow();
  });
}

let typing = null;
document.getElementById("search").addEventListener("input", ({ target }) => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    sensors.ask({ search: target.value.trim() });
    askNow();
  }, 250);
});

/** Sensors at once, between two other questions. */
function askNow() {
  sensorsDue = 0;
  if (!document.hidden && goneSince === null) askSensors(turn);
}

function redraw() {
  readTheme();
  lanes.draw();
  sensors.draw();
}

document.addEventListener("visibilitychange", next);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
addEventListener("resize", redraw);
write(document.getElementById("host"), location.host);
readTheme();
next();
