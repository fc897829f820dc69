// The console: lists streams, and shows one as it flows. It is a client like any other: native EventSource,
// which resumes by itself. Whatever a stream holds is put into the page as text, never as markup.

import { offerQuestions } from "./ask.js";
import { lookAtClients } from "./clients.js";
import { ago, costOf, make, number, plain, ROWS, textRow, unknownRow, word } from "./rows.js";

const ROWS_MAX = 5000; // a browser lays out more than this only slowly; earlier ones are dropped and said so
const LIST_EVERY_MS = 2000;
const CLIENTS = "#/clients"; // no tenant has an empty name
const $ = (id) => document.getElementById(id);

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
    this.spent = { calls: 0, input: 0, output: 0, uncounted: 0, nanos: 0, unpriced: 0 };
    this.progressRow = null;
    this.frame = this.timer = 0; // what will draw next, if anything
    $("title").textContent = streamId;
    $("name").textContent = tenant === "default" ? streamId : `${tenant}/${streamId}`;
    $("kind").textContent = "";
    $("kind").hidden = true;
    $("rows").replaceChildren();
    $("filter").value = "";
    for (const id of ["bar", "earlier", "jump", "over", "cost"]) $(id).hidden = true;
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
    this.unschedule(); // or its rows would be drawn into the next stream
  }

  state(className, text) {
    $("state").className = `state ${className}`;
    $("state").textContent = text;
  }

  take(message) {
    const event = JSON.parse(message.data);
    if (event.type === "reconnect") return; // the edge is about to stop: EventSource comes back by itself
    if (event.type === "expiring") return; // whoever set the cookie renews it
    if (event.type === "refused") {
      this.state("broken", "refused");
      $("over").textContent = `The edge refused: ${event.detail}`;
      $("over").hidden = false;
      return;
    }
    if (message.lastEventId) this.cursor = message.lastEventId;
    this.check(event);
    this.counts.events += 1;
    this.pending.push(event);
    // A page that is hidden for long draws seldom, or not at all: more than it will show is not kept.
    if (this.pending.length > 2 * ROWS_MAX) this.dropped += this.pending.splice(0, ROWS_MAX).length;
    if (event.type === "usage") this.spend(event);
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
    if (this.frame || this.timer) return;
    const draw = () => {
      this.frame = this.timer = 0;
      this.draw();
    };
    if (document.hidden) this.timer = setTimeout(draw, 250);
    else this.frame = requestAnimationFrame(draw);
  }

  unschedule() {
    cancelAnimationFrame(this.frame);
    clearTimeout(this.timer);
    this.frame = this.timer = 0;
  }

  /** The page was hidden or shown: a frame that was asked for before would not come now. */
  reschedule() {
    if (!this.frame && !this.timer) return;
    this.unschedule();
    this.schedule();
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

  /** Pieces of one text go on in its row; another channel, call or speaker begins a row of its own. */
  flow(event) {
    const who = event.type === "message" ? (event.from ?? "") : `${event.role ?? ""}${event.index ? ` ${event.index}` : ""}`;
    const of = [who, event.channel, event.call_id].join("\n");
    if (event.type === "token" && this.text?.of === of) {
      this.text.body.append(plain(event.text));
      this.text.item.dataset.seq = event.seq;
      return null;
    }
    const { item, body } = textRow(event, who);
    body.append(plain(event.text));
    this.text = event.type === "token" ? { item, body, of } : null;
    return item;
  }

  /** What calls took counts, whether what they brought was superseded or not. */
  spend(event) {
    this.spent.calls += event.calls ?? 1;
    this.spent.input += event.input_tokens ?? 0;
    this.spent.output += event.output_tokens ?? 0;
    if (event.provenance === "unknown") this.spent.uncounted += 1;
    const nanos = costOf(event);
    if (nanos === null) this.spent.unpriced += 1;
    else this.spent.nanos += nanos;
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
    if (this.spent.calls) {
      const { calls, input, output, uncounted, nanos, unpriced } = this.spent;
      const known = nanos || !unpriced ? `$${(nanos / 1e9).toFixed(6)}` : "";
      const cost = [known, unpriced && `${number(unpriced)} unknown`].filter(Boolean).join(" + ");
      const counted = input || output || !uncounted ? `${number(input)} in, ${number(output)} out` : "";
      const tokens = [counted, uncounted && `tokens of ${number(uncounted)} unknown`].filter(Boolean).join(" + ");
      $("spent").textContent = `${cost} · ${tokens}${calls > 1 ? ` · ${number(calls)} calls` : ""}`;
      $("cost").hidden = false;
    }
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
  lookAtClients(location.hash === CLIENTS);
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
  if (location.hash === CLIENTS) return null;
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
  const clients = location.hash === CLIENTS;
  document.body.classList.toggle("open", stream !== null || clients);
  $("stream").hidden = stream === null;
  $("clients").hidden = !clients;
  $("welcome").hidden = stream !== null || clients;
  document.title = stream ? `${stream[1]} · sluicegate` : clients ? "Slow clients · sluicegate" : "sluicegate";
  if (clients) lookAtClients(true);
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
  const typing = event.target.matches("input, textarea, select");
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
document.addEventListener("visibilitychange", () => view?.reschedule());
window.addEventListener("hashchange", open);
$("everybody").addEventListener("change", () => lookAtClients(true));
open();
refresh();
offerQuestions(
  () => view?.tenant ?? listed[0]?.tenant ?? "default",
  (tenant, streamId) => (location.hash = `#${encodeURIComponent(tenant)}/${encodeURIComponent(streamId)}`),
);
setInterval(() => document.hidden || refresh(), LIST_EVERY_MS);
