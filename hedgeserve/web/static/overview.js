// The first page: how it stands, the fleet, the charts, the money, what happened and why.

import { Chart } from "./chart.js";
import { h, morph, sentence } from "./dom.js";
import { duration, number, percent, plural, seconds, usdPerHour } from "./format.js";
import { Explain } from "./explain.js";
import { fleetMap } from "./fleet.js";
import { ask, askIfThere } from "./live.js";
import { drawMoney } from "./money.js";
import { drawRollout } from "./rollout.js";
import { Timeline } from "./timeline.js";

const RANGES = [
  ["15 min", 900],
  ["1 h", 3600],
  ["6 h", 6 * 3600],
  ["24 h", 86400],
  ["7 d", 7 * 86400],
];
const LEAST_SPAN_S = 120;
const POINTS = 400;
const COST_EVERY_S = 30;

/** "2 of 2 ready · 0.90 USD/h · 55 % below on-demand": at this moment; what was saved stands with the money. */
export function headline(status) {
  const { ready, target, standing } = status;
  if (ready === 0 && standing && standing.rest !== "awake") return [h("span", null, standing.rest), h("span", null, usdPerHour(status.usd_per_hour))];
  const told = ready > target ? `${ready} ready, ${target} needed` : `${ready} of ${target} ready`;
  const parts = [h("span", { class: ready < target ? "short" : "full" }, told)];
  parts.push(h("span", null, usdPerHour(status.usd_per_hour)));
  const base = status.on_demand_usd_per_hour;
  if (base > 0) {
    const share = (base - status.usd_per_hour) / base;
    parts.push(
      h("span", { class: share >= 0 ? "saved" : "above" }, share >= 0 ? `${percent(share)} below on-demand` : `${percent(-share)} above on-demand`),
    );
  }
  return parts.flatMap((part, index) => (index ? [h("i", null, " · "), part] : [part]));
}

export class Overview {
  constructor() {
    this.range = Number(localStorage.getItem("hedgeserve-range")) || 900;
    this.headline = h("h1", { class: "headline" });
    this.sub = h("p", { class: "sub muted" });
    this.trouble = h("div", { class: "troubles", role: "alert" });
    this.rollout = h("section", { class: "panel rollout", "aria-label": "Roll-out", hidden: true });
    this.map = h("div", { class: "map" });
    this.notes = h("ul", { class: "notes muted" });
    this.tiles = h("dl", { class: "figures tiles" });
    this.money = h("div", { class: "money" });
    this.explain = new Explain("now");
    this.timeline = new Timeline();
    const two = (value) => (value === null ? "–" : number(value));
    this.charts = [
      new Chart("Replicas", {
        series: [
          { name: "ready", column: "ready", tone: "good", kind: "area" },
          { name: "target", column: "target", tone: "ink", kind: "step", dashed: true },
          { name: "on-demand", column: "on_demand", tone: "warn", kind: "line" },
        ],
        format: (value, tick) => (value === null ? "–" : tick ? String(Math.round(value * 10) / 10) : number(Math.round(value * 100) / 100)),
        whole: true,
        note: (data, last) => `${Math.round(data.ready[last] * 10) / 10} ready`,
      }),
      new Chart("Requests a second", {
        series: [
          { name: "answered", column: "requests_per_s", tone: "accent", kind: "area" },
          { name: "failed", column: "failed_per_s", tone: "bad", kind: "line" },
        ],
        format: two,
        note: (data, last) => `${number(data.requests_per_s[last])} /s`,
      }),
      new Chart("Time to the first token", {
        series: [
          { name: "p50", column: "ttft_p50_s", tone: "accent", kind: "line" },
          { name: "p99", column: "ttft_p99_s", tone: "violet", kind: "line" },
        ],
        format: (value, tick) => (tick && value >= 1 ? `${Math.round(value)} s` : seconds(value)),
        powers: true,
        note: (data, last) => (data.ttft_p50_s[last] === null ? "" : `${seconds(data.ttft_p50_s[last])} typical`),
      }),
      new Chart("Tokens a second", {
        series: [{ name: "generated", column: "tokens_per_s", tone: "accent", kind: "area" }],
        format: two,
        note: (data, last) => `${number(data.tokens_per_s[last])} /s`,
      }),
      new Chart("Dollars an hour", {
        series: [
          { name: "paid", column: "usd_per_hour", tone: "good", kind: "area" },
          { name: "on demand alone", column: "on_demand_usd_per_hour", tone: "ink", kind: "step", dashed: true },
        ],
        format: (value) => (value === null ? "–" : value.toFixed(2)),
        note: (data, last) => usdPerHour(data.usd_per_hour[last]),
      }),
    ];
    const ranges = h(
      "div",
      { class: "ranges", role: "group", "aria-label": "Time shown" },
      RANGES.map(([name, span]) => h("button", { type: "button", "data-span": span, "aria-pressed": String(span === this.range) }, name)),
    );
    ranges.addEventListener("click", (event) => this.chooseRange(ranges, event.target.closest("button")));
    this.element = h(
      "div",
      { class: "page" },
      h("div", { class: "top" }, h("div", null, this.headline, this.sub), this.tiles),
      this.trouble,
      this.rollout,
      h(
        "div",
        { class: "columns" },
        h(
          "div",
          null,
          h("section", { class: "panel" }, h("h2", null, "Fleet"), this.map, this.notes),
          h("div", { class: "row" }, h("h2", null, "Over time"), ranges),
          h("div", { class: "charts" }, this.charts.map((chart) => chart.element), h("section", { class: "panel" }, h("h3", null, "Money"), this.money)),
        ),
        h("div", null, this.explain.element, this.timeline.element),
      ),
    );
    this.readHistory();
    this.timer = setInterval(() => document.hidden || this.readHistory(), 5000);
  }

