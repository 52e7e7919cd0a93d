"use strict";
// The page of a jaxfm server: it asks the same interface as any other client. What is shown is text, never markup.

const $ = (id) => document.getElementById(id);
let models = [];
let asked = 0; // only the newest question is shown
let token = "";

const EXAMPLES = {
  pair: [
    ["Where did Ada Lovelace meet Charles Babbage?", "Ada Lovelace met Charles Babbage at a party in London in June 1833. He showed her a part of his machine."],
    ["A man plays the guitar on a stage.", "Somebody makes music."],
  ],
  mask: [["Paris is the capital of [MASK].", ""], ["The doctor told the patient to [MASK] more water.", ""]],
  relations: [
    ["<e1>Ada Lovelace</e1> was born in <e2>London</e2>.", ""],
    ["The <e1>fire</e1> was caused by a <e2>candle</e2>.", ""],
  ],
  rank: [["How do I change my password?", "Open the settings to set another password.\nOur shop is open from nine to five.\nA parcel takes three days."]],
  text: [
    ["Ada Lovelace met Charles Babbage in London, long before IBM was founded in New York.", ""],
    ["I waited two hours for a cold soup, and nobody said sorry.", ""],
    ["What a lovely film: we laughed from the first minute to the last!", ""],
  ],
};

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function table(caption, columns, rows) {
  const cells = (tag, row) => row.map((cell, i) => make(tag, {class: columns[i].class || ""}, ...[cell].flat()));
  const head = columns.map((each) => make("th", {class: each.class || "", scope: "col"}, each.name));
  return make("table", {"aria-label": caption}, make("thead", {}, make("tr", {}, ...head)),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...cells("td", row)))));
}

const number = (value, digits = 3) => (value === null || value === undefined ? "" : Number(value).toFixed(digits));
const characters = (text) => Array.from(text); // offsets count characters, not UTF-16 units
const current = () => models.find((model) => model.name === $("model").value);

// Colours that people who see fewer of them tell apart (Okabe and Ito); a type always has its own.
const COLOURS = ["#0072b2", "#b35000", "#00795a", "#a0417b", "#8a6d00", "#3d6f9e", "#6b4fa0", "#7a4a2b"];
const DARK = ["#56b4e9", "#f0a060", "#45c9a0", "#e79fc6", "#e0cc5a", "#9ec5e8", "#b9a3e3", "#d9a987"];
function colour(kind, kinds) {
  const palette = matchMedia("(prefers-color-scheme: dark)").matches ? DARK : COLOURS;
  return palette[Math.max(kinds.indexOf(kind), 0) % palette.length];
}

async function ask(path, body) {
  const headers = {"Content-Type": "application/json"};
  if (token) headers.Authorization = `Bearer ${token}`;
  const reply = await fetch(path, body === undefined ? {headers} : {method: "POST", headers, body: JSON.stringify(body)});
  if (reply.status === 401) $("token-field").hidden = false;
  const found = await reply.json().catch(() => ({detail: reply.statusText}));
  if (!reply.ok) throw new Error(found.detail || `status ${reply.status}`);
  return found;
}

function kindOf(model) {
  if (model.ranks) return "rank";
  if (model.reads.includes("pair")) return "pair";
  if (model.task === "relations") return "relations";
  return model.task === "masked_lm" ? "mask" : "text";
}

// Tags of a scheme are types to a person: B-PER and I-PER are PER.
const kindsOf = (model) => [...new Set(model.labels.map((label) => label.replace(/^[BIESLU]-/, "")).filter((each) => each !== "O"))];

function chooseModel() {
  const model = current();
  if (!model) return;
  const kinds = model.task === "ner" ? kindsOf(model) : model.labels;
  const texts = model.reads.includes("text");
  $("about").textContent = `${model.task.replaceAll("_", " ")}, step ${model.step}` + (kinds.length ? `: ${kinds.slice(0, 12).join(", ")}${kinds.length > 12 ? ` and ${kinds.length - 12} more` : ""}` : "");
  $("image-field").hidden = !model.reads.includes("image");
  $("text-field").hidden = !texts;
  $("pair-field").hidden = !(model.reads.includes("pair") || model.ranks);
  $("text-label").textContent = model.ranks ? "Sentence" : model.task === "qa" ? "Question" : model.reads.includes("pair") ? "First text" : "Text";
  $("pair-label").textContent = model.ranks ? "Others, one a line: which are nearest?" : model.task === "qa" ? "Context" : "Second text";
  const examples = texts ? EXAMPLES[kindOf(model)] : [];
  $("examples").replaceChildren(make("option", {value: ""}, examples.length ? "choose one" : "none"),
    ...examples.map(([text], i) => make("option", {value: String(i)}, text.length > 60 ? `${text.slice(0, 60)}...` : text)));
  clear();
}

function clear() {
  for (const id of ["result", "why", "status"]) $(id).replaceChildren();
  $("status").className = "";
  $("raw-field").hidden = true;
}

function readImage(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1]);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

