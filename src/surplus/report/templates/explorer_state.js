// ---- data: arrays come as base64, in the order network, condition, example -------------------------------------------
const D = JSON.parse(document.getElementById("data").textContent);
const N = D.labels.length, V = D.models.length, C = D.conditions.length, METRICS = ["angle", "norm", "margin"];
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const prediction = new Uint16Array(bytes(D.prediction).buffer);
const classAngles = bytes(D.angles);
const steps = {};
METRICS.forEach(m => { steps[m] = new Uint16Array(bytes(D.metrics[m].words).buffer); });

const at = (point, i) => (point.v * C + point.c) * N + i;
const says = (point, i) => prediction[at(point, i)];
const isRight = (point, i) => says(point, i) === D.labels[i];
const metric = (name, point, i) =>
  D.metrics[name].low + (D.metrics[name].high - D.metrics[name].low) * steps[name][at(point, i)] / 65535;
const className = k => k < D.classes.length ? D.classes[k] : "output " + k;
const KINDS = [...new Set(D.conditions.map(c => c.kind))];
const METHODS = [...new Set(D.models.map(m => m.method))];
const methodColour = name => name === D.models[D.reference].method ? "var(--ink)"
  : "var(--c" + (METHODS.filter(m => m !== D.models[D.reference].method).indexOf(name) % 7 + 1) + ")";
const every = n => [...Array(n).keys()];

// ---- state: what is picked, compared, filtered and brushed -----------------------------------------------------------
const S = {
  models: new Set(every(V)), kinds: new Set(KINDS), A: {v: D.reference, c: 0},
  B: V > 1 ? {v: D.reference === V - 1 ? 0 : V - 1, c: 0} : C > 1 ? {v: 0, c: C - 1} : null,
  nextPick: "A", klass: -1, show: "all", lasso: null, ranges: {}, under: "A", sort: {key: "", down: true},
  size: "severity", arrows: true, focus: -1, metric: 2, patch: 0, only: -1, order: "fragile", page: 0,
};
let shown = [], selected = new Set();  // examples that the class and the menu admit; those that the brushes leave
const views = [];

const fragility = every(N).map(i => {
  let changed = 0;
  for (let v = 0; v < V; v++) for (let c = 1; c < C; c++) changed += says({v, c}, i) !== says({v, c: 0}, i);
  return C > 1 ? changed / V / (C - 1) : 0;
});

function admits(i) {
  if (S.klass >= 0 && D.labels[i] !== S.klass) return false;
  const a = isRight(S.A, i), b = S.B ? isRight(S.B, i) : a;
  return {all: true, wrong: !a, lost: a && !b, gained: !a && b, changed: S.B && says(S.A, i) !== says(S.B, i)}[S.show];
}

function choose() {
  const point = S.under === "B" && S.B ? S.B : S.A;
  shown = every(N).filter(admits);
  selected = new Set(shown.filter(i => (!S.lasso || S.lasso.has(i)) && Object.keys(S.ranges).every(key => {
    const x = axisValue(key, point, i);
    return x >= S.ranges[key][0] && x <= S.ranges[key][1];
  })));
}

const brushed = () => S.lasso !== null || Object.keys(S.ranges).length > 0;
const narrowed = () => selected.size < N;
const picked = () => every(V).filter(v => S.models.has(v));
const isPicked = (v, c) => S.models.has(v) && S.kinds.has(D.conditions[c].kind);

function axisValue(key, point, i) {
  if (METRICS.includes(key)) return metric(key, point, i);
  return classAngles[at(point, i) * D.axes.length + Number(key)] * 180 / 255;  // the key of a class is its place in D.axes
}

function accuracy(v, c, examples) {
  let right = 0;
  for (const i of examples) right += isRight({v, c}, i);
  return examples.length ? right / examples.length : NaN;
}

// ---- page: elements hold text, never markup --------------------------------------------------------------------------
const $ = selector => document.querySelector(selector);
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter(child => child !== null && child !== false && child !== undefined));
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const percent = x => Number.isFinite(x) ? (100 * x).toFixed(1) : "–";
const short = (text, most) => text.length > most ? text.slice(0, most - 1) + "…" : text;
const plain = x => Number(x.toPrecision(3)).toString().replace("-", "−");

