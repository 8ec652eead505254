// ---- pictures of examples --------------------------------------------------------------------------------------------
const sheets = (D.pictures ? D.pictures.sheets : []).map(source => Object.assign(new Image(), {src: source}));
const told = i => "#" + D.ids[i] + ", label " + className(D.labels[i]);

function picture(i, c) {
  const {width, height, columns} = D.pictures, canvas = el("canvas", {width, height, role: "img", "aria-label": told(i)});
  const sheet = sheets[c] || sheets[0];
  canvas.getContext("2d").drawImage(sheet, (i % columns) * width, Math.floor(i / columns) * height, width, height, 0, 0, width, height);
  return canvas;
}

function answers(i, c) {
  return el("span", {class: "said"}, picked().flatMap((v, k) => {
    const text = short(className(says({v, c}, i)), 14), title = D.models[v].name;
    return [k ? " · " : "", el(isRight({v, c}, i) ? "span" : "b", {title, style: "display: inline"}, text)];
  }));
}

// ---- sample ----------------------------------------------------------------------------------------------------------
const PAGE = 36;

function ordered() {
  const by = {fragile: i => -fragility[i], margin: i => metric("margin", S.A, i), file: i => i}[S.order];
  return [...selected].sort((a, b) => by(a) - by(b) || a - b);
}

views.push(function sample() {
  const all = ordered(), last = Math.max(0, Math.ceil(all.length / PAGE) - 1);
  S.page = Math.min(S.page, last);
  const part = all.slice(S.page * PAGE, (S.page + 1) * PAGE);
  const names = picked().map(v => short(D.models[v].name, 24)).join(" · ");
  $("#sample-note").textContent = (part.length ? (S.page * PAGE + 1) + " to " + (S.page * PAGE + part.length) + " of " : "") + all.length +
    " selected examples under " + D.conditions[S.A.c].name + (D.pictures && !sheets[S.A.c] ? " (the pictures are the clean ones)" : "") +
    ". Below each its label, then the answers of " + names + "; wrong ones are bold." +
    (D.attribution ? " A click shows it in Geometric Attribution." : "");
  $("#previous").disabled = S.page === 0;
  $("#next").disabled = S.page === last;
  $("#sample .grid").replaceChildren(...(D.pictures ? part.map(tile) : [valueTable(part)]));
});

function tile(i) {
  return el("button", {type: "button", "data-key": "example " + i, "data-example": i, "aria-pressed": String(i === S.focus),
    onclick: () => set({focus: i})}, picture(i, S.A.c), el("span", {}, "label " + short(className(D.labels[i]), 16)), answers(i, S.A.c));
}

function valueTable(part) {
  const {names, of, values} = D.rows || {names: [], of: 0, values: []};
  const head = ["Example", "Label", "Answers", ...names].map(name => el("th", {scope: "col"}, name));
  const rows = part.map(i => el("tr", {"data-example": i, "aria-selected": String(i === S.focus), onclick: () => set({focus: i})},
    el("th", {scope: "row"}, "#" + D.ids[i]), el("td", {}, className(D.labels[i])), el("td", {}, answers(i, S.A.c)),
    (values[i] || []).map(x => el("td", {class: "number"}, plain(x)))));
  const caption = of > names.length ? "The first " + names.length + " of " + of + " columns, clean" : "Values, clean";
  const table = el("table", {class: "values"}, el("caption", {}, caption), el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows));
  return el("div", {class: "scroll", style: "grid-column: 1 / -1"}, table);
}

// ---- geometric attribution -------------------------------------------------------------------------------------------
const maps = D.attribution ? D.attribution.patches.map(patch => ({...patch, values: new Int8Array(bytes(patch.values).buffer),
  scales: new Float32Array(bytes(patch.scales).buffer)})) : [];

function mapOf(v, m) {
  const patch = maps[S.patch], cells = patch.rows * patch.columns, k = (v * D.attribution.examples.length + m) * 3 + S.metric;
  return Array.from(patch.values.subarray(k * cells, (k + 1) * cells), q => q / 127 * patch.scales[k]);
}

function heat(v, values, most, i) {
  const patch = maps[S.patch], cell = patch.side, {height: tall, width: across} = D.attribution;
  const over = svg("svg", {viewBox: "0 0 " + across + " " + tall, preserveAspectRatio: "none", role: "img",
    "aria-label": "Change of the " + METRICS[S.metric] + " of " + D.models[v].name + " where a patch is covered"});
  values.forEach((x, k) => over.append(svg("rect", {class: x > 0 ? "up" : "down", x: k % patch.columns * cell, y: Math.floor(k / patch.columns) * cell,
    width: cell, height: cell, "fill-opacity": (0.95 * Math.abs(x) / (most || 1)).toFixed(3)}, svg("title", {}, plain(x)))));
  const point = {v, c: 0};
  return el("figure", {}, el("div", {class: "stack"}, picture(i, 0), over), el("figcaption", {}, el("b", {}, short(D.models[v].name, 20)), el("br"),
    "says " + short(className(says(point, i)), 14) + ", " + METRICS[S.metric] + " " + plain(metric(METRICS[S.metric], point, i))));
}

function attribution() {
  const mapped = D.attribution.examples;
  if (S.focus < 0 || !mapped.includes(S.focus)) {
    const first = ordered().find(i => mapped.includes(i));
    if (S.focus < 0 && first !== undefined) S.focus = first;
  }
  const m = mapped.indexOf(S.focus), models = S.only >= 0 ? [S.only] : picked();
  options("only", [[-1, "all picked"], ...picked().map(v => [v, D.models[v].name])], S.only);
  const few = mapped.length < N ? " Maps are there for the " + mapped.length + " most fragile examples." : "";
  if (m < 0) {
    $("#attribution-note").textContent = (S.focus < 0 ? "No example is selected." : "There is no map of " + told(S.focus) + ".") + few;
    $("#attribution .maps").replaceChildren(...(S.focus < 0 ? [] : [el("figure", {}, el("div", {class: "stack"}, picture(S.focus, 0)))]));
    return;
  }
  const found = models.map(v => mapOf(v, m)), most = Math.max(...found.flat().map(Math.abs));
  const key = sign => el("span", {class: "keys", style: "background: var(" + (sign > 0 ? "--c1" : "--c2") + ")"});
  $("#attribution-note").replaceChildren(told(S.focus) + ", clean. Covering a patch with the training mean ", key(1), " raises or ", key(-1),
    " lowers the " + METRICS[S.metric] + ", by " + plain(most) + " at most." + few);
  const whole = el("figure", {}, el("div", {class: "stack"}, picture(S.focus, 0)), el("figcaption", {}, el("b", {}, "the image")));
  $("#attribution .maps").replaceChildren(whole, ...models.map((v, k) => heat(v, found[k], most, S.focus)));
}

// ---- start -----------------------------------------------------------------------------------------------------------
function start() {
  listen();
  near();
  $("#previous").addEventListener("click", () => set({page: S.page - 1}));
  $("#next").addEventListener("click", () => set({page: S.page + 1}));
  if (D.attribution) {
    views.unshift(attribution);  // first: it may choose the example that the other views mark
    options("patch", maps.map((patch, k) => [k, patch.side === 1 ? "1 pixel" : patch.side + " pixels"]), 0);
    for (const id of ["metric", "patch", "only"]) $("#" + id).addEventListener("change", e => set({[id]: Number(e.target.value)}));
  }
  let waiting;
  window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(draw, 120); });
  draw();
  document.documentElement.dataset.drawn = "yes";
}
Promise.all(sheets.map(sheet => sheet.decode())).then(start, start);
