/** One of npm's clients, or ours, follows a stream: `node npm.mjs CLIENT URL`; each line says what it saw. */
import { createEventSource } from "eventsource-client";
import { EventSource } from "eventsource";
import { follow } from "../../../edge/client/sluicegate.js";

const [client, url] = process.argv.slice(2);
const say = (what) => process.stdout.write(`${JSON.stringify({ ...what, at_ms: Date.now() })}\n`);

const clients = {
  eventsource() {
    const source = new EventSource(url);
    source.onmessage = ({ data }) => say(JSON.parse(data));
    source.onerror = ({ code, message }) => {
      say({ state: source.readyState === EventSource.CLOSED ? "over" : "again", why: code ?? message ?? "" });
    };
  },

  "eventsource-client"() {
    const source = createEventSource({
      url,
      onMessage: ({ data }) => say(JSON.parse(data)),
      onScheduleReconnect: () => say({ state: "again" }),
      onDisconnect: () => setTimeout(() => source.readyState === "closed" && say({ state: "over" })),
    });
  },

  async sluicegate() {
    const end = await follow(url, {
      onEvent: say,
      onReconnect: ({ reason, delayMs }) => say({ state: "again", why: reason, delayMs }),
    });
    say({ state: "over", why: end?.type });
  },
};

await clients[client]();
