"use strict";
const $ = (id) => document.getElementById(id);
const MASK = "\u00b7";
const MOST_SHOWN = 4096; // tokens of a canvas: each is an element, which every call draws again

// ---------------------------------------------------------------------------------------------------- text of a model

/* Characters that do not show, or turn the order of a line round, are shown by their names. */
const visible = (text) =>
  text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (mark) => {
    const code = mark.codePointAt(0);
    if (mark === "\n") return "\u21b5";
    if (code < 0x20) return String.fromCodePoint(0x2400 + code);
    return code === 0x7f ? "\u2421" : `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
  });
const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/* What the server says, with the fields called as they are on this page. */
const told = (message) => visible(message.replace(/messages\[0\](\.content)?/g, "the prompt").replace(/\bmax_tokens\b/g, "Tokens"));

/* Names of folders differ at their end, which a narrow menu would cut off: the folders that all are in are left out. */
const LONG_NAME = 30;
const shared = () => {
  const names = models.map((model) => model.id);
  if (names.length < 2 || names.every((name) => name.length <= LONG_NAME)) return 0;
  let length = 0;
  while (names.every((name) => length < name.length && name[length] === names[0][length])) length += 1;
  return names[0].lastIndexOf("/", length - 1) + 1;
};
const shortName = (name) => (name === "" ? "none" : shared() > 1 ? `\u2026/${visible(name.slice(shared()))}` : visible(name));
const visibleLines = (text) => text.split("\n").map(visible).join("\n");

// ------------------------------------------------------------------------------------------------------------ settings

/* Sliders are logarithmic: 0, then from 0.01 to 100. */
const amount = (slider) => (Number(slider.value) === 0 ? 0 : Number((10 ** (Number(slider.value) / 10 - 2)).toPrecision(2)));
let models = [];
const chosen = () =>
  [$("model-0").value, $("second").hidden ? "" : $("model-1").value]
    .filter((name, index) => name !== "" && (index === 0 || name !== $("model-0").value))
    .map((name) => models.find((model) => model.id === name));

const showSettings = () => {
  $("bound-shown").textContent = amount($("bound")) === 0 ? "0: one a call" : amount($("bound"));
  $("price-shown").textContent = amount($("price"));
  const found = chosen();
  for (const index of [0, 1]) $(`model-${index}`).title = visible($(`model-${index}`).value);
  const priced = found.some((model) => model.has_prices);
  $("how-price").disabled = $("price").disabled = !priced;
  if (!priced && $("how-price").checked) $("how-bound").checked = true;
  const noteOf = (say) => found.map((model) => [visible(model.id), say(model)]).filter((note) => note[1])
    .map((note) => note.join(": ")).join("; ");
  $("choice-note").textContent = noteOf(ownChoice);
  $("price-note").textContent = noteOf((model) => model.has_prices ? "" : withoutPrices(model));
  $("tokens-note").textContent = noteOf(beyondUsual);
};

const ownChoice = (model) =>
  model.has_controller ? "its controller"
    : model.has_prices ? "its sampler asks for a price of a call, and keeps one token a call without one"
      : "has no controller, one token a call";
const withoutPrices = (model) =>
  model.has_controller ? "its controller was trained without prices" : "has no learned sampler that takes a price";

/* A model has learnt to end its text within as many tokens as in its training. */
const beyondUsual = (model) =>
  model.max_tokens && Number($("tokens").value) > model.max_tokens
    ? `writes ${count(model.max_tokens, "token")} as a rule, and asked for more its text may be empty or broken`
    : "";

const settingsOf = (model) => {
  const how = document.querySelector("input[name=how]:checked").value;
  return {
    model: model.id,
    messages: [{ role: "user", content: $("prompt").value }],
    temperature: Number($("temperature").value),
    seed: Number($("seed").value),
    ...($("tokens").value ? { max_tokens: Number($("tokens").value) } : {}),
    ...(how === "bound" ? { entropy_bound: amount($("bound")) } : {}),
    ...(how === "price" ? { price: amount($("price")) } : {}),
    stream: true,
    stream_options: { include_usage: true },
    unmask_events: true,
  };
};

// -------------------------------------------------------------------------------------------------------------- panels

/* One model's canvas. Calls come as fast as the server draws, and are shown at the reader's pace. */
class Panel {
  constructor(model) {
    this.root = $("panel").content.firstElementChild.cloneNode(true);
    const [heading, status, canvas, text] = ["h2", ".status", ".canvas", ".text"].map((q) => this.root.querySelector(q));
    Object.assign(this, { status, canvas, text, model, calls: [], tokens: [], shown: 0, answer: "" });
    [this.slider, this.output] = ["input", "output"].map((q) => this.root.querySelector(`.scrub ${q}`));
    heading.textContent = model.id;
    canvas.setAttribute("aria-label", `tokens of ${model.id}`);
    this.slider.setAttribute("aria-label", `call of ${model.id}`);
    this.slider.addEventListener("input", () => this.show(Number(this.slider.value)));
    $("panels").append(this.root);
  }

  resize(count) {
    this.length = Math.max(this.length ?? 0, count);
    const shown = Math.min(this.length, MOST_SHOWN);
    if (this.length > shown)
      this.canvas.nextElementSibling.textContent = `the first ${shown} of ${this.length} tokens are shown; the text below has all`;
    while (this.tokens.length < shown) {
      const token = document.createElement("span");
      token.className = "token masked";
      token.textContent = MASK;
      this.canvas.append(token);
      this.tokens.push({ token, call: Infinity, text: "" });
    }
  }

  take(event) {
    this.calls.push(event);
    event.positions.forEach((position, index) => {
      this.resize(position + 1);
      if (position < MOST_SHOWN) Object.assign(this.tokens[position], { call: event.call, text: event.tokens[index] });
    });
    this.slider.max = this.calls.length;
  }

  show(calls) {
    this.shown = calls;
    this.slider.value = calls;
    this.output.textContent = `${calls} of ${this.calls.length}`;
    const last = Math.max(1, this.calls.length - 1);
    const end = this.tokens.findIndex(({ call, text }) => call < calls && text === null);
    this.tokens.forEach((cell, position) => {
      const { token, call, text } = cell;
      const isMasked = call >= calls;
      token.classList.toggle("masked", isMasked);
      token.classList.toggle("end", !isMasked && text === null);
      token.classList.toggle("now", call === calls - 1);
      token.textContent = isMasked ? MASK : text === null ? "end" : visible(text);
      const isBehind = !isMasked && end >= 0 && position > end;
      token.classList.toggle("behind", isBehind);
      token.title = isMasked ? "masked" : `call ${call + 1}${isBehind ? ", behind the end" : ""}`;
      token.style.setProperty("--share", isMasked ? 0 : call / last);
      const isBreak = !isMasked && text !== null && text.includes("\n");
      if (isBreak !== Boolean(cell.lineBreak)) {
        if (isBreak) token.after((cell.lineBreak = document.createElement("br")));
        else {
          cell.lineBreak.remove();
          cell.lineBreak = null;
        }
      }
    });
  }

  fail(message) {
    this.status.textContent = message;
    this.status.classList.add("wrong");
  }

  /* Shows one call after the other, until all that has come is shown. */
  async play(pace, signal) {
    while (!this.isOver || this.shown < this.calls.length) {
      if (signal.aborted) break;
      if (this.shown < this.calls.length) this.show(this.shown + 1);
      await new Promise((resolve) => setTimeout(resolve, Math.max(pace, 10)));
    }
    this.slider.disabled = this.calls.length === 0;
    this.text.textContent = visibleLines(this.answer);
    if (this.usage) {
      const { nfe, completion_tokens, tokens_per_call } = this.usage;
      const tokens = `${count(completion_tokens, "token")}, ${tokens_per_call.toFixed(2)} a call`;
      const empty = this.answer === "" ? "; the text is empty: its first token ends it" : "";
      this.status.textContent = `${count(nfe, "denoiser call")}, ${tokens}; ${visible(this.how)}${empty}`;
    } else if (signal.aborted) this.status.textContent = `stopped after ${count(this.shown, "call")}`;
  }

  async draw(signal) {
    this.status.textContent = "waiting for the first call\u2026";
    try {
      const asked = settingsOf(this.model);
      if ("price" in asked && !this.model.has_prices)
        return this.fail(`${withoutPrices(this.model)}: set the entropy bound, or let the model choose`);
      const response = await fetch("/v1/chat/completions", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(asked),
        signal,
      });
      if (!response.ok) return this.fail(told((await response.json()).error.message));
      this.resize(asked.max_tokens ?? this.model.max_tokens ?? 0); // only now: as many as the model takes
      for await (const data of eventsOf(response.body)) {
        if (data.error) return this.fail(told(data.error.message));
        if (data.usage) [this.usage, this.how] = [data.usage, data.decoding];
        for (const event of data.unmask_events ?? []) this.take(event);
        this.answer += data.choices[0]?.delta.content ?? "";
        if (!this.usage) this.status.textContent = `${count(this.calls.length, "call")}\u2026`;
      }
    } catch (error) {
      if (!signal.aborted) this.fail(`the server does not answer (${error.message})`);
    } finally {
      this.isOver = true;
    }
  }
}

/* The objects of a stream of server-sent events. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part !== "data: [DONE]") yield JSON.parse(part.slice("data: ".length));
  }
}

// ------------------------------------------------------------------------------------------------------------- actions

let running = null;
const generate = async () => {
  running?.abort();
  const control = (running = new AbortController());
  $("problem").textContent = "";
  $("panels").replaceChildren();
  $("stop").disabled = false;
  const panels = chosen().map((model) => new Panel(model));
  const pace = Number($("pace").value);
  await Promise.all(panels.flatMap((panel) => [panel.draw(control.signal), panel.play(pace, control.signal)]));
  if (running === control) $("stop").disabled = true;
};

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
$("form").addEventListener("input", showSettings);
for (const name of ["bound", "price"]) $(name).addEventListener("input", () => ($(`how-${name}`).checked = true));
$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("form").requestSubmit();
});
$("stop").addEventListener("click", () => running?.abort());

fetch("/v1/models")
  .then((response) => response.json())
  .then(({ data }) => {
    models = data;
    for (const index of [0, 1]) {
      const names = index ? ["", ...models.map((model) => model.id)] : models.map((model) => model.id);
      $(`model-${index}`).replaceChildren(...names.map((name) => new Option(shortName(name), name)));
    }
    $("second").hidden = models.length < 2;
    if (models.length > 1) $("model-1").value = models[1].id;
    if (chosen().every((model) => model.has_controller)) $("how-model").checked = true;
    showSettings();
  })
  .catch((error) => ($("problem").textContent = `the server does not answer (${error.message})`));
