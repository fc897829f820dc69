// One row an event: what of it is shown, and how. All of it is put into the page as text.

/** Make an element with a class and text. */
export function make(tag, className = "", text = "") {
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
export const plain = (text) => String(text ?? "").replace(ANSI, "").replace(BIDI, "\ufffd");
export const number = (value) => Number(value ?? 0).toLocaleString("en");
export const word = (value) => String(value ?? "").replace(/[^A-Za-z0-9_-]/g, "");

function clock(iso) {
  const at = new Date(iso);
  return Number.isNaN(at.getTime()) ? "" : at.toLocaleTimeString("en-GB");
}

export function ago(iso) {
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
  slow: "this reader was too slow for them",
  unreadable: "its payload cannot be read",
  missing_input: "they never came in",
  topic_version: "the topic was replaced since",
  reopened: "the name was opened again since",
};

export function row(event, className) {
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

/** A row that pieces of one text flow into: `{item, body}`; what a model thinks is folded. */
export function textRow(event, who) {
  const channel = word(event.channel ?? "text");
  const item = row(event, `text ${channel}`);
  const body = make(channel === "tool" ? "pre" : "div", "body");
  if (channel === "reasoning") {
    const folded = make("details");
    folded.append(make("summary", "who", who ? `${plain(who)}, reasoning` : "reasoning"), body);
    item.lastChild.append(folded);
  } else {
    const title = { tool: `calls ${plain(event.tool)}`, refusal: `${plain(who)} refuses` }[channel] ?? plain(who);
    if (title) item.lastChild.append(make("span", "who", title));
    item.lastChild.append(body);
  }
  return { item, body };
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

/** What a usage event cost, 1e-9 USD; null = unknown, as it is where nobody counted what was taken. */
export function costOf(event) {
  return event.provenance === "unknown" ? null : (event.cost_nanos ?? null);
}

function usageRow(event) {
  const nanos = costOf(event);
  const cost = nanos === null ? "cost unknown" : `$${(nanos / 1e9).toFixed(6)}`;
  const guessed = event.provenance === "estimated" ? " (estimated)" : "";
  const count = (tokens) => (!tokens && event.provenance === "unknown" ? "unknown" : number(tokens)); // never null
  const tokens = `${count(event.input_tokens)} tokens in, ${count(event.output_tokens)} out${guessed}`;
  return fact(event, `${event.provider} ${event.model}`, `${tokens}, ${cost}, ${number(event.latency_ms)} ms`);
}

function mediaRow(event) {
  const bytes = Math.floor(((event.data ?? "").length * 3) / 4);
  return fact(event, event.mime, event.reference || size(bytes));
}

/** What a worker notes of a model: how it finished, of what class its failure was. */
function stateRow(event) {
  try {
    const value = JSON.parse(event.value_json);
    if (event.name === "finish" && value.finish) {
      return fact(event, "finished", value.raw && value.raw !== value.finish ? `${value.finish} (${value.raw})` : value.finish);
    }
    if (event.name === "error" && value.error_class) return fact(event, "failed", value.error_class.replaceAll("_", " "));
  } catch {
    // whatever a user's own operation calls by these names
  }
  return fact(event, event.name, "", json(event.value_json));
}

export const ROWS = {
  log: logRow,
  gap: gapRow,
  end: endRow,
  usage: usageRow,
  media: mediaRow,
  open: (e) => fact(e, "opened", Object.entries(e.labels ?? {}).map(([k, v]) => `${k}=${v}`).join("  ")),
  reset: (e) => fact(e, `started over from seq ${e.from_seq}`, e.reason),
  cancel: (e) => fact(e, "cancel was asked for", [e.by && `by ${e.by}`, e.reason].filter(Boolean).join(": ")),
  state: stateRow,
  structured: (e) => fact(e, e.schema_name || "structured", "", json(e.json)),
  custom: (e) => fact(e, e.name || "custom", "", json(e.json)),
};

export function unknownRow(event) {
  const { type, seq, time, event_id, ...rest } = event;
  return fact(event, type, "", Object.keys(rest).length ? json(rest) : "");
}
