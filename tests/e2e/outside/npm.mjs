/** One of npm's clients, or ours, follows a stream: `node npm.mjs CLIENT URL`; each line says what it saw. */
import { createEventSource } from "eventsource-client";
import { EventSource } from "eventsource";
import WebSocket from "ws";
import { follow } from "../../../edge/client/sluicegate.js";

const [client, url] = process.argv.slice(2);
/** Without the text of a line, which may be long. */
const say = ({ line, ...what }) => process.stdout.write(`${JSON.stringify({ ...what, at_ms: Date.now() })}\n`);

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

  /** It knows sockets, not streams: the program subscribes, keeps the cursor, and comes back. */
  async ws() {
    const { origin, pathname } = new URL(url);
    const stream = pathname.split("/")[3];
    let cursor;
    let pauseMs = 1_000;
    for (let over = false; !over; ) {
      const socket = new WebSocket(`${origin.replace("http", "ws")}/v1/ws`);
      await new Promise((closed) => {
        socket.on("unexpected-response", (request, response) => {
          pauseMs = 1_000 * Number(response.headers["retry-after"] ?? 1);
          say({ state: "raised", why: response.statusCode === 503 ? "overload" : response.statusCode });
          request.destroy();
          closed();
        });
        socket.on("error", ({ code }) => {
          say({ state: "raised", why: code });
          closed();
        });
        socket.on("close", () => {
          if (!over) say({ state: "returned" });
          closed();
        });
        socket.on("open", () => socket.send(JSON.stringify({ type: "subscribe", id: 1, stream, cursor })));
        socket.on("message", (data) => {
          const message = JSON.parse(data);
          if (message.retry_ms) pauseMs = message.retry_ms;
          if (message.type === "reconnect") say(message);
          if (message.type === "ended") {
            over = true;
            say({ state: "over", by: "program" });
            socket.close();
          }
          if (message.type !== "event") return;
          say(message.event);
          cursor = message.cursor;
        });
      });
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
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