async function input(model) {
  const file = $("image").files[0];
  if (!$("image-field").hidden && file) return {image: await readImage(file)};
  if (model.reads.includes("image") && !model.reads.includes("text")) throw new Error("Choose an image first.");
  return model.reads.includes("pair") ? {text: $("text").value, pair: $("pair").value} : {text: $("text").value};
}

async function submit(event) {
  event.preventDefault();
  const model = current(), mine = ++asked;
  token = $("token").value.trim();
  clear();
  if (!models.length) return load();
  $("ask").disabled = true;
  $("status").textContent = "asking ...";
  try {
    let path = `v1/models/${model.name}/predict`, body, found;
    const begun = performance.now();
    if (model.ranks) {
      path = `v1/models/${model.name}/rank`;
      body = {query: $("text").value, texts: $("pair").value.split("\n").filter((line) => line.trim())};
      found = await ask(path, body);
      if (mine !== asked) return;
      showRanking(found.ranking);
    } else {
      const given = await input(model);
      body = {inputs: [given]};
      found = await ask(path, body);
      if (mine !== asked) return;
      show(model, given, found.results[0]);
      if (found.truncated[0]) $("result").append(make("p", {class: "bad"}, "The text is longer than the model reads: a part of it has no share in this."));
    }
    $("status").textContent = `answered in ${Math.round(performance.now() - begun)} ms`;
    const short = JSON.stringify(body, (key, value) => (key === "image" ? "BASE64 OF A FILE" : value));
    $("command").textContent = `curl ${location.origin}/${path} -H 'Content-Type: application/json'${token ? " -H 'Authorization: Bearer TOKEN'" : ""} -d '${short.replaceAll("'", "'\\''")}'`;
    $("raw").textContent = JSON.stringify(found, null, 1);
    $("raw-field").hidden = false;
  } catch (error) {
    if (mine !== asked) return;
    $("status").className = "bad";
    $("status").textContent = error.message;
  } finally {
    if (mine === asked) $("ask").disabled = false;
  }
}

// A result is shown by what it has, so that a new task needs nothing here where its results look like those of another.
function show(model, given, result) {
  const parts = [];
  if (result.triples) parts.push(...triples(result));
  else if (result.entities) parts.push(...entities(model, given, result));
  else if (result.scores) parts.push(...scores(model, given, result));
  else if (result.value !== undefined) parts.push(make("p", {class: "shown"}, number(result.value)), whyButton(model, given, 0));
  else if (result.masks) parts.push(...masks(result));
  else if (result.answers) parts.push(...answers(given, result));
  else if (result.written !== undefined) parts.push(make("p", {class: "shown"}, result.written || "Nothing was written."));
  else if (result.tokens) parts.push(...tokens(result));
  else parts.push(make("pre", {}, JSON.stringify(result, null, 1)));
  $("result").append(...parts);
}

function marked(text, spans, label) {
  const letters = characters(text), shown = make("div", {class: "shown"});
  let end = 0;
  for (const span of [...spans].sort((a, b) => a.start - b.start || b.end - a.end)) {
    if (span.start < end) continue; // lies inside one before; the table below has it
    shown.append(letters.slice(end, span.start).join(""));
    shown.append(label(letters.slice(span.start, span.end).join(""), span));
    end = span.end;
  }
  shown.append(letters.slice(end).join(""));
  return shown;
}

function entities(model, given, result) {
  const kinds = kindsOf(model);
  const shown = marked(result.text, result.entities, (text, entity) => {
    const mark = make("mark", {}, text, make("small", {}, entity.type));
    mark.style.setProperty("--kind", colour(entity.type, kinds));
    return mark;
  });
  if (!result.entities.length) return [shown, make("p", {}, "No entities.")];
  const columns = [{name: "Entity"}, {name: "Type"}, {name: "Score", class: "n"}, {name: "Characters", class: "n"}, ...(model.explains ? [{name: "Why"}] : [])];
  const rows = result.entities.map((entity, i) => [entity.text, entity.type, number(entity.score), `${entity.start}-${entity.end}`, ...(model.explains ? [whyButton(model, given, i, entity.text)] : [])]);
  return [shown, table("Entities", columns, rows)];
}

function scores(model, given, result) {
  const ranked = Object.entries(result.scores).sort((a, b) => b[1] - a[1]).slice(0, 12);
  const chosen = result.labels || [result.label];
  const rows = ranked.map(([label, score]) => {
    const bar = make("div", {class: "bar", "aria-hidden": "true"});
    bar.style.width = `${Math.max(100 * score, 0)}%`;
    const why = model.explains && chosen.includes(label) ? whyButton(model, given, chosen.indexOf(label), label) : "";
    return [chosen.includes(label) ? make("strong", {}, label) : label, number(score), bar, why];
  });
  return [table("Classes", [{name: "Class"}, {name: "Probability", class: "n"}, {name: "", class: "wide"}, {name: model.explains ? "Why" : ""}], rows)];
}

