/** The browser client against a server that answers as it is told: `node --test sluicegate_client.test.mjs`. */
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, beforeEach, test } from "node:test";
import { follow, StreamRefused } from "../../edge/client/sluicegate.js";

const STREAM = { "content-type": "text/event-stream; charset=utf-8" };
let server;
let url;
let answers; // one a request, in their order
let requests; // the headers of each

before(async () => {
  server = createServer((request, response) => {
    requests.push(request.headers);
    answers.shift()(response, request);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  url = `http://127.0.0.1:${server.address().port}/v1/streams/s/events`;
});
beforeEach(() => {
  answers = [];
  requests = [];
});
after(() => {
  server.closeAllConnections();
  server.close();
});

const frame = (seq, type = "log", more = {}) =>
  `id: c${seq}\ndata: ${JSON.stringify({ type, seq, ...more })}\n\n`;
const RETRY = "retry: 5\n\n";
const GOODBYE = 'retry: 5\ndata: {"type":"reconnect","reason":"drain","retry_ms":5}\n\n';

/** Answer with a stream of these texts, cleanly ended. */
function says(...texts) {
  return (response) => {
    response.writeHead(200, STREAM);
    response.end(texts.join(""));
  };
}

function breaksAfter(text) {
  return (response) => {
    response.writeHead(200, STREAM);
    response.write(text, () => setTimeout(() => response.destroy(), 20));
  };
}

function status(code, body = "", headers = {}) {
  return (response) => {
    response.writeHead(code, headers);
    response.end(body);
  };
}

/** Follow, and give all that the callbacks were told. */
async function followed(options = {}) {
  const told = [];
  const callback = (name) => (event, cursor) => told.push([name, event.seq, cursor]);
  const waits = [];
  const end = await follow(url, {
    onEvent: callback("event"),
    onReconnect: (about) => waits.push(about),
    ...options,
  });
  return { told, end, waits };
}

test("each event is told once, over a broken and over a clean end, and the end is given", async () => {
  answers = [breaksAfter(RETRY + frame(0) + "id: c1\nda"), says(RETRY, frame(1), GOODBYE), says(frame(2, "end"))];
  const { told, end, waits } = await followed();
  assert.deepEqual(told, [["event", 0, "c0"], ["event", 1, "c1"], ["event", 2, "c2"]]);
  assert.equal(end.type, "end");
  assert.deepEqual(requests.map((headers) => headers["last-event-id"]), [undefined, "c0", "c1"]);
  assert.equal(waits.length, 2);
  assert.deepEqual(waits[1], { reason: "drain", delayMs: 5 });
});

test("what is said of the connection is no event, and takes no place", async () => {
  const aside = 'data: {"type":"expiring","expires_in_ms":5000}\n\ndata: {"type":"of a later edge"}\n\n';
  answers = [says(RETRY, frame(0), aside), says(frame(1, "end"))];
  const { told } = await followed();
  assert.deepEqual(told, [["event", 0, "c0"], ["event", 1, "c1"]]);
  assert.equal(requests[1]["last-event-id"], "c0");
});

test("a cursor that is past the end is answered 204, and that is the end", async () => {
  answers = [status(204)];
  assert.equal((await followed({ cursor: "c9" })).end, null);
  assert.equal(requests[0]["last-event-id"], "c9");
});

test("who is online again waits no longer than a hint", { timeout: 10_000 }, async () => {
  const browser = new EventTarget();
  globalThis.addEventListener = browser.addEventListener.bind(browser);
  globalThis.removeEventListener = browser.removeEventListener.bind(browser);
  try {
    const long = "retry: 20000\n\n";
    answers = [says(long, frame(0)), status(502), says(RETRY, frame(1, "end"))];
    const waits = [];
    const online = (about) => {
      waits.push(about.delayMs);
      setTimeout(() => browser.dispatchEvent(new Event("online")), 5);
    };
    const random = Math.random;
    Math.random = () => 0.001;
    const { told } = await followed({ onReconnect: online }).finally(() => (Math.random = random));
    assert.deepEqual(told, [["event", 0, "c0"], ["event", 1, "c1"]]);
    assert.equal(waits.length, 2);
    assert.ok(waits.every((delayMs) => delayMs > 10_000));
  } finally {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  }
});

test("gap, reset and end go to their own callbacks, and to nobody else", async () => {
  answers = [says(frame(0), frame(4, "gap"), frame(5, "reset"), frame(6, "end"))];
  const told = [];
  const own = (name) => (event) => told.push([name, event.type]);
  await follow(url, { onEvent: own("event"), onGap: own("gap"), onReset: own("reset"), onEnd: own("end") });
  assert.deepEqual(told, [["event", "log"], ["gap", "gap"], ["reset", "reset"], ["end", "end"]]);
});

test("a token goes in the header, and a function is asked for it before each connection", async () => {
  answers = [says(RETRY, frame(0)), says(frame(1, "end"))];
  let number = 0;
  await followed({ token: async () => `token-${(number += 1)}` });
  assert.deepEqual(requests.map((headers) => headers.authorization), ["Bearer token-1", "Bearer token-2"]);
  answers = [says(frame(1, "end"))];
  await followed({ token: "fixed" });
  assert.equal(requests[2].authorization, "Bearer fixed");
});

test("a refused cursor stops it, and so does 4xx, with the edge's own words", async () => {
  answers = [says('id: refused\ndata: {"type":"refused","code":"foreign_cursor","detail":"of another"}\n\n')];
  await assert.rejects(followed(), (error) => {
    assert.ok(error instanceof StreamRefused);
    assert.deepEqual([error.status, error.code], [200, "foreign_cursor"]);
    assert.match(error.message, /of another/);
    return true;
  });
  answers = [status(403, '{"detail":"the token has no claim to it","code":"no_claim"}')];
  await assert.rejects(followed(), { name: "StreamRefused", status: 403, code: "no_claim" });
  answers = [status(404, "<html>a proxy's page</html>")];
  await assert.rejects(followed(), { name: "StreamRefused", status: 404, code: "" });
  answers = [status(200, "<html>log in</html>", { "content-type": "text/html" })];
  await assert.rejects(followed(), { name: "StreamRefused", status: 200 });
  assert.equal(requests.length, 4);
});

test("5xx and what passes is asked again, with pauses that grow", async () => {
  answers = [says(RETRY), ...[503, 502, 429, 408].map((code) => status(code)), says(frame(0, "end"))];
  const { waits } = await followed();
  assert.deepEqual(waits.map(({ reason }) => reason), [
    "closed", "status 503", "status 502", "status 429", "status 408",
  ]);
  for (const [failures, { delayMs }] of waits.slice(1).entries()) {
    const longest = 5 * 2 ** (failures + 1);
    assert.ok(longest / 2 <= delayMs && delayMs <= longest, `${delayMs} after ${failures + 1} failures`);
  }
});

/** Answer with these texts, a pause before each, and then say nothing and never end. */
function fallsSilent(texts = [], pauseMs = 0, answered = true) {
  return async (response) => {
    if (answered) response.writeHead(200, STREAM).flushHeaders();
    for (const text of texts) {
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
      response.write(text);
    }
  };
}

test("a connection that falls silent is left, and the next one goes on from the cursor", async () => {
  const open = (response) => new Promise((resolve) => response.once("close", resolve));
  let left;
  answers = [
    (response) => {
      left = open(response);
      fallsSilent([RETRY + frame(0), frame(1)])(response);
    },
    fallsSilent(), // not even a first line
    fallsSilent([], 0, false), // not even an answer
    (response) => response.writeHead(503).flushHeaders(), // whose body never comes
    says(frame(2, "end")),
  ];
  const { told, end, waits } = await followed({ silenceMs: 150 });
  assert.deepEqual(told, [["event", 0, "c0"], ["event", 1, "c1"], ["event", 2, "c2"]]);
  assert.equal(end.type, "end");
  assert.deepEqual(requests.map((headers) => headers["last-event-id"]), [undefined, "c1", "c1", "c1", "c1"]);
  assert.deepEqual(waits.map(({ reason }) => reason), Array(4).fill("nothing came for 150 ms"));
  await left; // nothing of it is kept open
});

test("a connection that brings heartbeats, or an event bit by bit, is not silent", async () => {
  const beats = Array(8).fill(":\n\n");
  const bits = [...frame(0, "end")].map((letter, at) => (at % 8 ? "" : frame(0, "end").slice(at, at + 8)));
  answers = [fallsSilent([...beats, ...bits.filter(Boolean)], 50)];
  const { end, waits } = await followed({ silenceMs: 250 });
  assert.equal(end.type, "end");
  assert.deepEqual(waits, []);
});

test("a callback or a token that takes long is no silence, and a time that cannot be waited is refused", async () => {
  answers = [says(RETRY, frame(0), frame(1, "end"))];
  const sleeps = () => new Promise((resolve) => setTimeout(resolve, 200, "t"));
  const busy = () => {
    for (const until = Date.now() + 200; Date.now() < until; );
  };
  assert.deepEqual((await followed({ silenceMs: 100, token: sleeps, onEvent: busy })).waits, []);
  for (const silenceMs of [0, -1, NaN, 2 ** 31, Infinity]) {
    await assert.rejects(followed({ silenceMs }), RangeError);
  }
  assert.equal(requests.length, 1);
});

test("an abort ends it at once: while it reads, while it waits, and before it begins", async () => {
  const reading = new AbortController();
  answers = [(response) => response.writeHead(200, STREAM).write(frame(0))];
  const reason = new Error("the page is left");
  await assert.rejects(followed({ signal: reading.signal, onEvent: () => reading.abort(reason) }), reason);

  const waiting = new AbortController();
  answers = [says("retry: 60000\n\n")];
  await assert.rejects(
    followed({ signal: waiting.signal, onReconnect: () => setTimeout(() => waiting.abort(reason), 10) }),
    reason,
  );
  await assert.rejects(followed({ signal: AbortSignal.abort(reason) }), reason);
  assert.equal(requests.length, 2);
});

test("an abort within a callback is the last of it, whatever else had come by then", async () => {
  const reason = new Error("the page is left");
  for (const [told, texts] of [
    [[0], [frame(0), frame(1), frame(2, "end")]],
    [[0], [frame(0)]],
    [[0, 1], [frame(0), frame(1, "gap"), frame(2, "reset"), frame(3)]],
  ]) {
    const leaving = new AbortController();
    const seen = [];
    const take = (event) => {
      seen.push(event.seq);
      if (event.seq === told.at(-1)) leaving.abort(reason);
    };
    answers = [says(...texts)];
    const onReconnect = () => assert.fail("nobody waits for it");
    await assert.rejects(follow(url, { signal: leaving.signal, onEvent: take, onReconnect }), reason);
    assert.deepEqual(seen, told);
  }
  const atEnd = new AbortController();
  answers = [says(frame(0, "end"))];
  const { end } = await followed({ signal: atEnd.signal, onEnd: () => atEnd.abort(reason) });
  assert.equal(end.type, "end"); // nothing was left to abort
});

test("an address or a token that no request can have is an error at once, and not a network that fails", async () => {
  const onReconnect = () => assert.fail("it would be asked again for ever");
  await assert.rejects(follow("/v1/streams/s/events", { onReconnect }), TypeError); // in Node.js there is no page
  await assert.rejects(followed({ token: "two\nlines", onReconnect }), TypeError);
  assert.equal(requests.length, 0);
});

test("a callback that throws ends it, and what it did not take is not passed over", async () => {
  answers = [says(frame(0), frame(1), frame(2, "end"))];
  const broken = new Error("the page cannot show it");
  const fails = (event) => {
    if (event.seq === 1) throw broken;
  };
  await assert.rejects(followed({ onEvent: fails }), broken);
  assert.equal(requests.length, 1);
});

for (const [name, lineEnd] of [["LF", "\n"], ["CRLF", "\r\n"], ["CR", "\r"]]) {
  test(`frames are read however they are cut, with lines that end in ${name}`, async () => {
    const lines = [
      "\ufeff: a comment", "", "retry: 5", "", "id: c0",
      'data: {"type":"log","seq":0,', 'data:"line":"ä😀"}', "",
      "event: ignored", "nonsense", "data: ", "data", 'id: c1', 'data: {"type":"end","seq":1}', "", ": the last", "",
    ];
    const bytes = Buffer.from(lines.join(lineEnd) + lineEnd);
    answers = [
      (response) => {
        response.writeHead(200, STREAM);
        let at = 0;
        const next = () => {
          if (at === bytes.length) response.end();
          else response.write(bytes.subarray(at, (at += 1)), () => setImmediate(next));
        };
        next();
      },
    ];
    const seen = [];
    await follow(url, { onEvent: (event, cursor) => seen.push([event, cursor]) });
    assert.deepEqual(seen, [
      [{ type: "log", seq: 0, line: "ä😀" }, "c0"],
      [{ type: "end", seq: 1 }, "c1"],
    ]);
  });
}

test("an event that never ends does not fill the memory", async () => {
  answers = [
    (response) => {
      response.writeHead(200, STREAM);
      const more = () => response.destroyed || response.write(`data: ${"x".repeat(1 << 20)}\n`, more);
      more();
    },
  ];
  await assert.rejects(followed(), /longer than 8388608 characters/);
});
