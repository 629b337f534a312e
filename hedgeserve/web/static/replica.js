// One replica: what it is, how its start went, what happened to it, what its engine says.

import { h, morph, s } from "./dom.js";
import { age, duration, market, plural, seconds, usdPerHour } from "./format.js";
import { Explain } from "./explain.js";
import { marketTag, stateBadge } from "./fleet.js";
import { ask, askText } from "./live.js";
import { Timeline } from "./timeline.js";

const LOG_EVERY_MS = 3000;
const LINES = 300;
const MEANING = {
  grant: "the cloud grants the VM",
  boot: "the VM boots",
  ssh: "SSH lets us in",
  cloud_init: "the first boot's set-up",
  driver: "the GPU's driver",
  scratch: "the fast disks",
  upload: "files are sent",
  install: "the engine is installed",
  start: "the engine is started",
  load: "weights are loaded",
  first_token: "the first token",
};
const TONE = { grant: 1, boot: 1, ssh: 1, cloud_init: 2, driver: 2, scratch: 2, upload: 3, install: 3, start: 3, load: 4, first_token: 5 };
const STAGES = { provisioning: "grant", booting: "boot", loading: "load" };

/** The phases of the last start: as the service measured them or, while it goes on, as its steps tell. */
function phasesOf(events, now) {
  const measured = events.findLast((event) => event.data?.phases?.length);
  if (measured) return measured.data.phases;
  const steps = events
    .filter((event) => event.kind === "state")
    .map((event) => [/ → (\w+):/.exec(event.message)?.[1], new Date(event.at) / 1000])
    .filter(([state]) => state);
  if (!steps.length) return [];
  const begun = steps[0][1];
  return steps
    .map(([state, at], index) => ({ phase: STAGES[state], from_s: at - begun, to_s: (steps[index + 1]?.[1] ?? now) - begun }))
    .filter((phase) => phase.phase);
}

function waterfall(phases, width) {
  if (!phases.length) return h("p", { class: "muted" }, "Nothing is known of its start.");
  const row = 26;
  const left = Math.min(190, width * 0.42);
  const right = 58;
  const end = Math.max(0.001, ...phases.map((phase) => phase.to_s));
  const x = (at) => left + (at / end) * Math.max(10, width - left - right);
  const height = phases.length * row + 6;
  const told = phases.map((phase) => `${phase.phase} ${seconds(phase.to_s - phase.from_s)}`).join(", ");
  return s(
    "svg",
    { class: "waterfall", width, height, role: "img", "aria-label": `Cold start of ${seconds(end)}: ${told}` },
    phases.map((phase, index) => {
      const y = index * row + 4;
      const took = phase.to_s - phase.from_s;
      return s(
        "g",
        null,
        s("line", { class: "grid", x1: left, x2: width - right, y1: y + row - 5, y2: y + row - 5 }),
        s("text", { class: "phase", x: 0, y: y + 14 }, width < 460 ? phase.phase : (MEANING[phase.phase] ?? phase.phase)),
        s("rect", { class: `phase-${TONE[phase.phase] ?? 3}`, x: x(phase.from_s), y: y + 3, height: 14, rx: 2.5, width: Math.max(2, x(phase.to_s) - x(phase.from_s)) }),
        s("text", { class: "took", x: Math.min(x(phase.to_s) + 6, width - right + 6), y: y + 14 }, duration(took)),
      );
    }),
  );
}

export class ReplicaPage {
  constructor(id) {
    this.id = id;
    this.facts = h("div", { class: "facts" });
    this.fall = h("div", { class: "fall" });
    this.log = h("pre", { class: "log", tabindex: "0", "aria-label": "Engine log" });
    this.logNote = h("span", { class: "muted" });
    this.explain = new Explain(id);
    this.timeline = new Timeline({ title: "Its life", only: (event) => event.replica === id, fixed: true });
    this.element = h(
      "div",
      { class: "page" },
      h("p", { class: "crumbs" }, h("a", { href: "#/" }, "← The fleet")),
      this.facts,
      h(
        "div",
        { class: "columns" },
        h(
          "div",
          null,
          h("section", { class: "panel" }, h("h2", null, "Cold start"), this.fall),
          h("section", { class: "panel" }, h("div", { class: "panel-head" }, h("h2", null, "Engine log"), this.logNote), this.log),
        ),
        h("div", null, this.explain.element, this.timeline.element),
      ),
    );
    this.observer = new ResizeObserver(() => this.drawFall());
    this.observer.observe(this.fall);
    this.events = [];
    this.alive = false;
    this.readEvents();
    this.timer = setInterval(() => document.hidden || this.readLog(), LOG_EVERY_MS);
  }

