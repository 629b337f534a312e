// The way to the service: questions, and the stream of what is new.

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** A JSON answer; raises Refused with the service's own words, or with status 0 where it cannot be reached. */
export async function ask(path, options = {}) {
  const answer = await reach(path, options);
  return answer.status === 204 ? null : await answer.json();
}

export async function askText(path) {
  return await (await reach(path, {})).text();
}

async function reach(path, options) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options });
  } catch {
    throw new Refused(0, "The service cannot be reached.");
  }
  if (answer.ok) return answer;
  let message = `The service answered ${answer.status}.`;
  try {
    message = (await answer.json()).error.message;
  } catch {
    // not an error of ours: the status has to do
  }
  throw new Refused(answer.status, message);
}

/** Ask for what a service of another version, or without the feature, may not have: null then. */
export async function askIfThere(path) {
  try {
    return await ask(path);
  } catch (error) {
    if (error instanceof Refused && error.status !== 401) return null;
    throw error;
  }
}

/**
 * What is new, for as long as the page is there. The browser comes back by itself after a lost connection; after a
 * refusal it does not, so that is done here.
 */
export class Stream {
  constructor(after, heard) {
    this.after = after;
    this.heard = heard;
    this.open();
  }

  open() {
    const source = (this.source = new EventSource(`/admin/v1/stream?after=${this.after}`));
    source.onopen = () => this.heard.connected(true);
    source.addEventListener("status", (event) => this.heard.status(JSON.parse(event.data)));
    source.addEventListener("trouble", (event) => this.heard.trouble(JSON.parse(event.data).error));
    source.addEventListener("happened", (event) => {
      this.after = Number(event.lastEventId);
      this.heard.happened(JSON.parse(event.data));
    });
    source.onerror = () => {
      this.heard.connected(false);
      if (source.readyState === EventSource.CLOSED) this.again();
    };
  }

  again() {
    this.timer = setTimeout(async () => {
      try {
        await ask("/admin/v1/status");
      } catch (error) {
        if (error.status === 401) {
          this.heard.signedOut();
        } else {
          this.again();
        }
        return;
      }
      this.open();
    }, 2000);
  }

  close() {
    clearTimeout(this.timer);
    this.source.close();
  }
}
