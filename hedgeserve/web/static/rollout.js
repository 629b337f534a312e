// A roll-out under way: which version takes the place of which, how far that is, and what it waits for.

import { h, morph, sentence } from "./dom.js";
import { plural } from "./format.js";

const LEAVING = ["draining", "terminating"];

/** How many of the replicas that stay are ready on the new version, and how many there are. */
function progressOf({ replicas, rollout }) {
  const counted = replicas.filter((one) => one.version && !LEAVING.includes(one.state));
  const done = counted.filter((one) => one.version === rollout.to && ["ready", "noticed"].includes(one.state));
  return [done.length, counted.length];
}

/** Whether a replica's version is worth showing: while there are several, or one is about to come. */
export function showsVersions(status) {
  const versions = new Set(status.replicas.map((one) => one.version).filter(Boolean));
  return Boolean(status.rollout) || versions.size > 1;
}

/** "v2", told apart from the version that is wanted by its look, and in words. */
export function versionTag(replica, status) {
  if (!replica.version || !showsVersions(status)) return null;
  const wanted = replica.version === status.model_version;
  const title = `runs version ${replica.version}, ${wanted ? "the one that is wanted" : "which is not the one that is wanted"}`;
  return h("span", { class: `version ${wanted ? "version-new" : "version-old"}`, title }, `v${replica.version}`);
}

/** Show the roll-out in `element`, or hide that where none goes on. */
export function drawRollout(element, status) {
  const rollout = status.rollout;
  element.hidden = !rollout;
  if (!rollout) return morph(element);
  const [done, all] = progressOf(status);
  const back = rollout.strategy === "rollback";
  const [, ...waits] = rollout.waits_for ?? [];
  morph(
    element,
    h(
      "div",
      { class: "panel-head" },
      h("h2", null, back ? `Back from version ${rollout.from} to ${rollout.to}` : `Version ${rollout.from} → ${rollout.to}`),
      h("span", { class: "muted" }, [!back && rollout.strategy, rollout.state === "switched" && "all requests go to the new one"].filter(Boolean).join(" · ")),
    ),
    h(
      "div",
      { class: "rollout-progress" },
      h("progress", { max: Math.max(1, all), value: done, "aria-label": `ready on version ${rollout.to}` }),
      h("span", null, `${done} of ${plural(all, "replica")} ready on version ${rollout.to}`),
      rollout.failures > 0 && h("span", { class: "failures" }, `${rollout.failures} failed`),
    ),
    waits.length > 0 && h("ul", { class: "waits" }, waits.map((text) => h("li", null, sentence(text)))),
    h(
      "p",
      { class: "muted" },
      `${rollout.who}: ${rollout.why}`,
      rollout.can_roll_back && [" · ", h("code", null, "hedgeserve rollback"), ` takes it back to version ${rollout.from}`],
    ),
  );
}
