// Shows the documents that /page/events sends, one per second. Text is only ever set as text, so
// that the name of a worker or a request never becomes markup.

const $ = (id) => document.getElementById(id);
const UNKNOWN = "—";
const SIGNATURES = {
  CALLER: "with the call",
  REGISTERED: "registered",
  SESSION: "its conversation's",
  PREFIX: "its prefix's",
  TENANT: "its tenant's",
};
const AVOIDED = { SLOW: "slow", HELD_DOWN: "came and went", SUSPECT: "silent" };
let shown = null;
let paused = false;
let chosen = null;
let events = null;
let listened = null;

function number(value, digits = 1, unit = "") {
  if (value === null || value === undefined) return UNKNOWN;
  return value.toFixed(digits).replace("-", "−") + unit;
}

function percent(value, digits = 0) {
  return value === null || value === undefined ? UNKNOWN : number(100 * value, digits, "%");
}

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Tables keep their rows from one document to the next, so that focus and scrolling stay.
function table(element, columns) {
  const roles = { table: "table", head: "rowgroup", body: "rowgroup" };
  element.setAttribute("role", roles.table);
  const head = make("thead", undefined, { role: roles.head });
  const top = make("tr", undefined, { role: "row" });
  for (const column of columns) {
    const cell = make("th", column.name, { role: "columnheader", scope: "col" });
    if (column.number) cell.className = "number";
    top.append(cell);
  }
  head.append(top);
  const body = make("tbody", undefined, { role: roles.body });
  element.replaceChildren(head, body);
  const rows = new Map();
  return (items, key) => {
    const wanted = new Set(items.map(key));
    for (const [name, row] of rows) {
      if (!wanted.has(name)) {
        row.element.remove();
        rows.delete(name);
      }
    }
    items.forEach((item, place) => {
      let row = rows.get(key(item));
      if (!row) {
        row = { element: make("tr", undefined, { role: "row" }), cells: [] };
        columns.forEach((column, index) => {
          const first = index === 0;
          const cell = make(first ? "th" : "td", undefined, first
            ? { role: "rowheader", scope: "row" }
            : { role: "cell", "data-label": column.name });
          if (column.number) cell.classList.add("number");
          if (column.wide) cell.classList.add("wide");
          row.element.append(cell);
          row.cells.push(cell);
        });
        rows.set(key(item), row);
      }
      if (body.children[place] !== row.element) body.insertBefore(row.element, body.children[place] ?? null);
      columns.forEach((column, index) => column.show(row.cells[index], item));
    });
  };
}

const text = (of) => (cell, item) => {
  const value = of(item);
  say(cell, value);
  if (value.length > 24) cell.title = value;
};

function toned(cell, value, tone) {
  say(cell, value);
  cell.classList.remove("good", "warn", "bad");
  if (tone) cell.classList.add(tone);
}

function showState(cell, worker) {
  const why = worker.avoided === "NONE" ? "" : ` (${AVOIDED[worker.avoided]})`;
  toned(cell, worker.state.toLowerCase() + why, worker.state === "READY" && !why ? "good" : "warn");
}

function showLoad(cell, worker) {
  if (worker.load === null) return say(cell, UNKNOWN);
  if (!cell.firstElementChild) {
    cell.replaceChildren(make("span", undefined, { class: "bar", "aria-hidden": "true" }), make("span"));
  }
  cell.firstElementChild.style.setProperty("--share", `${Math.min(100, 100 * worker.load)}%`);
  say(cell.lastElementChild, `${number(worker.load, 2)} (${worker.booked} of ${worker.capacity})`);
}

function showCapture(cell, worker) {
  const states = { CAPTURING: "good", PROBING: "warn", STOPPED: "bad" };
  if (worker.capture === null) return toned(cell, "not reported", "");
  const coverage = worker.coverage === null ? "" : `, ${percent(worker.coverage)} of tokens`;
  const reason = worker.capture_reason ? `: ${worker.capture_reason}` : "";
  toned(cell, worker.capture.toLowerCase() + (reason || coverage), states[worker.capture]);
  cell.title = worker.capture_reason;
}

function showDrain(cell, worker) {
  if (!cell.firstElementChild) {
    const button = make("button", "Drain…");
    button.addEventListener("click", () => askToDrain(cell.dataset.worker));
    cell.append(button);
  }
  cell.dataset.worker = worker.id;
  cell.firstElementChild.setAttribute("aria-label", `Drain ${worker.id}`);
  cell.firstElementChild.disabled = worker.state === "DRAINING" || worker.role !== "DECODE";
}

const showWorkers = table($("fleet"), [
  { name: "Worker", show: text((w) => w.id) },
  { name: "Role", show: text((w) => w.role.toLowerCase()) },
  { name: "State", show: showState },
  { name: "Load", show: showLoad },
  { name: "Slot", number: true, show: text((w) => (w.slot === null ? UNKNOWN : String(w.slot))) },
  { name: "Capture", wide: true, show: showCapture },
  { name: "Active experts", number: true, show: text((w) => number(w.active_experts)) },
  { name: "Batch", number: true, show: text((w) => number(w.batch)) },
  { name: "Step", number: true, show: text((w) => number(w.step_ms, 1, " ms")) },
  { name: "TPOT", number: true, show: text((w) => number(w.tpot_ms, 1, " ms")) },
  { name: "Reported", number: true, show: text((w) => number(w.report_age_s, 0, " s ago")) },
  { name: "Drain", show: showDrain },
]);

