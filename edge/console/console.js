// The console: lists streams, and shows one as it flows. It is a client like any other: native EventSource,
// which resumes by itself. Whatever a stream holds is put into the page as text, never as markup.

const ROWS_MAX = 5000; // a browser lays out more than this only slowly; earlier ones are dropped and said so
const LIST_EVERY_MS = 2000;
const $ = (id) => document.getElementById(id);

/** Make an element with a class and text. */
function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== "") element.textContent = text;
  return element;
}

// ---------------------------------------------------------------- text out of events

// CSI and OSC sequences, other escapes, and control characters that are no white space.
const ANSI = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])|[\x00-\x08\x0b-\x1f\x7f]/g;
// Characters that reorder a line, so that it reads as something else than it is.
const BIDI = /[\u202a-\u202e\u2066-\u2069]/g;
const plain = (text) => String(text ?? "").replace(ANSI, "").replace(BIDI, "\ufffd");
const number = (value) => Number(value ?? 0).toLocaleString("en");
const word = (value) => String(value ?? "").replace(/[^A-Za-z0-9_-]/g, "");

function clock(iso) {
  const at = new Date(iso);
  return Number.isNaN(at.getTime()) ? "" : at.toLocaleTimeString("en-GB");
}

function ago(iso) {
  const seconds = Math.max(0, Math.round((Date.now() - new Date(iso).getTime()) / 1000));
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

function json(value) {
  if (typeof value === "string") {
    try {
      return JSON.stringify(JSON.parse(value), null, 2);
    } catch {
      return value;
    }
  }
  return JSON.stringify(value, null, 2);
}

function size(bytes) {
  return bytes < 1024 ? `${bytes} bytes` : `${(bytes / 1024).toFixed(1)} KiB`;
}

// ---------------------------------------------------------------- one row an event

const REASONS = {
  retention: "they are older than what is kept",
  history: "they are older than the history of this kind",
  ephemeral: "this kind keeps no history",
  lost: "they are no longer to be found",
  unreadable: "its payload cannot be read",
  missing_input: "they never came in",
  topic_version: "the topic was replaced since",
  reopened: "the name was opened again since",
};

function row(event, className) {
  const item = make("li", `row ${className}`);
  item.dataset.seq = event.seq ?? "";
  item.append(make("span", "seq", String(event.seq ?? "")), make("span", "at", clock(event.time)), make("span", "what"));
  return item;
}

function fact(event, strong, rest = "", block = "") {
  const item = row(event, "fact");
  item.lastChild.append(make("b", "", plain(strong)), rest ? ` ${plain(rest)}` : "");
  if (block) item.lastChild.append(make("pre", "", plain(block)));
  return item;
}

function logRow(event) {
  const item = row(event, `log ${word(event.level).toLowerCase()} ${event.stream === "stderr" ? "stderr" : ""}`);
  item.lastChild.textContent = plain(event.line) || " ";
  return item;
}

function gapRow(event) {
  const item = row(event, "gap");
  const many = event.count > 0 ? `${number(event.count)} event${event.count === 1 ? " is" : "s are"} missing` : "Events are missing";
  const range = event.to_seq >= 0 ? ` (${event.reason === "missing_input" ? "the producer's" : "seq"} ${event.from_seq} to ${event.to_seq})` : ` (after seq ${event.from_seq - 1})`;
  item.lastChild.append(make("b", "", many), `${range}: ${plain(REASONS[event.reason] ?? event.reason)}`);
  return item;
}

function endRow(event) {
  const item = row(event, `end ${word(event.reason)}`);
  const code = event.exit_code === null || event.exit_code === undefined ? "" : `, exit code ${event.exit_code}`;
  item.lastChild.append(make("b", "", plain(event.reason).replaceAll("_", " ")), `${code}${event.message ? `: ${plain(event.message)}` : ""}`);
  return item;
}

function usageRow(event) {
  const cost = event.cost_nanos === null || event.cost_nanos === undefined ? "cost unknown" : `$${(event.cost_nanos / 1e9).toFixed(6)}`;
  const tokens = `${number(event.input_tokens)} tokens in, ${number(event.output_tokens)} out`;
  return fact(event, `${event.provider} ${event.model}`, `${tokens}, ${cost}, ${number(event.latency_ms)} ms`);
}

function mediaRow(event) {
  const bytes = Math.floor(((event.data ?? "").length * 3) / 4);
  return fact(event, event.mime, event.reference || size(bytes));
}

const ROWS = {
  log: logRow,
  gap: gapRow,
  end: endRow,
  usage: usageRow,
  media: mediaRow,
  open: (e) => fact(e, "opened", Object.entries(e.labels ?? {}).map(([k, v]) => `${k}=${v}`).join("  ")),
  reset: (e) => fact(e, `started over from seq ${e.from_seq}`, e.reason),
  cancel: (e) => fact(e, "cancel was asked for", [e.by && `by ${e.by}`, e.reason].filter(Boolean).join(": ")),
  state: (e) => fact(e, e.name, "", json(e.value_json)),
  structured: (e) => fact(e, e.schema_name || "structured", "", json(e.json)),
  custom: (e) => fact(e, e.name || "custom", "", json(e.json)),
};

function unknownRow(event) {
  const { type, seq, time, event_id, ...rest } = event;
  return fact(event, type, "", Object.keys(rest).length ? json(rest) : "");
}

// ---------------------------------------------------------------- one stream on the page

class StreamView {
  constructor(tenant, streamId) {
    this.tenant = tenant;
    this.streamId = streamId;
    this.expected = 0;
    this.counts = { events: 0, missing: 0, reconnects: 0, doubled: 0 };
    this.pending = [];
    this.dropped = 0;
    this.following = true;
    this.ended = null;
    this.text = null; // the row that tokens flow into
    this.progressRow = null;
    this.frame = 0;
    $("title").textContent = streamId;
    $("name").textContent = tenant === "default" ? streamId : `${tenant}/${streamId}`;
    $("kind").textContent = "";
    $("kind").hidden = true;
    $("rows").replaceChildren();
    $("filter").value = "";
    for (const id of ["bar", "earlier", "jump", "over"]) $(id).hidden = true;
    $("cursor").textContent = "none yet";
    $("cancel").disabled = false;
    $("stream").dataset.contiguous = "true";
    this.show();
    this.connect();
  }

  address(what) {
    return `/v1/streams/${encodeURIComponent(this.streamId)}/${what}?tenant=${encodeURIComponent(this.tenant)}`;
  }

  connect() {
    this.state("waiting", "connecting");
    this.source = new EventSource(this.address("events"));
    this.source.onopen = () => this.state("live", "live");
    this.source.onmessage = (message) => this.take(message);
    this.source.onerror = () => {
      if (this.ended) return;
      if (this.source.readyState === EventSource.CLOSED) this.state("broken", "closed by the edge");
      else {
        this.counts.reconnects += 1;
        this.state("waiting", "reconnecting");
        this.schedule();
      }
    };
  }

  close() {
    this.source.close();
    cancelAnimationFrame(this.frame);
  }

  state(className, text) {
    $("state").className = `state ${className}`;
    $("state").textContent = text;
  }

  take(message) {
    const event = JSON.parse(message.data);
    if (event.type === "reconnect") return; // the edge is about to stop: EventSource comes back by itself
    if (event.type === "refused") {
      this.state("broken", "cursor refused");
      $("over").textContent = `The edge refused the cursor: ${event.detail}`;
      $("over").hidden = false;
      return;
    }
    if (message.lastEventId) this.cursor = message.lastEventId;
    this.check(event);
    this.counts.events += 1;
    this.pending.push(event);
    if (event.type === "end") this.finish(event);
    this.schedule();
  }

  // The page does not trust the edge either: it counts what is missing and what came twice.
  check(event) {
    if (event.type === "gap" && event.reason !== "missing_input") {
      this.counts.missing += Math.max(event.count, 0) || 1;
      this.expected = event.to_seq >= 0 ? event.to_seq + 1 : 0;
      return;
    }
    if (event.seq !== this.expected) {
      $("stream").dataset.contiguous = "false";
      if (event.seq < this.expected) this.counts.doubled += 1;
      else this.counts.missing += event.seq - this.expected;
    }
    this.expected = event.seq + 1;
  }

  finish(event) {
    this.ended = event;
    this.source.close(); // nothing follows; the edge would answer 204
    this.state("", `ended: ${plain(event.reason).replaceAll("_", " ")}`);
    $("cancel").disabled = true;
  }

  schedule() {
    // One layout a frame, however many events came; a hidden page has no frames, so there a timer.
    if (this.frame) return;
    const draw = () => {
      this.frame = 0;
      this.draw();
    };
    this.frame = document.hidden ? setTimeout(draw, 250) : requestAnimationFrame(draw);
  }

  draw() {
    const fresh = document.createDocumentFragment();
    const events = this.pending;
    this.pending = [];
    // Of a burst longer than the page holds, only its end is laid out.
    const skipped = Math.max(0, events.length - ROWS_MAX);
    this.dropped += skipped;
    for (const event of events.slice(skipped)) {
      const item = this.rowOf(event, fresh);
      if (item) fresh.append(item);
    }
    $("rows").append(fresh);
    this.trim();
    this.show();
    if ($("filter").value) applyFilter();
    if (this.following) toEnd();
  }

  /** What came from a seq on does not count any more: a retry began. */
  supersede(fromSeq, fresh) {
    for (const item of [...$("rows").children, ...fresh.children]) {
      if (item.dataset.seq !== "" && Number(item.dataset.seq) >= fromSeq) item.classList.add("void");
    }
  }

  rowOf(event, fresh) {
    if (event.type === "token" || event.type === "message") return this.flow(event);
    if (event.type === "usage") return ROWS.usage(event); // may come between tokens without breaking them
    this.text = null;
    if (event.type === "open") this.opened(event);
    if (event.type === "reset") this.supersede(event.from_seq, fresh);
    if (event.type === "progress") return this.progressed(event);
    return (ROWS[event.type] ?? unknownRow)(event);
  }

  opened(event) {
    if (event.title) $("title").textContent = plain(event.title);
  }

  flow(event) {
    const who = event.type === "message" ? (event.from ?? "") : `${event.role ?? ""}${event.index ? ` ${event.index}` : ""}`;
    if (event.type === "token" && this.text && this.text.dataset.who === who) {
      this.text.lastChild.append(plain(event.text));
      this.text.dataset.seq = event.seq;
      return null;
    }
    const item = row(event, "text");
    item.dataset.who = who;
    if (who) item.lastChild.append(make("span", "who", plain(who)));
    item.lastChild.append(plain(event.text));
    this.text = event.type === "token" ? item : null;
    return item;
  }

  progressed(event) {
    const known = event.total > 0;
    const bar = $("progress");
    if (known) {
      bar.max = event.total;
      bar.value = event.done;
    } else bar.removeAttribute("value");
    const unit = event.unit ? ` ${event.unit}` : "";
    $("percent").textContent = known ? `${Math.floor((100 * event.done) / event.total)} %` : `${number(event.done)}${unit}`;
    const counted = known && event.unit !== "%" ? `${number(event.done)} of ${number(event.total)}${unit}` : "";
    $("doing").textContent = [counted, plain(event.message)].filter(Boolean).join(" · ");
    $("bar").hidden = false;
    return null; // the bar is its row
  }

  trim() {
    const rows = $("rows");
    while (rows.childElementCount > ROWS_MAX) {
      rows.firstChild.remove();
      this.dropped += 1;
    }
    if (this.dropped) {
      $("earlier").textContent = `${number(this.dropped)} earlier rows are not shown; they are in the stream.`;
      $("earlier").hidden = false;
    }
  }

  show() {
    $("events").textContent = number(this.counts.events);
    $("missing").textContent = number(this.counts.missing);
    $("missing").className = this.counts.missing ? "alarm" : "";
    $("reconnects").textContent = number(this.counts.reconnects);
    if (this.cursor) $("cursor").textContent = this.cursor;
    $("stream").dataset.events = this.counts.events;
    $("stream").dataset.doubled = this.counts.doubled;
    $("stream").dataset.missing = this.counts.missing;
    $("stream").dataset.lastSeq = this.expected - 1;
  }

  follow(on) {
    this.following = on;
    $("jump").hidden = on;
    if (on) toEnd();
  }

  async cancel() {
    const response = await fetch(this.address("cancel"), {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ reason: "asked for in the console", by: "console" }),
    });
    if (response.ok) return "";
    const problem = await response.json().catch(() => ({}));
    return problem.detail ?? `HTTP ${response.status}`;
  }
}