  async readEvents() {
    try {
      this.events = (await ask(`/admin/v1/events?limit=1000&replica=${encodeURIComponent(this.id)}`)).events;
    } catch (error) {
      this.logNote.textContent = error.message;
    }
    this.drawEvents();
  }

  happened(event) {
    if (event.replica !== this.id || this.events.some((known) => known.id === event.id)) return;
    this.events.push(event);
    this.drawEvents();
  }

  drawEvents() {
    this.timeline.show(this.events);
    this.drawFall();
  }

  drawFall() {
    const width = Math.round(this.fall.clientWidth);
    if (width) morph(this.fall, waterfall(phasesOf(this.events, Date.now() / 1000), width));
  }

  async readLog() {
    if (!this.alive) return;
    const atEnd = this.log.scrollTop + this.log.clientHeight >= this.log.scrollHeight - 8;
    try {
      const text = await askText(`/admin/v1/logs/${encodeURIComponent(this.id)}?lines=${LINES}`);
      if (text !== this.log.textContent) this.log.textContent = text;
      this.logNote.textContent = text ? `its last ${LINES} lines` : "empty so far";
      if (atEnd) this.log.scrollTop = this.log.scrollHeight;
    } catch (error) {
      this.logNote.textContent = error.message;
    }
  }

  status(status, elapsed) {
    const replica = status.replicas.find((one) => one.id === this.id);
    const last = this.events.at(-1);
    const hasEngine = ["loading", "ready", "noticed", "draining"].includes(replica?.state);
    const began = hasEngine && !this.alive;
    this.alive = hasEngine;
    if (began) this.readLog();
    if (!hasEngine) this.logNote.textContent = this.log.textContent ? "as it was last" : "there is none now";
    document.title = `${this.id} · HedgeServe`;
    const known = (name, ...value) => h("div", { class: "figure" }, h("dt", null, name), h("dd", null, ...value));
    morph(
      this.facts,
      h("h1", null, this.id, " ", stateBadge(replica?.state ?? "gone"), " ", replica && marketTag(replica.market)),
      h("p", { class: "why" }, replica?.why ?? (last ? last.message : "There is no such replica in the journal.")),
      replica &&
        h(
          "dl",
          { class: "figures" },
          known("zone", h("a", { href: `#/zone/${encodeURIComponent(replica.zone)}` }, replica.zone)),
          known("machine", replica.instance_type),
          known("price", usdPerHour(replica.usd_per_hour), h("small", null, ` ${market(replica.market)}`)),
          known("in this state for", age(replica.since_s + elapsed)),
          replica.version > 0 &&
            known("version", replica.version, replica.version !== status.model_version && h("small", null, ` ${status.model_version} is wanted`)),
          known("answering", plural(replica.outstanding, "request")),
          replica.in_doubt && known("in doubt", replica.in_doubt),
          replica.notice_in_s !== null && known("goes in", age(replica.notice_in_s - elapsed)),
          replica.url && known("address", replica.url),
        ),
    );
    if (replica && ["provisioning", "booting", "loading"].includes(replica.state)) this.drawFall();
  }

  close() {
    clearInterval(this.timer);
    this.observer.disconnect();
    this.explain.close();
  }
}

export class ZonePage {
  constructor(id) {
    this.id = id;
    this.facts = h("div", { class: "facts" });
    this.explain = new Explain(id);
    this.timeline = new Timeline({ only: (event) => event.zone === id });
    this.element = h(
      "div",
      { class: "page" },
      h("p", { class: "crumbs" }, h("a", { href: "#/" }, "← The fleet")),
      this.facts,
      this.explain.element,
      this.timeline.element,
    );
  }

  eventsChanged(events) {
    this.timeline.show(events);
  }

  status(status) {
    document.title = `${this.id} · HedgeServe`;
    const zone = status.zones.find((one) => one.zone === this.id);
    const here = status.replicas.filter((one) => one.zone === this.id);
    morph(
      this.facts,
      h("h1", null, this.id),
      h("p", { class: "why" }, zone?.state ?? "The policy says nothing of this zone."),
      h(
        "p",
        null,
        here.length
          ? here.map((one) => [h("a", { href: `#/replica/${encodeURIComponent(one.id)}` }, one.id), " ", stateBadge(one.state), "  "])
          : h("span", { class: "muted" }, "No replica is here now."),
      ),
    );
  }

  close() {
    this.explain.close();
  }
}