  chooseRange(ranges, button) {
    if (!button) return;
    this.range = Number(button.dataset.span);
    localStorage.setItem("hedgeserve-range", String(this.range));
    for (const one of ranges.children) one.setAttribute("aria-pressed", String(one === button));
    this.readHistory();
  }

  async readHistory() {
    const to = Date.now() / 1000;
    const since = Math.floor(to - this.range);
    let history;
    try {
      history = await ask(`/admin/v1/history?since=${since}&points=${POINTS}`);
      if (this.hasBooks && !(to - this.costAt < COST_EVERY_S)) {
        this.costAt = to;
        this.cost = await askIfThere("/admin/v1/cost");
      }
    } catch {
      return; // the stream says what is the matter
    }
    // The clock of the service counts: this machine's may be another.
    const last = history.at.at(-1);
    const end = last === undefined ? to : Math.max(last + Math.min(history.width_s, 10), Math.min(to, last + history.width_s));
    const first = history.at[0] ?? end;
    const from = Math.max(end - this.range, Math.min(first, end - LEAST_SPAN_S));
    for (const chart of this.charts) chart.show(history, from, end);
    this.total = history.total;
    drawMoney(this.money, this.cost ?? null, history.total, RANGES.find(([, span]) => span === this.range)?.[0] ?? "this time");
    this.drawTiles(history);
  }

  drawTiles({ total }) {
    const tile = (name, value, more) => h("div", { class: "figure", title: "over the time that the charts show" }, h("dt", null, name), h("dd", null, value, more && h("small", null, ` ${more}`)));
    const short = total.seconds ? total.short_s / total.seconds : 0;
    morph(
      this.tiles,
      tile("available", total.seconds ? `${(100 * (1 - short)).toFixed(short > 0 && short < 0.1 ? 2 : short ? 1 : 0)} %` : "–"),
      tile("requests", number(total.requests), total.failed ? `${number(total.failed)} failed` : "none failed"),
      tile("first token", seconds(total.ttft_p50_s), total.ttft_p99_s === null ? "" : `p99 ${seconds(total.ttft_p99_s)}`),
      tile("tokens", number(total.tokens)),
    );
  }

  status(status, elapsed) {
    if (!this.hasBooks && status.cost !== undefined) {
      this.hasBooks = true;
      this.readHistory();
    }
    document.title = `${status.ready}/${status.target} ready · ${status.service}`;
    morph(this.headline, headline(status));
    const seen = [Boolean(status.rollout), ...status.replicas.map((one) => `${one.id} ${one.state}`)].join();
    if (seen !== this.seen) this.explain.look(); // or the reasons would be those of some seconds ago
    this.seen = seen;
    const { spot_wanted: spot, on_demand_wanted: demand } = status.plan;
    const resting = status.standing && status.standing.rest !== "awake" ? status.standing : null;
    morph(
      this.sub,
      resting && h("b", null, [resting.why || resting.rest, resting.next].filter(Boolean).join("; "), " · "),
      `${status.state} for ${duration(status.uptime_s + elapsed)} · wanted: ${spot} spot, ${demand} on-demand · ` +
        `${number(status.in_flight)} in flight, ${number(status.queued)} waiting · `,
      h("span", null, status.url),
    );
    morph(this.trouble, status.trouble.map((text) => h("p", null, sentence(text))));
    drawRollout(this.rollout, status);
    morph(this.map, fleetMap(status, elapsed));
    morph(this.notes, status.plan.notes.map((text) => h("li", null, sentence(text))));
    this.notes.hidden = !status.plan.notes.length;
  }

  eventsChanged(events) {
    this.timeline.show(events);
  }

  close() {
    clearInterval(this.timer);
    this.explain.close();
    for (const chart of this.charts) chart.close();
  }
}