function toEnd() {
  $("scroll").scrollTop = $("scroll").scrollHeight;
}

// ---------------------------------------------------------------- the list, and what keys and clicks do

let view = null;
let listed = [];

function itemOf(stream) {
  const link = make("a", "item");
  link.href = `#${encodeURIComponent(stream.tenant)}/${encodeURIComponent(stream.stream_id)}`;
  link.append(make("b", "", plain(stream.title) || stream.stream_id));
  const line = make("span");
  line.append(make("i", `dot ${stream.ended ? word(stream.reason) : "live"}`));
  line.append(make("span", "", stream.ended ? `${plain(stream.reason).replaceAll("_", " ")}, ${ago(stream.ended)}` : `live, ${number(stream.last_seq + 1)} events`));
  link.append(line, make("span", "id", stream.tenant === "default" ? stream.stream_id : `${stream.tenant}/${stream.stream_id}`));
  const item = make("li");
  item.append(link);
  return item;
}

function showList() {
  const wanted = $("find").value.trim().toLowerCase();
  const found = listed.filter((one) => `${one.tenant}/${one.stream_id} ${one.title} ${one.kind}`.toLowerCase().includes(wanted));
  const focused = document.activeElement?.closest?.(".item")?.getAttribute("href");
  $("streams").replaceChildren(...found.map(itemOf));
  markCurrent();
  if (focused) [...document.querySelectorAll(".item")].find((one) => one.getAttribute("href") === focused)?.focus();
  $("none").hidden = found.length > 0;
  $("none").textContent = listed.length ? "No stream fits." : "No stream yet.";
}

