// What it costs: from the service's books where it keeps them, else from the history of prices.

import { h, morph } from "./dom.js";
import { percent, usd } from "./format.js";

function figure(name, value, more = "") {
  return h("div", { class: "figure" }, h("dt", null, name), h("dd", null, value, more && h("small", null, more)));
}

/** `compares`: whether it has run for long enough to tell; before, both boot side by side. */
function saved(amount, base, compares = true) {
  if (amount === null || amount === undefined || !(base > 0)) return figure("saved against on-demand", "not known");
  const name = amount >= 0 ? "saved against on-demand" : "above on-demand alone";
  const start = compares ? "" : ", of which the start is much so far";
  return figure(name, usd(Math.abs(amount)), ` ${percent(Math.abs(amount) / base)}${start}`);
}

/** `cost`: GET /admin/v1/cost or null; `total`: the history's total over the time that is shown. */
export function drawMoney(element, cost, total, range) {
  const figures = [];
  if (cost) {
    const base = cost.baseline_on_demand_usd;
    figures.push(
      figure("spent this month", usd(cost.spent_usd)),
      saved(cost.saved_usd, base, cost.compares),
      figure("forecast for the month", cost.forecast_month_usd == null ? "not known" : usd(cost.forecast_month_usd)),
    );
  } else if (total?.seconds) {
    figures.push(
      figure(`spent in ${range}`, usd(total.usd)),
      saved(total.on_demand_usd ? total.on_demand_usd - total.usd : null, total.on_demand_usd, total.seconds >= 600),
      figure("forecast for the month", "not known"),
    );
  } else {
    figures.push(figure("spent", "not known"), figure("saved against on-demand", "not known"));
  }
  const caps = cost?.caps ?? [];
  morph(
    element,
    h("dl", { class: "figures" }, figures),
    caps.length > 0 &&
      h(
        "ul",
        { class: "caps" },
        caps.map(({ name, limit_usd: limit, used_usd: used, committed_usd: committed, state, means }) =>
          h(
            "li",
            null,
            h("span", null, name.replaceAll("_", " ")),
            h("meter", { min: 0, max: limit, value: used, low: limit * 0.8, high: limit * 0.95, optimum: 0, "aria-label": name }),
            h("span", { class: "muted" }, `${usd(used)} of ${usd(limit)} · ${state.replaceAll("_", " ")}${means ? `: ${means}` : ""}${committed == null ? "" : ` · ${usd(committed)} at worst prices`}`),
          ),
        ),
      ),
  );
}
