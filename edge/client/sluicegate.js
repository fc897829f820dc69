/**
 * Follows one stream of a sluicegate edge over fetch: what a native EventSource cannot do, and no more.
 * One file without dependencies, for browsers and Node.js 18 or later.
 *
 *   import { follow } from "/client/sluicegate.js";
 *   const end = await follow("/v1/streams/build-42/events", { token, onEvent: (event) => show(event) });
 */

const RETRY_MS = 1_000; // until the edge says otherwise
const RETRY_MS_MAX = 30_000;
const SILENCE_MS = 90_000; // three heartbeats of the slowest kind: under 30 s each, says the contract
const SILENCE_MS_MAX = 2_147_483_647; // of a timer: a longer one would be over at once
const FRAME_CHARS_MAX = 8_388_608; // an event is at most 1 MiB before it is JSON

/** The stream cannot be followed, and asking again would change nothing. */
export class StreamRefused extends Error {
  /**
   * @param {string} message
   * @param {number} status of the answer; 200 if it was said in the stream: of the cursor, or of its kind
   * @param {string} code `malformed_cursor`, `foreign_cursor`, `forbidden`, …; empty if none was given
   */
  constructor(message, status, code) {
    super(message);
    this.name = "StreamRefused";
    this.status = status;
    this.code = code;
  }
}

/**
 * Follow a stream to its end, over as many connections as that takes.
 *
 * Each event is given to one callback: `gap`, `reset` and `end` to their own if there is one, all else to
 * `onEvent`. The cursor moves on when the callback has returned; one that throws ends it all.
 *
 * @param {string | URL} url
 * @param {object} [options]
 * @param {string | (() => string | Promise<string>)} [options.token] bearer token; a function is asked
 *   before each connection, so that a token may be renewed without losing the place; one that throws ends it
 * @param {string} [options.cursor] go on after the event that had it
 * @param {number} [options.silenceMs] a connection that brings nothing for so long, no heartbeat either, is
 *   dead, and another one is made; 90 s
 * @param {AbortSignal} [options.signal] rejects with its reason; aborted by a callback, no other is called
 * @param {(event: object, cursor: string) => void} [options.onEvent]
 * @param {(event: object, cursor: string) => void} [options.onGap] events are missing: `count`, `reason`
 * @param {(event: object, cursor: string) => void} [options.onReset] what came from `from_seq` on is superseded
 * @param {(event: object, cursor: string) => void} [options.onEnd]
 * @param {(about: {reason: string, delayMs: number}) => void} [options.onReconnect] before each wait;
 *   `reason` is the edge's own word (`drain`, `overload`, …), or what went wrong
 * @returns {Promise<object | null>} the stream's `end`; null if the cursor was already past it
 * @throws {StreamRefused} the edge refuses the request or the cursor
 * @throws {TypeError} the address, or the token, is one that no request can have
 * @throws {RangeError} `silenceMs` is no time that can be waited
 */
export async function follow(url, options = {}) {
  const { signal, onReconnect, silenceMs = SILENCE_MS } = options;
  if (!(silenceMs > 0 && silenceMs <= SILENCE_MS_MAX)) {
    throw new RangeError(`silenceMs is ${silenceMs}: it must be above 0, and ${SILENCE_MS_MAX} at most`);
  }
  const place = { cursor: options.cursor ?? "", retryMs: RETRY_MS };
  for (let failures = 0; ; ) {
    signal?.throwIfAborted();
    const seen = await connection(url, { ...options, silenceMs }, place);
    if (seen.over) return seen.end;
    signal?.throwIfAborted();
    failures = seen.frames > 0 ? 0 : failures + 1;
    const delayMs = backoffMs(place.retryMs, failures);
    onReconnect?.({ reason: seen.reconnect || seen.problem || "closed", delayMs });
    if (await sleep(delayMs, signal, place.retryMs)) failures = 0;
  }
}

/** The edge spreads its hints already; what it cannot see, its own absence, is spread here. */
function backoffMs(retryMs, failures) {
  if (failures === 0) return retryMs;
  return Math.min(retryMs * 2 ** failures, RETRY_MS_MAX) * (0.5 + Math.random() / 2);
}

/** Follow until the connection ends; say how it did. Only what is final is thrown. */
async function connection(url, options, place) {
  const seen = { frames: 0, over: false, end: null, reconnect: "", problem: "" };
  const stop = new AbortController();
  const signal = options.signal ? eitherSignal(options.signal, stop) : stop.signal;
  const came = (waited) => inTime(waited, options.silenceMs, stop);
  try {
    const headers = await headersOf(options.token, place.cursor);
    // Made here: an address or a token that no request can have would be taken for a network that fails.
    const request = new Request(url, { headers, cache: "no-store", credentials: "same-origin", signal });
    const response = await came(fetch(request));
    if (response.status === 204) return { ...seen, over: true };
    if (response.status !== 200) {
      refuseIfFinal(response.status, await came(response.text()));
      return { ...seen, problem: `status ${response.status}` };
    }
    const type = response.headers.get("content-type") ?? "none";
    if (!type.startsWith("text/event-stream")) {
      throw new StreamRefused(`the answer is ${type}: something else than the edge gave it`, 200, "");
    }
    const reader = response.body.getReader();
    const parser = new Parser();
    for (;;) {
      const { done, value } = await came(reader.read());
      if (done) return seen;
      for (const frame of parser.take(value)) {
        options.signal?.throwIfAborted(); // by a callback: what came with its event is not told
        seen.frames += 1;
        take(frame, options, place, seen);
        if (seen.over) return seen;
      }
    }
  } catch (error) {
    options.signal?.throwIfAborted();
    if (!(error instanceof NetworkProblem)) throw error;
    return { ...seen, problem: error.message };
  } finally {
    stop.abort();
  }
}