function markCurrent() {
  for (const link of document.querySelectorAll(".item")) {
    link.setAttribute("aria-current", String(view !== null && link.getAttribute("href") === view.hash));
  }
}

async function refresh() {
  try {
    const [list, ready] = await Promise.all([fetch("/v1/streams?limit=200"), fetch("/readyz")]);
    listed = (await list.json()).streams;
    const health = await ready.json();
    $("edge").className = `pill ${ready.ok ? "good" : "bad"}`;
    $("edge").textContent = ready.ok ? "edge ready" : health.causes.map((one) => one.detail).join("; ");
    $("edge").title = $("edge").textContent;
    showList();
    showKind();
  } catch {
    $("edge").className = "pill bad";
    $("edge").textContent = "the edge does not answer";
  }
}

function showKind() {
  const entry = view && listed.find((one) => one.tenant === view.tenant && one.stream_id === view.streamId);
  if (!entry) return;
  $("kind").textContent = entry.kind;
  $("kind").hidden = false;
}

function chosen() {
  const hash = location.hash.slice(1);
  const slash = hash.indexOf("/");
  if (slash < 0) return null;
  try {
    return [decodeURIComponent(hash.slice(0, slash)), decodeURIComponent(hash.slice(slash + 1))];
  } catch {
    return null;
  }
}

