// The form that asks a language model: there only if this edge takes questions from whoever looks at it.

import { make } from "./rows.js";

const TITLE_MAX = 60; // characters, of up to four bytes each: a title has 256 bytes
const $ = (id) => document.getElementById(id);

/** Show the form if there are models; `opened(tenant, streamId)` is told of each stream that was asked for. */
export async function offerQuestions(tenant, opened) {
  const response = await fetch("/v1/models").catch(() => null);
  if (!response?.ok) return; // a recording is played, or the token does not allow it
  const { data } = await response.json();
  $("model").replaceChildren(...data.map(choice));
  $("ask").hidden = false;
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    submit(tenant(), opened);
  });
  $("question").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("ask").requestSubmit();
  });
}

function choice(model) {
  const option = make("option", "", model.id);
  option.value = model.id;
  option.dataset.kind = model.kind;
  return option;
}

async function submit(tenant, opened) {
  const text = $("question").value.trim();
  if (!text || $("send").disabled) return;
  $("send").disabled = true;
  $("unasked").hidden = true;
  try {
    const told = await ask(tenant, text, $("model").selectedOptions[0]);
    $("question").value = "";
    opened(told.tenant, told.stream_id);
  } catch (error) {
    $("unasked").textContent = `Not asked: ${error.message}`;
    $("unasked").hidden = false;
  } finally {
    $("send").disabled = false;
  }
}

async function ask(tenant, text, model) {
  const title = text.replace(/\s+/g, " ").slice(0, TITLE_MAX);
  const question = { title, messages: [{ role: "user", content: text }] };
  question[model.dataset.kind] = model.value; // a route by its name, or a model of the default one
  const response = await fetch(`/v1/llm/streams?tenant=${encodeURIComponent(tenant)}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(question),
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.detail ?? `HTTP ${response.status}`);
  return answer;
}
