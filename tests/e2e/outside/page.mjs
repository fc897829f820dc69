/** One of the browser's clients follows a stream: `start(CLIENT, URL)`; `seen` holds what it saw. */
import { fetchEventSource } from "./node_modules/@microsoft/fetch-event-source/lib/esm/fetch";
import { follow } from "/client/sluicegate.js";

const seen = (window.seen = []);
const say = ({ line, ...what }) => seen.push({ ...what, at_ms: Date.now() });

const clients = {
  EventSource(url) {
    const source = new EventSource(url);
    source.onmessage = ({ data }) => say(JSON.parse(data));
    source.onerror = () => say({ state: source.readyState === EventSource.CLOSED ? "over" : "again" });
  },

  /** Its promise is fulfilled when a connection ends cleanly, be it a drain: the program asks again. */
  async "fetch-event-source"(url) {
    const headers = {};
    for (;;) {
      await fetchEventSource(url, {
        headers,
        openWhenHidden: true,
        onmessage({ id, data }) {
          if (id) headers["last-event-id"] = id;
          if (data) say(JSON.parse(data)); // a frame of `retry:` alone is given as a message, too
        },
        onerror: (error) => say({ state: "again", why: error.message }),
      });
      say({ state: "returned" });
      await new Promise((resolve) => setTimeout(resolve, 1_000));
    }
  },

  async sluicegate(url) {
    const end = await follow(url, {
      onEvent: say,
      onReconnect: ({ reason, delayMs }) => say({ state: "again", why: reason, delayMs }),
    });
    say({ state: "over", why: end?.type });
  },
};

window.start = (client, url) => {
  clients[client](url);
};