function open() {
  view?.close();
  view = null;
  const stream = chosen();
  document.body.classList.toggle("open", stream !== null);
  $("stream").hidden = stream === null;
  $("welcome").hidden = stream !== null;
  document.title = stream ? `${stream[1]} · sluicegate` : "sluicegate";
  if (stream) {
    view = new StreamView(...stream);
    view.hash = location.hash;
    showKind();
  }
  markCurrent();
}

function applyFilter() {
  const wanted = $("filter").value.toLowerCase();
  for (const item of $("rows").children) {
    item.classList.toggle("out", wanted !== "" && !item.lastChild.textContent.toLowerCase().includes(wanted));
  }
}

async function cancelClicked() {
  const button = $("cancel");
  if (!button.classList.contains("sure")) {
    button.classList.add("sure");
    button.textContent = "Really cancel?";
    setTimeout(unsure, 4000);
    return;
  }
  unsure();
  button.disabled = true;
  const problem = await view.cancel().catch((error) => String(error));
  button.disabled = problem === "" || Boolean(view.ended);
  $("over").hidden = problem === "";
  $("over").textContent = problem ? `Not cancelled: ${problem}` : "";
}

function unsure() {
  $("cancel").classList.remove("sure");
  $("cancel").textContent = "Cancel";
}

function moveInList(step) {
  const links = [...document.querySelectorAll(".item")];
  const at = links.indexOf(document.activeElement);
  links[Math.min(Math.max(at + step, 0), links.length - 1)]?.focus();
}

function onKey(event) {
  const typing = event.target.matches("input");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    $("find").focus();
  } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && event.target.closest(".streams")) {
    event.preventDefault();
    moveInList(event.key === "ArrowDown" ? 1 : -1);
  } else if (event.key === "Escape" && !typing) location.hash = "";
  else if (event.key === "End" && view && !typing) view.follow(true);
}

$("find").addEventListener("input", showList);
$("filter").addEventListener("input", applyFilter);
$("cancel").addEventListener("click", cancelClicked);
$("jump").addEventListener("click", () => view.follow(true));
$("cursor").addEventListener("click", () => navigator.clipboard?.writeText($("cursor").textContent));
$("scroll").addEventListener("scroll", () => {
  const box = $("scroll");
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  if (view && atEnd !== view.following && (atEnd || box.scrollTop < (view.lastTop ?? 0))) view.follow(atEnd);
  if (view) view.lastTop = box.scrollTop;
});
// Rows are laid out when they come into view, and are then often higher than they were taken to be.
new ResizeObserver(() => view?.following && toEnd()).observe($("rows"));
document.addEventListener("keydown", onKey);
window.addEventListener("hashchange", open);
open();
refresh();
setInterval(() => document.hidden || refresh(), LIST_EVERY_MS);
