// The fleet as a map: cloud, region, zone, and the replicas in it.

import { h } from "./dom.js";
import { age, market, number, usdPerHour } from "./format.js";
import { versionTag } from "./rollout.js";

const ORDER = ["ready", "noticed", "draining", "loading", "booting", "provisioning", "planned", "terminating"];

/** The first word of a zone's standing decides its colour; the whole sentence is there to read. */
function toneOf(standing) {
  const word = standing.split(/[:\s,]/)[0].toLowerCase();
  if (/^(available|calm|good|fresh|untried|unknown|new)$/.test(word)) return "good";
  if (/^(preempted|resting|rests|refused|risky|bad|quota|unsupported)$/.test(word)) return "bad";
  return "plain";
}

/** zones and replicas → Map cloud → Map region → Map zone → {standing, replicas}. */
export function placesOf(status) {
  const clouds = new Map();
  const place = (id) => {
    const [cloud, region = "", zone = ""] = id.split("/");
    const regions = clouds.get(cloud) ?? clouds.set(cloud, new Map()).get(cloud);
    const zones = regions.get(region) ?? regions.set(region, new Map()).get(region);
    return zones.get(id) ?? zones.set(id, { name: zone || region || cloud, standing: "", replicas: [] }).get(id);
  };
  for (const { zone, state } of status.zones) place(zone).standing = state;
  for (const replica of status.replicas) place(replica.zone).replicas.push(replica);
  return clouds;
}

export function replicaLink(id) {
  return h("a", { href: `#/replica/${encodeURIComponent(id)}` }, id);
}

export function stateBadge(state) {
  return h("span", { class: `badge state-${ORDER.includes(state) ? state : "gone"}` }, state);
}

export function marketTag(name) {
  return h("span", { class: `market market-${name === "on_demand" ? "od" : "spot"}` }, market(name));
}

function card(replica, elapsed, status) {
  const notice = replica.notice_in_s === null ? null : Math.max(0, replica.notice_in_s - elapsed);
  return h(
    "li",
    { "data-key": replica.id },
    h(
      "a",
      {
        class: `replica state-${ORDER.includes(replica.state) ? replica.state : "gone"}`,
        href: `#/replica/${encodeURIComponent(replica.id)}`,
        title: replica.why,
      },
      h("b", { class: "replica-id" }, replica.id),
      h(
        "span",
        { class: "replica-state" },
        h("span", { class: "state-word", title: replica.in_doubt ?? undefined }, replica.in_doubt ? `${replica.state}, in doubt` : replica.state),
        h("span", { class: "muted" }, age(replica.since_s + elapsed)),
        h("span", { class: "tags" }, versionTag(replica, status), " ", marketTag(replica.market)),
      ),
      h(
        "span",
        { class: "replica-more muted" },
        usdPerHour(replica.usd_per_hour),
        " · ",
        notice === null ? (replica.outstanding ? `${number(replica.outstanding)} active` : "idle") : h("em", null, `goes in ${Math.ceil(notice)} s`),
      ),
    ),
  );
}

/** The map; `elapsed` seconds have gone by since the status was made. */
export function fleetMap(status, elapsed) {
  const clouds = [...placesOf(status)];
  if (!clouds.length) return h("p", { class: "muted" }, "No zones yet.");
  return clouds.map(([cloud, regions]) =>
    h(
      "section",
      { class: "cloud", "data-key": cloud, "aria-label": `cloud ${cloud}` },
      h("h3", null, cloud),
      [...regions].map(([region, zones]) =>
        h(
          "div",
          { class: "region", "data-key": region },
          h("h4", null, region || "·"),
          h(
            "div",
            { class: "zones" },
            [...zones].map(([id, zone]) =>
              h(
                "div",
                { class: "zone", "data-key": id },
                h(
                  "div",
                  { class: "zone-head" },
                  h("a", { class: "zone-name", href: `#/zone/${encodeURIComponent(id)}` }, zone.name),
                  zone.standing && h("span", { class: `standing tone-${toneOf(zone.standing)}` }, zone.standing),
                ),
                zone.replicas.length
                  ? h(
                      "ul",
                      { class: "replicas" },
                      [...zone.replicas]
                        .sort((a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state))
                        .map((replica) => card(replica, elapsed, status)),
                    )
                  : h("p", { class: "empty" }, "no replica"),
              ),
            ),
          ),
        ),
      ),
    ),
  );
}
