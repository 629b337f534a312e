// Lines over time, as SVG: several series, gaps where nothing is known, one cursor for all charts on the page.

import { h, s } from "./dom.js";
import { date, time, timeShort } from "./format.js";

const LEFT = 44;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 20;
const HEIGHT = 132;
const charts = new Set();

/** A round number at or above this: 1, 2, 2.5 or 5 times a power of ten. */
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

const STEPS_S = [10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800];

/** The finest step that divides the span into no more than `count`. */
function timeStep(span, count) {
  return STEPS_S.find((step) => span / step <= count) ?? 7 * 86400;
}

/** Runs of points without a gap: [[x, y], ...] each. */
function runs(at, values, longest) {
  const found = [];
  let run = [];
  values.forEach((value, index) => {
    if (value === null || (index && at[index] - at[index - 1] > longest)) {
      if (run.length) found.push(run);
      run = [];
    }
    if (value !== null) run.push([at[index], value]);
  });
  if (run.length) found.push(run);
  return found;
}

export class Chart {
  /**
   * `series`: [{name, column, tone, kind: "line" | "step" | "area", dashed}]; `format` writes a value. `whole`: the
   * axis counts in whole numbers; `powers`: it grows by powers of ten, for what is mostly small and sometimes not.
   */
  constructor(title, { series, format, whole = false, powers = false, note = () => "" }) {
    Object.assign(this, { title, series, format, whole, powers, note, data: null, width: 0, cursor: null });
    this.now = h("span", { class: "chart-now" });
    this.svg = s("svg", { role: "img", tabindex: "0", height: HEIGHT });
    this.tip = h("div", { class: "tip", hidden: true });
    this.spoken = h("span", { class: "unseen", "aria-live": "polite" });
    this.legend = h(
      "span",
      { class: "legend" },
      series.map((one) => h("span", { class: `key tone-${one.tone}${one.dashed ? " dashed" : ""}` }, one.name)),
    );
    this.element = h(
      "figure",
      { class: "panel chart" },
      h("figcaption", null, h("h3", null, title), this.now, this.legend),
      h("div", { class: "plot" }, this.svg, this.tip),
      this.spoken,
    );
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => setCursor(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    this.svg.addEventListener("blur", () => setCursor(null));
    this.observer = new ResizeObserver(([entry]) => {
      const width = Math.round(entry.contentRect.width);
      if (width && width !== this.width) {
        this.width = width;
        this.draw();
      }
    });
    this.observer.observe(this.svg.parentElement);
    charts.add(this);
  }

  close() {
    this.observer.disconnect();
    charts.delete(this);
  }

  /** `data`: `at`, `width_s` and the columns; `from` and `to` bound the time shown. */
  show(data, from, to) {
    Object.assign(this, { data, from, to });
    this.draw();
  }

  x(at) {
    return LEFT + ((at - this.from) / (this.to - this.from)) * (this.width - LEFT - RIGHT);
  }

  y(value) {
    const share = this.powers
      ? Math.log10(Math.max(value, this.low) / this.low) / Math.log10(this.top / this.low)
      : value / this.top;
    return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM);
  }

  /** Where the axis has its lines. */
  marks() {
    if (!this.powers) {
      const lines = this.whole && this.top <= 5 ? this.top : 2;
      return Array.from({ length: lines + 1 }, (_, index) => (this.top * index) / lines);
    }
    const marks = [];
    for (let mark = this.low; mark <= this.top * 1.001; mark *= 10) marks.push(mark);
    return marks;
  }

