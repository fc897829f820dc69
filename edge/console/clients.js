// Who reads more slowly than its stream flows: by name, with what its kind's policy has done about it. The page
// asks as `sluicegate connections` does, with the same right to (`operate`).

import { make, number, plain } from "./rows.js";

const SHOWN_MAX = 200; // the slowest; a longer table helps nobody
const $ = (id) => document.getElementById(id);
let asked = 0; // only the answer to the latest question is shown

/** Ask the edge, show the number of slow clients at the top, and the table if it is open. */
export async function lookAtClients(open) {
  const mine = ++asked;
  const all = open && $("everybody").checked;
  // Where the table is not open the number alone is of interest: describing clients is work for the edge.
  const response = await fetch(`/v1/connections?slow=${!all}&limit=${open ? SHOWN_MAX : 1}`).catch(() => null);
  const answer = await response?.json().catch(() => null);
  if (mine !== asked) return;
  const told = Boolean(response?.ok && answer);
  if (!all) showNumber(told ? answer.total : null);
  if (open) show(told ? answer : null, answer?.detail ?? "the edge does not answer", all);
}

function showNumber(total) {
  const known = total !== null;
  $("slow").className = `pill ${total ? "warn" : ""}`;
  $("slow").textContent = known && total ? `${number(total)} slow ${total === 1 ? "client" : "clients"}` : "clients";
}

function show(answer, problem, all) {
  $("untold").hidden = answer !== null;
  $("untold").textContent = answer ? "" : `Not told: ${problem}`;
  const found = answer?.connections ?? [];
  const focused = document.activeElement?.closest?.("#connections a")?.getAttribute("href");
  $("connections").replaceChildren(...found.map(rowOf));
  if (focused) [...$("connections").querySelectorAll("a")].find((one) => one.getAttribute("href") === focused)?.focus();
  $("table").hidden = found.length === 0;
  const more = answer && answer.total > found.length ? ` The ${number(found.length)} slowest are shown.` : "";
  const who = all ? "with a stream" : "behind or taking nothing";
  $("howmany").textContent = answer ? `${number(answer.total)} ${who}.${more}` : "";
}

function rowOf(one) {
  const row = make("tr", one.paused_ms > 0 ? "paused" : "");
  const name = one.tenant === "default" ? one.stream_id : `${one.tenant}/${one.stream_id}`;
  const link = make("a", "", name);
  link.href = `#${encodeURIComponent(one.tenant)}/${encodeURIComponent(one.stream_id)}`;
  const stream = make("td");
  stream.append(link);
  row.append(
    make("th", "", plain(one.peer)),
    make("td", "", plain(one.subject) || "-"),
    make("td", "", one.transport),
    stream,
    make("td", "", one.policy ?? "-"),
    make("td", "", one.state.replaceAll("_", " ")),
    amount(one.events_behind, one.bytes_behind),
    make("td", "number", size(one.bytes_pending)),
    make("td", "number", one.paused_ms ? `${(one.paused_ms / 1000).toFixed(1)} s` : "-"),
    amount(one.events, one.bytes),
    make("td", "number", number(one.gaps)),
    make("td", "number", dropped(one.dropped)),
  );
  row.firstChild.scope = "row";
  return row;
}

function amount(events, bytes) {
  return make("td", "number", events ? `${number(events)} (${size(bytes)})` : "-");
}

function dropped(byPolicy) {
  const parts = Object.entries(byPolicy).map(([policy, count]) => `${number(count)} ${policy}`);
  return parts.join(", ") || "-";
}

function size(bytes) {
  if (bytes < 1024) return `${number(bytes)} B`;
  return bytes < 1024 * 1024 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}