const showPlacements = table($("placements"), [
  { name: "Request", show: text((p) => p.request + (p.attempt ? ` (attempt ${p.attempt})` : "")) },
  { name: "At", show: text((p) => new Date(1000 * p.at).toLocaleTimeString()) },
  { name: "Worker", wide: true, show: text((p) => p.worker) },
  { name: "Why", show: text((p) => p.why) },
  { name: "Policy", show: text((p) => p.policy) },
  { name: "Signature", show: text((p) => SIGNATURES[p.signature] ?? "none") },
  { name: "Similarity", number: true, show: text((p) => number(p.similarity, 3)) },
  { name: "Coverage", number: true, show: text((p) => percent(p.coverage)) },
]);

// A heat map is a table, so that its numbers can be read without its colours.
function map(element, names, columns, rows, least, most, write) {
  const head = make("thead");
  const top = make("tr");
  top.append(make("td"), ...columns.map((name) => make("th", name, { scope: "col" })));
  head.append(top);
  const body = make("tbody");
  rows.forEach((values, index) => {
    const row = make("tr");
    row.append(make("th", names[index], { scope: "row", title: names[index] }));
    for (const value of values) {
      const level = most > least ? Math.round((8 * (value - least)) / (most - least)) : 0;
      row.append(make("td", write(value), { "data-level": Math.max(0, Math.min(8, level)) }));
    }
    body.append(row);
  });
  element.replaceChildren(head, body);
}

function showNow(model) {
  const decode = model.workers.filter((w) => w.role === "DECODE");
  const ready = decode.filter((w) => w.state === "READY").length;
  let tokens = 0;
  let experts = 0;
  for (const w of decode) {
    if (w.active_experts !== null && w.batch !== null) {
      tokens += w.batch;
      experts += w.batch * w.active_experts;
    }
  }
  const by = model.by_load;
  const facts = [
    ["Placements per second", number(model.placements_per_s), "mean over 10 s"],
    ["In flight", String(model.leases), model.waiting ? `${model.waiting} waiting for a place` : "none waiting"],
    ["Decode workers ready", `${ready} of ${decode.length}`, ""],
    ["Active experts, reported", tokens ? number(experts / tokens) : UNKNOWN,
      model.geometry ? `of ${model.geometry.experts} per layer` : ""],
    ["Active experts against load alone",
      by ? signed(by.active_experts / by.active_experts_by_load - 1) : model.compares ? "measuring" : "off",
      by ? `predicted: ${number(by.active_experts)} against ${number(by.active_experts_by_load)}`
        : model.compares ? "until requests have come and gone" : "--load-comparison"],
    ["Step time against load alone", by && by.step_change !== null ? signed(by.step_change) : UNKNOWN,
      by ? `predicted, ${by.requests} requests` : ""],
  ];
  const list = $("now");
  while (list.children.length < facts.length) {
    const fact = make("div");
    const value = make("dd");
    value.append(make("span"), make("small"));
    fact.append(make("dt"), value);
    list.append(fact);
  }
  facts.forEach(([name, value, note], index) => {
    const fact = list.children[index];
    say(fact.firstElementChild, name);
    say(fact.lastElementChild.firstElementChild, value);
    say(fact.lastElementChild.lastElementChild, note);
  });
}

function signed(value) {
  return (value > 0 ? "+" : "") + percent(value, 1);
}

let mapped = "";
let offered = null;

function showPartition(model) {
  const partition = model.partition;
  $("maps").hidden = partition === null;
  const refits = model.refits;
  const held = refits.held_s > 0 ? `, a partition chosen by hand stays for ${number(refits.held_s, 0)} s` : "";
  const last = refits.running ? "one is running" : refits.last ? `the last: ${refits.last}` : "none yet";
  const about = ` Refits: ${refits.mode.toLowerCase()}, ${last}${held}.`;
  if (partition === null) {
    say($("partition-text"), "None is active: policies that need one place requests by load." + about);
    return;
  }
  const drift = partition.drift === null ? "not known yet" : number(partition.drift, 2);
  say($("partition-text"),
    `Version ${partition.version}, ${partition.slots} slots; drift ${drift}` +
    " (distance of recent signatures to the nearest centroid, relative to that at the fit)." + about);
  const slots = model.workers.map((w) => [w.id, w.slot]);
  const now = JSON.stringify([model.name, partition.version, partition.traffic, slots]);
  if (now === mapped) return;
  mapped = now;
  const columns = partition.similarity.map((_, slot) => String(slot));
  const workers = model.workers.filter((w) => w.role === "DECODE");
  workers.sort((a, b) => (a.slot ?? 1e9) - (b.slot ?? 1e9));
  const none = columns.map(() => 0);
  const rows = workers.map((w) => partition.traffic[w.id] ?? none);
  const most = Math.max(0, ...rows.flat());
  map($("traffic"), workers.map((w) => w.id), columns, rows, 0, most, (v) => (v ? number(100 * v, 1) : ""));
  say($("traffic-most"), percent(most, 1));
  const cosines = partition.similarity;
  const least = Math.min(1, ...cosines.flat());
  map($("similar"), columns.map((c) => `cluster ${c}`), columns, cosines, least, 1, (v) => number(v, 2));
  say($("similar-least"), number(least, 2));
}

