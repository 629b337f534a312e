// Puts the pages together: who is signed in, what is new, and which page is looked at.

import { h } from "./dom.js";
import { ask, Refused, Stream } from "./live.js";
import { Overview } from "./overview.js";
import { ReplicaPage, ZonePage } from "./replica.js";

const MOST_EVENTS = 1000;
const FIRST_EVENTS = 500;
const main = document.getElementById("main");
const link = document.getElementById("link");
const signOut = document.getElementById("sign-out");

const known = { status: null, at: 0, events: [] };
let page = null;
let stream = null;

function show(next) {
  page?.close?.();
  page = next;
  main.replaceChildren(next.element);
  page.eventsChanged?.(known.events);
  draw();
}

function draw() {
  if (known.status) page?.status?.(known.status, (Date.now() - known.at) / 1000);
}

function route() {
  if (!stream) return;
  const [, kind, id] = /^#\/(replica|zone)\/(.+)$/.exec(location.hash) ?? [];
  const name = id && decodeURIComponent(id);
  show(kind === "replica" ? new ReplicaPage(name) : kind === "zone" ? new ZonePage(name) : new Overview());
  window.scrollTo(0, 0);
}

function setLink(state, text) {
  if (link.textContent === text) return;
  link.className = `link ${state}`;
  link.textContent = text;
}

const heard = {
  connected: (there) => setLink(there ? "live" : "lost", there ? "live" : "coming back"),
  status(status) {
    known.status = status;
    known.at = Date.now();
    document.getElementById("service").textContent = status.service;
    document.getElementById("model").textContent = `serves ${status.model}`;
    setLink("live", "live");
    draw();
  },
  trouble: (message) => setLink("lost", message),
  happened(event) {
    known.events.push(event);
    if (known.events.length > MOST_EVENTS) known.events.splice(0, known.events.length - MOST_EVENTS);
    page?.happened?.(event);
    page?.eventsChanged?.(known.events);
  },
  signedOut: () => askIn("You were signed out: a day has passed, or the service has a new token."),
};

/** Nobody is signed in: say how one gets in, or take the token itself. */
function askIn(why) {
  stream?.close();
  stream = null;
  signOut.hidden = true;
  setLink("lost", "signed out");
  const token = h("input", { type: "password", id: "token", autocomplete: "off", required: true, size: 44 });
  const told = h("p", { class: "short", role: "alert" });
  const form = h("form", null, h("label", { for: "token" }, "or give the token, from admin_token in the state directory"), h("div", { class: "row" }, token, h("button", { type: "submit" }, "Sign in")), told);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await ask("/ui/session", { method: "POST", headers: { Authorization: `Bearer ${token.value.trim()}` } });
      await begin();
    } catch (error) {
      told.textContent = error.message;
    }
  });
  show({
    element: h(
      "section",
      { class: "panel sign-in" },
      h("h1", null, "Sign in"),
      h("p", null, why),
      h("p", null, "On the machine that serves, ", h("code", null, "hedgeserve ui"), " prints a link that lets this browser in."),
      form,
    ),
  });
}

async function begin() {
  let events;
  try {
    ({ events } = await ask(`/admin/v1/events?limit=${FIRST_EVENTS}`));
  } catch (error) {
    if (error instanceof Refused && error.status === 401) {
      askIn(location.hash === "#used" ? "This link has been used already, or its hour is over." : "This dashboard is for the service's operator.");
    } else {
      setLink("lost", error.message);
      setTimeout(begin, 2000);
    }
    return;
  }
  if (location.hash === "#used") history.replaceState(null, "", "/ui");
  known.events = events;
  stream = new Stream(events.at(-1)?.id ?? 0, heard);
  signOut.hidden = false;
  route();
}

signOut.addEventListener("click", async () => {
  await ask("/ui/session", { method: "DELETE", headers: { "X-HedgeServe": "1" } });
  askIn("You are signed out.");
});

const theme = document.getElementById("theme");
const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
function nameTheme() {
  theme.textContent = isDark() ? "Light" : "Dark";
}
theme.addEventListener("click", () => {
  const next = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  localStorage.setItem("hedgeserve-theme", next);
  nameTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
nameTheme();

window.addEventListener("hashchange", route);
setInterval(() => document.hidden || draw(), 1000);
document.addEventListener("visibilitychange", () => document.hidden || draw());
begin();