function plot(view, width, height, label) {
  const drawing = svg("svg", {viewBox: "0 0 " + width + " " + height, height, role: "img", "aria-label": label});
  $("#" + view + " .plot").replaceChildren(drawing);
  return drawing;
}
const wide = view => Math.max(280, $("#" + view + " .plot").clientWidth);
const scale = (low, high, from, to) => x => from + (to - from) * (high > low ? (x - low) / (high - low) : 0.5);

function ticks(low, high, about) {
  const rough = (high - low) / about || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(m => m * power >= rough);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high + step / 1e6; k++) found.push(k * step);
  return found;
}

function legend(view, entries) {
  $("#" + view + " .legend").replaceChildren(...entries.map(([mark, text]) => el("li", {},
    svg("svg", {class: "key", viewBox: "0 0 16 12", width: 16, height: 12, "aria-hidden": "true"}, mark), text)));
}

function options(id, entries, value) {
  const menu = $("#" + id);
  menu.replaceChildren(...entries.map(([key, text]) => el("option", {value: key}, short(text, 40))));
  menu.value = String(value);
}

// ---- drawing: every change draws every view again; the focus stays with what had it -----------------------------------
function draw() {
  choose();
  menus();
  const key = document.activeElement && document.activeElement.dataset.key;
  views.forEach(view => view());
  if (key) {
    const same = [...document.querySelectorAll("[data-key]")].find(node => node.dataset.key === key);
    if (same) same.focus({preventScroll: true});
  }
}

function set(change) {
  Object.assign(S, change);
  draw();
}

function pick(kind, key) {
  const chosen = S[kind];
  if (!chosen.delete(key)) chosen.add(key);
  if (!S.models.size) S.models.add(key);
  for (const name of ["A", "B"]) {
    if (S[name] && !S.models.has(S[name].v)) S[name] = {...S[name], v: picked()[0]};
    if (S[name] && !S.kinds.has(D.conditions[S[name].c].kind)) S[name] = {...S[name], c: 0};
  }
  if (S.only >= 0 && !S.models.has(S.only)) S.only = -1;
  draw();
}

function menus() {
  const models = picked().map(v => [v, D.models[v].name]);
  const conditions = every(C).filter(c => S.kinds.has(D.conditions[c].kind)).map(c => [c, D.conditions[c].name]);
  options("model-A", models, S.A.v);
  options("condition-A", conditions, S.A.c);
  options("model-B", [[-1, "nothing"], ...models], S.B ? S.B.v : -1);
  options("condition-B", conditions, S.B ? S.B.c : 0);
  $("#condition-B").disabled = !S.B;
  $("#show").value = S.show;
  $("#clear").disabled = !brushed();
  $("#count").textContent = selected.size + " of " + N + " examples" + (brushed() ? ", brushed" : "");
}

function listen() {
  const on = (id, change) => $("#" + id).addEventListener("change", event => set(change(event.target)));
  on("model-A", menu => ({A: {...S.A, v: Number(menu.value)}}));
  on("condition-A", menu => ({A: {...S.A, c: Number(menu.value)}}));
  on("model-B", menu => ({B: menu.value === "-1" ? null : {v: Number(menu.value), c: S.B ? S.B.c : S.A.c}}));
  on("condition-B", menu => ({B: {...S.B, c: Number(menu.value)}}));
  on("klass", menu => ({klass: Number(menu.value), page: 0}));
  on("show", menu => ({show: menu.value, page: 0}));
  on("size", menu => ({size: menu.value}));
  on("under", menu => ({under: menu.value}));
  on("order", menu => ({order: menu.value, page: 0}));
  on("arrows", box => ({arrows: box.checked}));
  $("#clear").addEventListener("click", () => set({lasso: null, ranges: {}, page: 0}));
  const present = [...new Set(D.labels)].sort((a, b) => a - b);
  options("klass", [[-1, "all"], ...present.map(k => [k, className(k)])], -1);
}