function showPolicy(model) {
  const written = Object.entries(model.policy.parameters).map(([key, value]) => `${key}=${value}`);
  say($("policy-text"), `In force: ${model.policy.name}${written.length ? ` (${written.join(", ")})` : ""}`);
  if (offered !== model.name && $("policy-name").options.length) {
    offered = model.name;
    $("policy-name").value = model.policy.name;
    aboutPolicy();
  }
}

function show(state) {
  shown = state;
  say($("version"), `eldr-service ${state.version}`);
  const trouble = state.serving ? state.troubles : "The daemon is shutting down: it takes no new requests.";
  $("trouble").hidden = !trouble;
  say($("trouble"), trouble);
  const names = state.models.map((model) => model.name);
  $("empty").hidden = names.length > 0;
  $("shown").hidden = names.length === 0;
  if (names.length === 0) return;
  if (!names.includes(chosen)) chosen = names[0];
  const select = $("model");
  if ([...select.options].map((o) => o.value).join("\n") !== names.join("\n")) {
    select.replaceChildren(...names.map((name) => make("option", name)));
  }
  select.value = chosen;
  $("model-of").hidden = names.length < 2;
  listen(names.length > 1 ? chosen : "");
  const model = state.models.find((m) => m.name === chosen);
  showNow(model);
  showWorkers(model.workers, (w) => w.id);
  say($("workers-note"), model.workers_left_out ? `${model.workers_left_out} more are not shown.` : "");
  showPartition(model);
  showPolicy(model);
  if (!paused) {
    const placements = state.placements.filter((p) => p.model === chosen);
    showPlacements(placements, (p) => `${p.request}\n${p.attempt}`);
  }
}

function pause(wanted) {
  paused = wanted;
  $("pause").setAttribute("aria-pressed", String(paused));
}

function ask(title, what, yes, path, body) {
  const dialog = $("ask");
  say($("ask-title"), title);
  say($("ask-text"), what);
  say($("ask-error"), "");
  say($("ask-yes"), yes);
  $("ask-yes").onclick = async () => {
    $("ask-yes").disabled = true;
    try {
      const answer = await fetch(path, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      });
      if (answer.ok) dialog.close();
      else say($("ask-error"), await answer.text());
    } catch (error) {
      say($("ask-error"), `The daemon does not answer: ${error.message}`);
    } finally {
      $("ask-yes").disabled = false;
    }
  };
  dialog.showModal();
}

function askToDrain(worker) {
  ask("Drain a worker", `No new requests will be placed on ${worker}; those that run there will finish.`,
    "Drain", "/page/drain", { model: chosen, worker });
}

$("ask-no").addEventListener("click", () => $("ask").close());
$("model").addEventListener("change", (event) => {
  chosen = event.target.value;
  pause(false);
  show(shown);
});
$("pause").addEventListener("click", () => pause(!paused));
$("policy").addEventListener("submit", (event) => {
  event.preventDefault();
  const parameters = $("policy-parameters").value.trim();
  const policy = $("policy-name").value + (parameters ? `:${parameters}` : "");
  ask("Switch the policy", `From the next request on, ${policy} will place those of ${chosen}.`,
    "Switch", "/page/policy", { model: chosen, policy });
});
$("policy-name").addEventListener("change", aboutPolicy);

function aboutPolicy() {
  const option = $("policy-name").selectedOptions[0];
  say($("policy-about"), option ? option.dataset.about : "");
}

async function fillPolicies() {
  const answer = await fetch("/page/policies");
  const policies = await answer.json();
  $("policy-name").replaceChildren(
    ...policies.map((p) => make("option", p.name, { "data-about": p.description })));
  aboutPolicy();
  if (shown) show(shown); // now: later it would undo a choice that the operator has made by then
}

function link(state, words) {
  $("link").dataset.state = state;
  say($("link"), words);
}

// Each document has the newest placements of one model, or of all where none is named.
function listen(model) {
  if (events && model === listened) return;
  events?.close();
  listened = model;
  const source = new EventSource("/page/events" + (model && `?model=${encodeURIComponent(model)}`));
  events = source;
  source.onmessage = (event) => {
    link("live", "Live");
    show(JSON.parse(event.data));
  };
  source.onerror = () => {
    link("lost", "Not connected: the page may be out of date");
    if (source.readyState === EventSource.CLOSED) setTimeout(again, 5000, source); // it was refused
  };
}

function again(source) {
  if (source !== events) return;
  events = null;
  listen(listened);
}

listen("");
fillPolicies();