function masks(result) {
  return result.masks.flatMap((mask, i) => [make("h2", {}, `Mask ${i + 1}`),
    table(`Mask ${i + 1}`, [{name: "Token"}, {name: "Probability", class: "n"}, {name: "", class: "wide"}],
      mask.candidates.map((each) => {
        const bar = make("div", {class: "bar", "aria-hidden": "true"});
        bar.style.width = `${100 * each.score}%`;
        return [each.token, number(each.score), bar];
      }))]);
}

function tokens(result) {
  return [make("p", {}, `Pseudo-perplexity ${number(result.pseudo_perplexity, 2)}. Write [MASK] to have a token filled in.`),
    table("Tokens", [{name: "Token"}, {name: "Log-probability", class: "n"}],
      [...result.tokens].sort((a, b) => a.log_probability - b.log_probability).slice(0, 12).map((each) => [each.token, number(each.log_probability)]))];
}

function answers(given, result) {
  const best = result.answer === null ? [] : [{start: result.start, end: result.end}];
  const shown = marked(given.pair, best, (text) => make("mark", {class: "answer"}, text, make("small", {}, "answer")));
  const rows = result.answers.map((each) => [each.text, number(each.score), `${each.start}-${each.end}`]);
  const columns = [{name: "Answer"}, {name: "Probability", class: "n"}, {name: "Characters", class: "n"}];
  return [make("p", {}, result.answer === null ? "The context seems to have no answer." : make("strong", {}, result.answer)), shown, table("Answers", columns, rows)];
}

function triples(result) {
  if (!result.triples.length) return [make("p", {}, "No relation was found.")];
  const columns = [{name: "Subject"}, {name: "Relation"}, {name: "Object"}, {name: "Score", class: "n"}];
  return [table("Relations", columns, result.triples.map((each) => [each.subject.text, each.relation, each.object.text, number(each.score)]))];
}

function showRanking(ranking) {
  $("result").append(table("Nearest texts", [{name: "Text"}, {name: "Similarity", class: "n"}], ranking.map((each) => [each.text, number(each.score)])));
}

function whyButton(model, given, index, of = "this") {
  if (!model.explains) return "";
  const button = make("button", {type: "button", "aria-label": `Why ${of}?`}, "why?");
  button.addEventListener("click", () => explain(model, given, index));
  return button;
}

async function explain(model, given, index) {
  const mine = ++asked;
  $("why").replaceChildren(make("p", {}, "asking why ..."));
  try {
    const found = await ask(`v1/models/${model.name}/explain`, {input: given});
    if (mine === asked) showWhy(given, found.targets[index]);
  } catch (error) {
    if (mine === asked) $("why").replaceChildren(make("p", {class: "bad"}, error.message));
  }
}

function showWhy(given, target) {
  if (!target) return $("why").replaceChildren(make("p", {}, "Only the first results are explained."));
  const name = target.type || target.label || "the number", value = target.probability ?? target.score;
  const most = Math.max(...target.words.map((word) => Math.abs(word.share)), 1e-9);
  const fields = [...new Set(target.words.map((word) => word.field))];
  const texts = fields.map((field) => marked(given[field], target.words.filter((word) => word.field === field), (text, word) => {
    const part = make("span", {class: "word", title: `${text}: ${number(word.share)}`}, text);
    part.style.backgroundColor = `rgba(var(${word.share >= 0 ? "--for" : "--against"}), ${0.65 * Math.abs(word.share) / most})`;
    return part;
  }));
  const strongest = [...target.words].sort((a, b) => Math.abs(b.share) - Math.abs(a.share)).slice(0, 8);
  const others = (target.alternatives || []).slice(0, 5).map((each) => `${each.label} ${number(each.score)}`).join(", ");
  $("why").replaceChildren(make("h2", {}, `Why ${name}?`),
    make("p", {class: "soft"}, `The model gives ${number(value)}; with every word masked it gives ${number(target.without)}. The words' shares add up to the difference: blue ones speak for ${name}, orange ones against it.`),
    ...texts,
    table("Shares of words", [{name: "Word"}, {name: "Share", class: "n"}], strongest.map((word) => [characters(given[word.field]).slice(word.start, word.end).join(""), (word.share > 0 ? "+" : "") + number(word.share)])),
    ...(others ? [make("p", {}, `Alternatives: ${others}`)] : []));
}

async function load() {
  try {
    models = (await ask("v1/models")).models;
  } catch (error) {
    $("status").className = "bad";
    $("status").textContent = error.message;
    return;
  }
  $("model").replaceChildren(...models.map((model) => make("option", {value: model.name}, model.name)));
  chooseModel();
}

$("model").addEventListener("change", chooseModel);
$("form").addEventListener("submit", submit);
$("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
$("examples").addEventListener("change", () => {
  const [text, pair] = EXAMPLES[kindOf(current())][Number($("examples").value)] || ["", ""];
  if ($("examples").value === "") return;
  $("text").value = text;
  $("pair").value = pair;
  $("form").requestSubmit();
});
$("image").addEventListener("change", () => {
  const file = $("image").files[0];
  $("preview").hidden = !file;
  if (file) $("preview").src = URL.createObjectURL(file);
});
load();
