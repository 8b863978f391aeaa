"use strict";
// Draws what `switchml top --web` sends: one event is all that there is to see (web_frame.py).

const MINUTE = 60;
// Told apart with any kind of colour vision (Okabe and Ito); from the ninth rank on they come again, and the number tells.
const RANKS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#7f5fc4"];
const DARK_TEXT = new Set(["#e69f00", "#cc79a7", "#56b4e9", "#b8a800", "#009e73"]);
const LATE = 0.5;

const colour = (rank) => RANKS[rank % RANKS.length];
const inkOn = (rank) => (DARK_TEXT.has(colour(rank)) ? "#000000" : "#ffffff");

function make(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function drawn(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Numbers, as the terminal has them.

const digits = (value) => value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0);

function quantity(value, unit = "") {
  for (const [prefix, size] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (value >= 0.9995 * size) return `${digits(value / size)} ${prefix}${unit}`;
  }
  const text = Number.isInteger(value) || value >= 100 ? value.toFixed(0) : digits(value);
  return `${text} ${unit}`.trimEnd();
}

function duration(seconds) {
  for (const [unit, size] of [["s", 1], ["ms", 1e-3], ["µs", 1e-6]]) {
    if (seconds >= 0.9995 * size || unit === "µs") return `${digits(seconds / size)} ${unit}`;
  }
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  const two = (value) => String(value).padStart(2, "0");
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

const last = (values) => (values.length ? values[values.length - 1] : 0);

// Keeps an element for each key, in the order of the keys, so that nothing flickers and a selection stays.
class Kept {
  constructor(parent, build) {
    this.parent = parent;
    this.build = build;
    this.all = new Map();
  }

  update(items, keyOf) {
    const keys = new Set(items.map(keyOf));
    for (const [key, one] of this.all) {
      if (!keys.has(key)) {
        one.element.remove();
        this.all.delete(key);
      }
    }
    items.forEach((item, place) => {
      const key = keyOf(item);
      if (!this.all.has(key)) this.all.set(key, this.build(item));
      const { element, update } = this.all.get(key);
      if (this.parent.children[place] !== element) this.parent.insertBefore(element, this.parent.children[place] || null);
      update(item);
    });
  }
}

// The last minute of one or two quantities.
class Plot {
  constructor(title, names, unit) {
    this.unit = unit;
    this.curves = names.map((_, place) => drawn("polyline", { class: place ? "curve out" : "curve" }));
    this.values = names.map(() => make("b"));
    this.totals = names.map(() => make("span", "soft"));
    const keys = names.map((name, place) => {
      const what = make("span", "", make("span", place ? "key out" : "key"), name, " ", this.values[place]);
      what.append(" ", this.totals[place]);
      return what;
    });
    this.most = make("span");
    this.svg = drawn("svg", { class: "plot", viewBox: `0 0 ${MINUTE - 1} 100`, preserveAspectRatio: "none", role: "img" });
    for (const y of [1, 50, 99]) this.svg.append(drawn("line", { class: "grid", x1: 0, x2: MINUTE - 1, y1: y, y2: y }));
    this.svg.append(...this.curves);
    this.title = title;
    const axis = make("div", "axis", make("span", "", "a minute ago"), this.most, make("span", "", "now"));
    this.element = make("div", "card", make("h4", "", title), make("div", "series", ...keys), this.svg, axis);
  }

  update(series, totals = []) {
    const most = Math.max(0, ...series.flat());
    series.forEach((values, place) => {
      const shown = values.slice(-MINUTE);
      const points = shown.map((value, index) => {
        const x = MINUTE - shown.length + index;
        return `${x},${(99 - 96 * (most ? value / most : 0)).toFixed(1)}`;
      });
      this.curves[place].setAttribute("points", points.join(" "));
      say(this.values[place], `${quantity(last(values), this.unit)}/s`);
      say(this.totals[place], totals[place] === undefined ? "" : `${quantity(totals[place], this.unit)} in all`);
    });
    say(this.most, most ? `top line: ${quantity(most, this.unit)}/s` : "");
    this.svg.setAttribute("aria-label", `${this.title}: at most ${quantity(most, this.unit)} a second in the last minute`);
  }
}

function spark() {
  const curve = drawn("polyline", { class: "curve" });
  const svg = drawn("svg", { class: "spark", viewBox: "0 0 29 20", preserveAspectRatio: "none", "aria-hidden": "true" }, curve);
  return {
    element: svg,
    update(values) {
      const shown = values.slice(-30);
      const most = Math.max(0, ...shown);
      const points = shown.map((value, index) => `${30 - shown.length + index},${(19 - 18 * (most ? value / most : 0)).toFixed(1)}`);
      curve.setAttribute("points", points.join(" "));
    },
  };
}

// A cell for each slot: grey while it waits for nobody, in the colour of the rank that it waits for, else with their number.
class SlotMap {
  constructor() {
    this.canvas = make("canvas");
    this.canvas.setAttribute("role", "img");
    this.told = make("div", "under");
    this.notice = make("div", "under");
    this.legend = make("div", "legend");
    this.element = make("div", "", make("h4", "", "What each slot waits for"), this.notice, this.canvas, this.told, this.legend);
    this.pointed = null;
    this.canvas.addEventListener("mousemove", (event) => {
      this.pointed = [event.offsetX, event.offsetY];
      this.tell();
    });
    this.canvas.addEventListener("mouseleave", () => {
      this.pointed = null;
      this.tell();
    });
  }

  update(job) {
    this.job = job;
    this.element.hidden = !job.missing.length;
    if (this.element.hidden) return;
    this.draw();
    this.tell();
    const waiting = job.missing.filter((count) => count > 0).length;
    const late = lateRank(job);
    this.notice.className = late ? "under notice" : "under";
    const busy = `${waiting.toLocaleString("en")} of ${job.missing.length.toLocaleString("en")} slots wait`;
    say(this.notice, late ? `Rank ${late.rank} is late: ${percent(late.late)} of the waiting slots wait for it` : busy);
    this.canvas.setAttribute("aria-label", `${busy}${late ? `, most for rank ${late.rank}` : ""}`);
    if (!this.legend.childElementCount) {
      const kinds = [["--cell", "for nobody"], ["--several", "for several: how many"], ["", "for one rank: its number and colour"]];
      for (const [name, text] of kinds) {
        const swatch = make("span", "swatch");
        swatch.style.background = name ? `var(${name})` : `linear-gradient(90deg, ${colour(0)} 50%, ${colour(1)} 50%)`;
        this.legend.append(make("span", "", swatch, text));
      }
    }
  }

  draw() {
    const { missing, first } = this.job;
    const width = this.canvas.clientWidth;
    if (!width) return;
    this.columns = missing.length > 512 ? 64 : missing.length > 32 ? 32 : missing.length;
    this.size = Math.max(4, Math.min(22, Math.floor(width / this.columns)));
    const rows = Math.ceil(missing.length / this.columns);
    const scale = window.devicePixelRatio || 1;
    const style = getComputedStyle(document.documentElement);
    const [idle, several] = [style.getPropertyValue("--cell"), style.getPropertyValue("--several")];
    this.canvas.style.height = `${rows * this.size}px`;
    this.canvas.width = width * scale;
    this.canvas.height = rows * this.size * scale;
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.font = `600 ${Math.min(11, this.size - 4)}px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    missing.forEach((count, slot) => {
      const x = (slot % this.columns) * this.size;
      const y = Math.floor(slot / this.columns) * this.size;
      pen.fillStyle = !count ? idle : count === 1 ? colour(first[slot]) : several;
      pen.fillRect(x, y, this.size - 1, this.size - 1);
      if (!count || this.size < 12) return;
      pen.fillStyle = count === 1 ? inkOn(first[slot]) : "#ffffff";
      pen.fillText(count === 1 ? String(first[slot]) : `×${count}`, x + (this.size - 1) / 2, y + this.size / 2, this.size - 2);
    });
  }

  tell() {
    if (!this.pointed || !this.job || !this.size) {
      say(this.told, "Point at a slot to read what it waits for.");
      return;
    }
    const [column, row] = this.pointed.map((place) => Math.floor(place / this.size));
    const slot = row * this.columns + column;
    const count = column < this.columns ? this.job.missing[slot] : undefined;
    if (count === undefined) return;
    const for_ = count === 0 ? "nobody" : count === 1 ? `rank ${this.job.first[slot]}` : `${count} ranks, rank ${this.job.first[slot]} the first of them`;
    say(this.told, `Slot ${slot} waits for ${for_}`);
  }
}

const percent = (share) => `${Math.round(100 * share)} %`;

// The rank that most slots wait for: most of them, and twice as many as for anybody else. Of one look alone nothing is said.
function lateRank(job) {
  const [worst, next] = [...job.members].sort((one, other) => other.late - one.late);
  return worst && worst.late >= LATE && (!next || worst.late >= 2 * next.late) ? worst : null;
}

class Ranks {
  constructor() {
    this.head = make("tr");
    this.body = make("tbody");
    this.rows = new Kept(this.body, (member) => this.row(member));
    const table = make("table", "", make("thead", "", this.head), this.body);
    this.element = make("div", "", make("h4", "", "Ranks"), make("div", "scroll", table));
    this.paced = null;
  }

  update(job) {
    const paced = job.members.some((member) => member.round_trips.length);
    if (paced !== this.paced) {
      this.paced = paced;
      const names = [["rank", "left"], ["way", "left"], ["state", "left"], ["slots wait for it", "left"], ["heard", ""]];
      if (paced) names.push(["round trip", ""], ["", ""], ["window", ""], ["", ""]);
      names.push(["sent again", ""]);
      this.head.replaceChildren(...names.map(([name, side]) => make("th", side, name)));
      this.rows.update([], () => "");
    }
    this.job = job;
    this.rows.update(job.members, (member) => member.rank);
  }

  row(member) {
    const chip = make("span", "chip", String(member.rank));
    chip.style.background = colour(member.rank);
    chip.style.color = inkOn(member.rank);
    const cells = { way: make("td", "left"), state: make("td", "left"), heard: make("td"), again: make("td") };
    const [fill, share] = [make("span"), make("b")];
    fill.style.background = colour(member.rank);
    const late = make("div", "late", make("div", "bar", fill), share);
    const row = make("tr", "", make("td", "left", chip), cells.way, cells.state, make("td", "wide", late), cells.heard);
    const [trip, inFlight, trips, windows] = [make("td"), make("td"), spark(), spark()];
    if (this.paced) row.append(trip, make("td", "", trips.element), inFlight, make("td", "", windows.element));
    row.append(cells.again);
    return {
      element: row,
      update: (now) => {
        say(cells.way, now.transport);
        cells.way.title = now.address;
        say(cells.state, now.state);
        const heard = now.packet ?? now.heartbeat;
        say(cells.heard, heard === null ? "never" : `${heard.toFixed(1)} s`);
        say(cells.again, quantity(now.sent_again));
        fill.style.width = percent(Math.min(1, now.late)).replace(" ", "");
        say(share, percent(Math.min(1, now.late)));
        late.classList.toggle("much", lateRank(this.job) === now);
        if (!this.paced) return;
        say(trip, now.round_trips.length ? duration(last(now.round_trips)) : "");
        say(inFlight, now.windows.length ? String(last(now.windows)) : "");
        trips.update(now.round_trips);
        windows.update(now.windows);
      },
    };
  }
}

function jobCard() {
  const [name, about, waits] = [make("h3"), make("span", "soft"), make("span", "warn")];
  const [slots, ranks, plot] = [new SlotMap(), new Ranks(), new Plot("Sums", ["elements"], "")];
  const again = make("div", "under");
  plot.element.className = "plotted";
  const right = make("div", "", ranks.element, plot.element, again);
  const element = make("section", "card job", make("div", "headline", name, about, waits), make("div", "parts", slots.element, right));
  return {
    element,
    update(job) {
      say(name, job.name);
      const number = job.job_number ? `#${job.job_number}, ` : "";
      const slots_ = job.job_number ? `, ${job.window} slots of ${job.payload} bytes, ${job.wire}` : "";
      say(about, `${number}${job.state}, ${job.members.length} of ${job.world_size} ranks, for ${clock(job.age)}${slots_}`);
      say(waits, job.waits_for ? `waits for ${job.waits_for}` : "");
      ranks.update(job);
      plot.update([job.sums]);
      plot.element.hidden = !job.job_number;
      slots.update(job);
      const worst = Math.max(0, ...job.again);
      const range = job.again.indexOf(worst);
      say(again, worst ? `Packets or results came again, most (${worst.toLocaleString("en")}) in range ${range + 1} of ${job.again.length} of its slots.` : "");
    },
  };
}

function table(title, ...heads) {
  const body = make("tbody");
  const names = heads.map(([name, side]) => make("th", side, name));
  const element = make("section", "card", make("h4", "", title), make("div", "scroll", make("table", "", make("thead", "", make("tr", "", ...names)), body)));
  return { element, body };
}

function textRow(...classes) {
  const cells = classes.map((name) => make("td", name));
  return { element: make("tr", "", ...cells), tell: (...texts) => texts.forEach((text, place) => say(cells[place], text)) };
}

function switchSection() {
  const [name, about, silent, closed] = [make("h2"), make("span", "soft"), make("span", "warn"), make("span", "warn")];
  const plots = {
    packets: new Plot("Packets", ["in", "out"], ""),
    bytes: new Plot("Data", ["in", "out"], "B"),
    chunks: new Plot("Chunks", ["complete"], ""),
  };
  const none = make("p", "soft");
  const jobs = make("div");
  const keptJobs = new Kept(jobs, jobCard);
  const troubles = table("Dropped and repeated", ["what", "left"], ["a second", ""], ["", ""], ["in all", ""]);
  const keptTroubles = new Kept(troubles.body, () => {
    const curve = spark();
    const [what, rate, count] = [make("td", "left"), make("td"), make("td")];
    return {
      element: make("tr", "", what, rate, make("td", "", curve.element), count),
      update(one) {
        say(what, one.name);
        say(rate, quantity(one.rate));
        say(count, one.count.toLocaleString("en"));
        curve.update(one.lately);
      },
    };
  });
  const ended = table("Ended jobs", ["job", "left"], ["ended", ""], ["why", "left"]);
  const keptEnded = new Kept(ended.body, () => {
    const { element, tell } = textRow("left words", "", "left words");
    return { element, update: (one) => tell(`${one.name} #${one.job_number}`, `${clock(one.ended)} ago`, one.reason) };
  });
  const changes = table("Comings and goings", ["", ""], ["who", "left"], ["now", "left"]);
  const keptChanges = new Kept(changes.body, () => {
    const { element, tell } = textRow("", "left words", "left words");
    return {
      element,
      update: (one) => {
        const who = one.what === "job" ? one.name : `${one.name}, rank ${one.rank}`;
        tell(`${clock(one.ago)} ago`, who, one.reason ? `${one.state}: ${one.reason}` : one.state);
      },
    };
  });
  const head = make("div", "headline", name, about, silent, closed);
  const cards = make("div", "cards", plots.packets.element, plots.bytes.element, plots.chunks.element);
  const below = make("div", "cards tables job", troubles.element, ended.element, changes.element);
  return {
    element: make("section", "switch", head, cards, none, jobs, below),
    update(one) {
      say(name, `Switch ${one.address}`);
      const known = one.about;
      say(about, known.uptime === undefined ? "" : `up ${clock(known.uptime)}, ${known.free_slots.toLocaleString("en")} of ${known.pool_slots.toLocaleString("en")} slots free`);
      const lost = one.missed ? `${one.missed.toLocaleString("en")} messages missed` : "";
      say(silent, [one.silence >= 3 ? `silent for ${clock(one.silence)}` : "", lost].filter(Boolean).join(", "));
      say(closed, known.suspended ? `nobody can join now: ${known.suspended}` : "");
      const [now, all] = [one.lately, one.counters];
      plots.packets.update([now.packets_received, now.packets_sent], [all.packets_received, all.packets_sent]);
      plots.bytes.update([now.bytes_received, now.bytes_sent], [all.bytes_received, all.bytes_sent]);
      plots.chunks.update([now.chunks_completed], [all.chunks_completed]);
      const used = all.packets_received > 0;
      cards.hidden = !used;
      say(none, used ? "no jobs" : "no jobs, and nothing has come yet");
      none.hidden = one.jobs.length > 0;
      keptJobs.update(one.jobs, (job) => job.key);
      keptTroubles.update(one.troubles, (trouble) => trouble.name);
      troubles.element.hidden = !one.troubles.length;
      // By place: jobs that failed before they had a number may have one name.
      keptEnded.update(one.ended.slice(0, 8).map((job, place) => ({ ...job, place })), (job) => job.place);
      ended.element.hidden = !one.ended.length;
      keptChanges.update(one.changes.slice(0, 8).map((change, place) => ({ ...change, place })), (change) => change.place);
      changes.element.hidden = !one.changes.length;
    },
  };
}

const source = document.getElementById("source");
const link = document.getElementById("link");
const waiting = document.getElementById("waiting");
const switches = new Kept(document.getElementById("switches"), switchSection);
let frame = null;

function show() {
  say(source, frame.replayed ? `replay of ${frame.replayed}${frame.ended ? ", at its end" : ""}` : "live");
  waiting.hidden = frame.switches.length > 0;
  switches.update(frame.switches, (one) => one.address);
}

const events = new EventSource("events");
events.onmessage = (event) => {
  frame = JSON.parse(event.data);
  say(link, "");
  link.className = "";
  show();
};
events.onerror = () => {
  const refused = events.readyState === EventSource.CLOSED;
  const words = refused ? "this page is refused: open the address that was printed last" : "the connection is lost; trying again";
  say(link, frame && frame.ended ? "" : words);
  link.className = "lost";
};
const again = () => frame && show();
window.addEventListener("resize", again);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
