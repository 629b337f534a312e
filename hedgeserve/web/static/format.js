// Quantities as people read them.

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const clockShort = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short" });

export const time = (date) => clock.format(date);
export const timeShort = (date) => clockShort.format(date);
export const date = (when) => day.format(when);

/** 12 s, 3 min, 2 h 5 min, 4 d. */
export function duration(seconds) {
  const whole = Math.max(0, seconds);
  if (whole < 0.995) return `${Math.round(whole * 1000)} ms`;
  if (whole < 10) return `${whole.toFixed(1)} s`;
  if (whole < 60) return `${Math.round(whole)} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${Math.floor(hours / 24)} d`;
}

/** Age in whole seconds: it is counted up while one looks. */
export function age(seconds) {
  return seconds < 60 ? `${Math.floor(Math.max(0, seconds))} s` : duration(seconds);
}

export function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(size >= 1e5 ? 0 : 1)} k`;
  if (size >= 100 || Number.isInteger(value)) return String(Math.round(value));
  if (size >= 10) return value.toFixed(1);
  return value.toFixed(2);
}

export function usd(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const digits = size >= 1000 ? 0 : size > 0 && size < 0.1 ? 4 : 2;
  const text = value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return `${text.replaceAll(",", "\u202f")} USD`;
}

export const usdPerHour = (value) => (value === null || value === undefined ? "–" : `${value.toFixed(2)} USD/h`);

export const seconds = (value) => (value === null || value === undefined ? "–" : duration(value));

export const percent = (share) => `${Math.round(share * 100)} %`;

export const market = (name) => ({ spot: "spot", on_demand: "on-demand", external: "external" })[name] ?? name;

export const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
