// Why things are as they are: the service's own explanation, where it gives one.

import { h, morph, sentence } from "./dom.js";
import { askIfThere } from "./live.js";

const EVERY_MS = 5000;

export class Explain {
  constructor(subject) {
    this.path = `/admin/v1/explain/${encodeURIComponent(subject)}`;
    this.body = h("div");
    this.element = h("section", { class: "panel explain", hidden: true }, h("h2", null, "Why it is so"), this.body);
    this.look();
    this.timer = setInterval(() => document.hidden || this.look(), EVERY_MS);
  }

  async look() {
    let told = null;
    try {
      told = await askIfThere(this.path);
    } catch {
      return; // signed out: the page says so
    }
    this.element.hidden = !told?.headline;
    if (this.element.hidden) return;
    const sentences = (list) => (Array.isArray(list) ? list : []).map((text) => h("li", null, sentence(text)));
    const would = sentences(told.would_change);
    morph(
      this.body,
      h("p", { class: "explain-headline" }, sentence(told.headline)),
      h("ul", null, sentences(told.because)),
      would.length ? [h("h3", null, "What would change it"), h("ul", { class: "would" }, would)] : null,
    );
  }

  close() {
    clearInterval(this.timer);
  }
}