/** Give one frame to whom it is for. */
function take({ id, data, retryMs }, options, place, seen) {
  if (retryMs !== undefined) place.retryMs = retryMs;
  if (data === undefined) return;
  const event = JSON.parse(data);
  if (event.type === "reconnect") {
    seen.reconnect = event.reason;
    return;
  }
  if (event.type === "refused") {
    throw new StreamRefused(`the edge refused: ${event.detail ?? event.code}`, 200, event.code ?? "");
  }
  if (event.seq === undefined) return; // about the connection: `expiring`, say, as the token is asked for anew
  const own = { gap: options.onGap, reset: options.onReset, end: options.onEnd }[event.type];
  const cursor = id ?? place.cursor;
  (own ?? options.onEvent)?.(event, cursor);
  place.cursor = cursor;
  if (event.type === "end") {
    seen.over = true;
    seen.end = event;
  }
}

async function headersOf(token, cursor) {
  const headers = { accept: "text/event-stream" };
  const given = typeof token === "function" ? await token() : token;
  if (given) headers.authorization = `Bearer ${given}`;
  if (cursor) headers["last-event-id"] = cursor;
  return headers;
}

/** 4xx says that the request is wrong, but for those that say it came at the wrong time. */
function refuseIfFinal(status, text) {
  if (status >= 500 || [408, 425, 429].includes(status)) return;
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch {
    // a proxy's own page: its status says enough
  }
  throw new StreamRefused(problem.detail ?? `the edge answered ${status}`, status, problem.code ?? "");
}

class NetworkProblem extends Error {}

/** Wait for what the network brings, a while and no longer: a peer that vanished never says so. */
async function inTime(waited, silenceMs, stop) {
  let silent = false;
  const timer = setTimeout(() => {
    silent = true;
    stop.abort();
  }, silenceMs);
  try {
    return await waited;
  } catch (error) {
    throw new NetworkProblem(silent ? `nothing came for ${silenceMs} ms` : error.message || error.name);
  } finally {
    clearTimeout(timer);
  }
}

/** Server-Sent Events out of bytes, as the HTML standard reads them; an unfinished frame is never given. */
class Parser {
  #decoder = new TextDecoder("utf-8"); // takes a byte order mark away
  #text = "";
  #frame = {};

  /** @returns {Generator<{id?: string, data?: string, retryMs?: number}>} */
  *take(bytes) {
    this.#text += this.#decoder.decode(bytes, { stream: true });
    let from = 0;
    for (;;) {
      const line = nextLine(this.#text, from);
      if (line === null) break;
      from = line.next;
      if (line.text === "") {
        const frame = this.#frame;
        this.#frame = {};
        yield frame;
      } else {
        this.#field(line.text);
      }
    }
    this.#text = this.#text.slice(from);
    if (this.#text.length + (this.#frame.data?.length ?? 0) > FRAME_CHARS_MAX) {
      throw new Error(`an event is longer than ${FRAME_CHARS_MAX} characters: is this a sluicegate edge?`);
    }
  }

  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    const frame = this.#frame;
    if (name === "data") frame.data = frame.data === undefined ? value : `${frame.data}\n${value}`;
    else if (name === "id" && !value.includes("\0")) frame.id = value;
    else if (name === "retry" && /^\d{1,9}$/.test(value)) frame.retryMs = Number(value);
  }
}

/** The line that begins at `from`; null if its end is not there yet. A last "\r" may be half of "\r\n". */
function nextLine(text, from) {
  const lineEnd = /\r\n|[\n\r]/g;
  lineEnd.lastIndex = from;
  const found = lineEnd.exec(text);
  if (found === null || (found[0] === "\r" && lineEnd.lastIndex === text.length)) return null;
  return { text: text.slice(from, found.index), next: lineEnd.lastIndex };
}

/** `AbortSignal.any`, which browsers of 2023 and Node.js 18 do not have. */
function eitherSignal(outer, inner) {
  const abort = () => inner.abort(outer.reason);
  if (outer.aborted) abort();
  outer.addEventListener("abort", abort, { once: true });
  inner.signal.addEventListener("abort", () => outer.removeEventListener("abort", abort), { once: true });
  return inner.signal;
}

/** Wait, no longer than `onlineMs` from when the browser is online again; give whether it was that. */
function sleep(delayMs, signal, onlineMs) {
  return new Promise((resolve, reject) => {
    const dueMs = Date.now() + delayMs;
    let isOnline = false;
    let timer = setTimeout(done, delayMs);
    const online = () => {
      isOnline = true;
      clearTimeout(timer); // a part of it, at random: others of this network are online again, too
      timer = setTimeout(done, Math.min(Math.random() * onlineMs, Math.max(dueMs - Date.now(), 0)));
    };
    const abort = () => {
      leave();
      reject(signal.reason);
    };
    function leave() {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      globalThis.removeEventListener?.("online", online);
    }
    function done() {
      leave();
      resolve(isOnline);
    }
    globalThis.addEventListener?.("online", online); // Node.js has none
    signal?.addEventListener("abort", abort, { once: true });
    if (signal?.aborted) abort();
  });
}