  draw() {
    const { data, width, svg } = this;
    svg.setAttribute("width", width || 1);
    if (!data || !width) return;
    const points = this.series.flatMap((one) => data[one.column] ?? []).filter((value) => value !== null);
    const highest = Math.max(0, ...points);
    const lowest = Math.min(...points.filter((value) => value > 0), 0.1);
    this.low = 10 ** Math.floor(Math.log10(lowest));
    if (this.powers) this.top = Math.max(10 ** Math.ceil(Math.log10(highest || 1)), this.low * 100);
    else this.top = this.whole ? Math.max(2, Math.ceil(highest) + (highest < 3 ? 1 : 0)) : roundUp(highest);
    const parts = [...this.grid()];
    for (const one of this.series) parts.push(...this.line(one));
    this.cursorLine = s("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, x1: -9, x2: -9 });
    parts.push(this.cursorLine);
    if (!points.length) {
      const middle = LEFT + (width - LEFT - RIGHT) / 2;
      parts.push(s("text", { class: "none", x: middle, y: HEIGHT / 2, "text-anchor": "middle" }, "nothing yet"));
    }
    svg.replaceChildren(...parts);
    const last = data.at.length - 1;
    this.now.textContent = last < 0 ? "" : this.note(data, last);
    svg.setAttribute("aria-label", `${this.title}. ${this.describe(last)} Arrow keys move along the time.`);
    this.drawCursor();
  }

  *grid() {
    for (const [index, value] of this.marks().entries()) {
      const y = Math.round(this.y(value)) + 0.5;
      yield s("line", { class: index ? "grid" : "base", x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y });
      yield s("text", { class: "tick", x: LEFT - 6, y: y + 3.5, "text-anchor": "end" }, this.format(value, true));
    }
    const span = this.to - this.from;
    const step = timeStep(span, Math.max(2, Math.floor((this.width - LEFT) / 90)));
    const offset = new Date().getTimezoneOffset() * 60;
    const first = Math.ceil((this.from - offset) / step) * step + offset;
    for (let at = first; at <= this.to; at += step) {
      const x = this.x(at);
      if (x > this.width - 16) break;
      const text = step >= 86400 ? date(at * 1000) : step < 60 ? time(at * 1000) : timeShort(at * 1000);
      yield s("text", { class: "tick", x, y: HEIGHT - 5, "text-anchor": "middle" }, text);
    }
  }

  *line({ column, tone, kind, dashed }) {
    const { data } = this;
    for (const run of runs(data.at, data[column] ?? [], data.width_s * 2.5)) {
      // A slot's figure stands for the whole slot: it is drawn at its middle, in steps over all of it.
      const half = data.width_s / 2;
      let path = "";
      run.forEach(([at, value], index) => {
        const y = this.y(value).toFixed(1);
        if (kind === "step") {
          path += `${index ? "L" : "M"}${this.x(at).toFixed(1)} ${y}L${this.x(Math.min(at + data.width_s, this.to)).toFixed(1)} ${y}`;
        } else {
          path += `${index ? "L" : "M"}${this.x(Math.min(at + half, this.to)).toFixed(1)} ${y}`;
        }
      });
      if (run.length === 1 && kind !== "step") {
        const [at, value] = run[0];
        yield s("circle", { class: `dot tone-${tone}`, cx: this.x(at + half), cy: this.y(value), r: 1.8 });
        continue;
      }
      if (kind === "area") {
        const [first, last] = [run[0][0] + half, Math.min(run.at(-1)[0] + half, this.to)];
        const floor = this.y(0).toFixed(1);
        const area = `${path}L${this.x(last).toFixed(1)} ${floor}L${this.x(first).toFixed(1)} ${floor}Z`;
        yield s("path", { class: `area tone-${tone}`, d: area });
      }
      yield s("path", { class: `line tone-${tone}${dashed ? " dashed" : ""}`, d: path });
    }
  }

  nearest(at) {
    const found = this.data?.at ?? [];
    let best = -1;
    found.forEach((one, index) => {
      const middle = one + this.data.width_s / 2;
      if (best < 0 || Math.abs(middle - at) < Math.abs(found[best] + this.data.width_s / 2 - at)) best = index;
    });
    return best;
  }

  describe(index) {
    if (!this.data || index < 0) return "Nothing is known yet.";
    const told = this.series.map((one) => `${one.name} ${this.format(this.data[one.column]?.[index] ?? null)}`);
    return `${time(this.data.at[index] * 1000)}: ${told.join(", ")}.`;
  }

  point(event) {
    if (!this.data) return;
    const x = event.clientX - this.svg.getBoundingClientRect().left;
    setCursor(this.from + ((x - LEFT) / (this.width - LEFT - RIGHT)) * (this.to - this.from), this);
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 }[event.key];
    if (!step || !this.data?.at.length) return;
    event.preventDefault();
    const last = this.data.at.length - 1;
    const from = this.cursor === null ? last + (step > 0 ? 0 : 1) : this.nearest(this.cursor);
    const index = Math.min(last, Math.max(0, from + step));
    setCursor(this.data.at[index] + this.data.width_s / 2, this);
    this.spoken.textContent = this.describe(index);
  }

  drawCursor(owner) {
    const index = this.cursor === null ? -1 : this.nearest(this.cursor);
    const shown = index >= 0 && this.cursorLine;
    if (this.cursorLine) {
      const x = shown ? this.x(Math.min(this.data.at[index] + this.data.width_s / 2, this.to)) : -9;
      this.cursorLine.setAttribute("x1", x);
      this.cursorLine.setAttribute("x2", x);
    }
    this.tip.hidden = !shown || owner !== this;
    if (this.tip.hidden) return;
    const at = this.data.at[index];
    this.tip.replaceChildren(
      h("b", null, this.data.width_s >= 300 ? `${date(at * 1000)}, ${timeShort(at * 1000)}` : time(at * 1000)),
      ...this.series.map((one) =>
        h(
          "span",
          { class: `key tone-${one.tone}${one.dashed ? " dashed" : ""}` },
          `${one.name} `,
          h("i", null, this.format(this.data[one.column]?.[index] ?? null)),
        ),
      ),
    );
    const x = this.x(at);
    this.tip.classList.toggle("left", x > this.width / 2);
    this.tip.style.left = `${x}px`;
  }
}

function setCursor(at, owner) {
  for (const chart of charts) {
    chart.cursor = at;
    chart.drawCursor(owner);
  }
}
