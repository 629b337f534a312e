// What happened and why: events as sentences, the newest first, with filters.

import { h, morph, sentence } from "./dom.js";
import { date, time } from "./format.js";
import { replicaLink } from "./fleet.js";

const SHOWN = 200;
const GROUPS = {
  "": "everything",
  decisions: "decisions",
  life: "replicas' lives",
  clouds: "news of clouds",
  trouble: "trouble",
};
const GROUP_OF = {
  launch: "decisions", scaled: "decisions", note: "decisions", budget: "decisions", applied: "decisions", update: "decisions",
  paused: "decisions", resumed: "decisions", asleep: "decisions", awake: "decisions", drill: "decisions",
  state: "life", gone: "life", adopted: "life", reaped: "life", cleared: "life",
  refused: "clouds", notice: "clouds", rebalance: "clouds",
  trouble: "trouble",
};
const TONES = {
  refused: "bad", trouble: "bad", notice: "warn", rebalance: "warn", reaped: "warn", budget: "warn",
  launch: "accent", scaled: "accent", adopted: "accent", started: "good", update: "accent", applied: "accent", drill: "warn",
};

function toneOf(event) {
  if (event.kind === "state" && / → ready:/.test(event.message)) return "good";
  if (event.kind === "state" && / → (noticed|draining):/.test(event.message)) return "warn";
  if (event.kind === "gone") return ["preempted", "failed"].includes(event.data?.gone) ? "bad" : "plain";
  return TONES[event.kind] ?? "plain";
}

function row(event, fixed) {
  const at = new Date(event.at);
  return h(
    "li",
    { "data-key": event.id, class: `event tone-${toneOf(event)}` },
    h("time", { datetime: event.at, title: date(at) }, time(at)),
    h("span", { class: "kind" }, event.kind),
    h(
      "span",
      { class: "what" },
      !fixed && event.replica && [replicaLink(event.replica), " "],
      !event.replica && event.zone && [h("a", { href: `#/zone/${encodeURIComponent(event.zone)}` }, event.zone), " "],
      sentence(event.message),
    ),
  );
}

export class Timeline {
  /** `only` says which events belong here at all; `fixed`: no filters. */
  constructor({ title = "What happened, and why", only = () => true, fixed = false } = {}) {
    this.only = only;
    this.fixed = fixed;
    this.events = [];
    this.search = h("input", { type: "search", placeholder: "search", "aria-label": "Only events with this text" });
    this.kind = h(
      "select",
      { "aria-label": "Only events of this kind" },
      Object.entries(GROUPS).map(([value, name]) => h("option", { value }, name)),
    );
    this.list = h("ol", { class: "events" });
    this.count = h("p", { class: "muted count" });
    this.element = h(
      "section",
      { class: "panel timeline" },
      h("div", { class: "panel-head" }, h("h2", null, title), !fixed && h("span", { class: "filters" }, this.search, this.kind)),
      this.list,
      this.count,
    );
    this.search.addEventListener("input", () => this.draw());
    this.kind.addEventListener("change", () => this.draw());
  }

  show(events) {
    this.events = events.filter(this.only);
    this.draw();
  }

  draw() {
    const text = this.search.value.trim().toLowerCase();
    const group = this.kind.value;
    const found = this.events.filter(
      (event) =>
        (!group || GROUP_OF[event.kind] === group) &&
        (!text || `${event.replica ?? ""} ${event.zone ?? ""} ${event.kind} ${event.message}`.toLowerCase().includes(text)),
    );
    morph(this.list, found.slice(-SHOWN).reverse().map((event) => row(event, this.fixed)));
    const more = found.length - SHOWN;
    this.count.textContent = !found.length ? "Nothing that fits." : more > 0 ? `and ${more} before that` : "";
  }
}
