// ---- evaluation table ------------------------------------------------------------------------------------------------
function tableRows() {
  const examples = [...selected];
  const rows = every(V).map(v => {
    const of = D.conditions.map((_, c) => accuracy(v, c, examples)), cells = {};
    KINDS.forEach(kind => { cells[kind] = of.filter((_, c) => D.conditions[c].kind === kind); });
    const mean = list => list.reduce((a, b) => a + b, 0) / list.length;
    const values = {name: D.models[v].name, method: D.models[v].method, density: D.models[v].density};
    KINDS.forEach(kind => { values["kind " + kind] = mean(cells[kind]); });
    const corrupted = KINDS.filter(kind => kind !== "clean" && S.kinds.has(kind));
    values.robust = mean(corrupted.map(kind => values["kind " + kind]));
    return {v, cells, values};
  });
  const {key, down} = S.sort;
  if (!key) return rows;
  const order = (a, b) => typeof a === "string" ? a.localeCompare(b) : (Number.isNaN(a) ? -1 : a) - (Number.isNaN(b) ? -1 : b);
  return rows.sort((a, b) => (down ? -1 : 1) * order(a.values[key], b.values[key]) || a.v - b.v);
}

function heading(key, text, kind) {
  const sorted = S.sort.key === key ? (S.sort.down ? "descending" : "ascending") : null;
  const box = kind && kind !== "clean" && el("input", {type: "checkbox", "data-key": "pick " + kind, "aria-label":
    "Show " + kind + " in all views", checked: S.kinds.has(kind), onchange: () => pick("kinds", kind)});
  const sort = () => set({sort: {key, down: S.sort.key === key ? !S.sort.down : !["name", "method"].includes(key)}});
  return el("th", {scope: "col", "aria-sort": sorted}, box, el("button", {type: "button", "data-key": "sort " + key,
    onclick: sort}, text + (sorted ? (S.sort.down ? " ↓" : " ↑") : "")));
}

function cell(values, value, reference) {
  const change = value - reference, told = Math.abs(change) >= 0.0005;
  const td = el("td", {class: "cell" + (told ? (change > 0 ? " gain" : " loss") : "")},
    el("span", {class: "bars", "aria-hidden": "true"}, values.map(x => {
      const bar = el("i");
      bar.style.height = (Number.isFinite(x) ? 100 * x : 0) + "%";
      return bar;
    })), percent(value), el("span", {class: "change"}, told ? (change > 0 ? "+" : "−") + (100 * Math.abs(change)).toFixed(1) : ""));
  td.style.setProperty("--much", Math.min(45, 6 + 150 * Math.abs(change)).toFixed(0));
  return td;
}

views.push(function table() {
  const rows = tableRows(), dense = rows.find(row => row.v === D.reference);
  const kinds = KINDS.map(kind => heading("kind " + kind, kind, kind));
  const head = el("tr", {}, heading("name", "Network"), heading("method", "Method"), heading("density", "Density"), kinds,
    KINDS.length > 1 && heading("robust", "robust"));
  const body = rows.map(({v, cells, values}) => el("tr", {class: S.models.has(v) ? null : "off"},
    el("th", {scope: "row"}, el("input", {type: "checkbox", "data-key": "model " + v, "aria-label":
      "Show " + values.name + " in all views", checked: S.models.has(v), onchange: () => pick("models", v)}), short(values.name, 40)),
    el("td", {}, values.method), el("td", {}, plain(100 * values.density) + "%"),
    KINDS.map(kind => cell(cells[kind], values["kind " + kind], dense.values["kind " + kind])),
    KINDS.length > 1 && cell([values.robust], values.robust, dense.values.robust)));
  $("#table .scroll").replaceChildren(el("table", {}, el("thead", {}, head), el("tbody", {}, body)));
  $("#table-note").textContent = "Accuracy in percent over " + (narrowed() ? "the " + selected.size + " selected" : "all " + N) +
    " examples, a bar per severity; after it the gain or loss against " + D.models[D.reference].name +
    ". The boxes pick networks and corruptions for all views; robust is the mean over the picked corruptions.";
});

// ---- geometric similarity --------------------------------------------------------------------------------------------
function nodeRadius(v, c, examples) {
  if (S.size === "density") return 3 + 7 * Math.sqrt(D.models[v].density);
  if (S.size === "accuracy") return 3 + 7 * (accuracy(v, c, examples) || 0);
  return D.conditions[c].severity ? 3 + D.conditions[c].severity : 5.5;
}

const pairName = point => D.models[point.v].name + ", " + D.conditions[point.c].name;

views.push(function similarity() {
  const width = wide("similarity"), height = 360, pad = 24, examples = [...selected], places = D.map.places;
  const drawing = plot("similarity", width, height, V * C + " networks under conditions, near ones alike");
  const xs = places.map(p => p[0]), ys = places.map(p => p[1]);
  const middle = list => (Math.min(...list) + Math.max(...list)) / 2, spread = list => Math.max(...list) - Math.min(...list);
  const unit = Math.min((width - 2 * pad) / (spread(xs) || 1), (height - 2 * pad) / (spread(ys) || 1));
  const x = p => width / 2 + (xs[p] - middle(xs)) * unit, y = p => height / 2 - (ys[p] - middle(ys)) * unit;
  const on = p => isPicked(Math.floor(p / C), p % C);
  D.map.edges.forEach(([p, q]) => drawing.append(svg("line", {class: "edge" + (on(p) && on(q) ? "" : " faint"),
    x1: x(p), y1: y(p), x2: x(q), y2: y(q)})));
  every(V * C).sort((p, q) => (p % C === 0) - (q % C === 0)).forEach(p => {  // clean ones on top
    const v = Math.floor(p / C), c = p % C, point = {v, c};
    const choosePoint = () => on(p) && set({[S.nextPick]: point, nextPick: S.nextPick === "A" ? "B" : "A"});
    const r = nodeRadius(v, c, examples), square = c === 0, shape = square
      ? svg("rect", {x: x(p) - r, y: y(p) - r, width: 2 * r, height: 2 * r}) : svg("circle", {cx: x(p), cy: y(p), r});
    drawing.append(fill(shape, {class: "node" + (on(p) ? "" : " faint"), fill: methodColour(D.models[v].method),
      "data-point": v + " " + c, onclick: choosePoint}, [svg("title", {}, pairName(point) + ": " +
      percent(accuracy(v, c, examples)) + "% right")]));
  });
  for (const name of ["B", "A"]) {
    if (!S[name]) continue;
    const p = S[name].v * C + S[name].c;
    drawing.append(svg("circle", {class: "ring", cx: x(p), cy: y(p), r: nodeRadius(S[name].v, S[name].c, examples) + 5}),
      svg("text", {class: "pick", x: x(p) + 12, y: y(p) - 9}, name));
  }
  legend("similarity", [...METHODS.map(m => [svg("circle", {cx: 8, cy: 6, r: 5, fill: methodColour(m)}), short(m, 30)]),
    [svg("rect", {x: 3, y: 1, width: 10, height: 10, fill: "var(--grey)"}), "clean"]]);
  $("#similarity-note").textContent = "Each point is a network under a condition, placed by " + D.map.method +
    " of all angles, norms and margins; lines are the minimum spanning tree. A click sets " + S.nextPick + ".";
});

function near() {
  const rows = D.redundant.slice(0, 8).map(row => el("li", {}, row.first + " and " + row.second + ": " + row.ratio.toFixed(2),
    row.redundant && el("b", {}, " much the same")));
  $("#similarity .near").replaceChildren(rows.length ? el("ul", {}, rows) : "There are fewer than two corruptions.",
    el("p", {class: "note"}, "Distance between two corruptions over their mean distance from clean data, mean over networks" +
      " and severities; below 0.5 counts as much the same."));
}

// ---- local geometry --------------------------------------------------------------------------------------------------
const markClass = (point, i) => (isRight(point, i) ? "right" : "wrong") + (selected.has(i) ? " in" : " out") + (i === S.focus ? " focus" : "");

function arrow(x1, y1, x2, y2, kind) {
  const long = Math.hypot(x2 - x1, y2 - y1), k = Math.min(6, long / 2) / (long || 1);
  const [dx, dy] = [(x2 - x1) * k, (y2 - y1) * k];
  const head = (turn) => "M" + x2 + " " + y2 + "L" + (x2 - dx - turn * dy * 0.5) + " " + (y2 - dy + turn * dx * 0.5);
  return svg("path", {class: "arrow " + kind + (narrowed() ? " few" : ""), d: "M" + x1 + " " + y1 + "L" + x2 + " " + y2 + head(1) + head(-1)});
}

views.push(function local() {
  const width = wide("local"), height = 360, points = S.B ? [S.A, S.B] : [S.A];
  const extent = name => {
    const all = points.flatMap(p => every(N).map(i => metric(name, p, i)));
    return [all.reduce((a, b) => Math.min(a, b)), all.reduce((a, b) => Math.max(a, b))];
  };
  const [angles, norms] = [extent("angle"), extent("norm")];
  const sx = scale(...angles, 48, width - 12), sy = scale(...norms, height - 42, 12);
  const x = (p, i) => sx(metric("angle", p, i)), y = (p, i) => sy(metric("norm", p, i));
  const drawing = plot("local", width, height, "Angle and norm of " + shown.length + " examples, " + selected.size + " selected");
  drawing.append(svg("rect", {class: "handle", width, height, style: "cursor: crosshair"}));
  axes(drawing, width, height, sx, sy, angles, norms);
  const drawn = [...shown].sort((a, b) => selected.has(a) - selected.has(b));
  if (S.B && S.arrows) drawn.forEach(i => drawing.append(arrow(x(S.A, i), y(S.A, i), x(S.B, i), y(S.B, i), markClass(S.B, i))));
  drawn.forEach(i => drawing.append(svg("circle", {class: "mark " + markClass(S.A, i), cx: x(S.A, i), cy: y(S.A, i), r: 3.5,
    "data-example": i}, svg("title", {}, "#" + D.ids[i] + ", label " + className(D.labels[i]) + ", A says " + className(says(S.A, i))))));
  legend("local", [[svg("circle", {class: "mark right", cx: 8, cy: 6, r: 4}), "right under A"],
    [svg("circle", {class: "mark wrong", cx: 8, cy: 6, r: 4}), "wrong under A"],
    ...(S.B && S.arrows ? [[svg("path", {class: "arrow right", d: "M1 6H15M11 3L15 6L11 9", style: "opacity: 1"}), "to where B has it, by B's answer"]] : [])]);
  lasso(drawing, i => [x(S.A, i), y(S.A, i)]);
});

function axes(drawing, width, height, sx, sy, angles, norms) {
  ticks(...angles, 6).forEach(t => drawing.append(svg("line", {class: "axis", x1: sx(t), x2: sx(t), y1: 12, y2: height - 38}),
    svg("text", {x: sx(t), y: height - 24, "text-anchor": "middle"}, plain(t) + "°")));
  ticks(...norms, 5).forEach(t => drawing.append(svg("line", {class: "axis", x1: 44, x2: width - 12, y1: sy(t), y2: sy(t)}),
    svg("text", {x: 40, y: sy(t) + 4, "text-anchor": "end"}, plain(t))));
  drawing.append(svg("text", {x: width - 12, y: height - 6, "text-anchor": "end"}, "angle to the true class"),
    svg("text", {x: 0, y: 8}, "norm"));
}

function inside([x, y], loop) {
  let found = false;
  loop.forEach(([x1, y1], k) => {
    const [x2, y2] = loop[(k || loop.length) - 1];
    if (y1 > y !== y2 > y && x < (x2 - x1) * (y - y1) / (y2 - y1) + x1) found = !found;
  });
  return found;
}

function drag(drawing, target, begin, move, end) {
  target.addEventListener("pointerdown", event => {
    const where = e => { const box = drawing.getBoundingClientRect(); return [e.clientX - box.left, e.clientY - box.top]; };
    const onMove = e => move(where(e));
    event.preventDefault();
    begin(where(event));
    document.addEventListener("pointermove", onMove);
    document.addEventListener("pointerup", e => { document.removeEventListener("pointermove", onMove); end(where(e)); }, {once: true});
  });
}

function lasso(drawing, place) {
  let loop, trace;
  drag(drawing, drawing, p => { loop = [p]; trace = drawing.appendChild(svg("polygon", {class: "lasso"})); },
    p => { loop.push(p); trace.setAttribute("points", loop.map(q => q.join(",")).join(" ")); },
    () => {
      const tall = k => Math.max(...loop.map(p => p[k])) - Math.min(...loop.map(p => p[k]));
      const loopy = loop.length > 2 && tall(0) + tall(1) > 12;
      const hit = !loopy && shown.find(i => Math.hypot(place(i)[0] - loop[0][0], place(i)[1] - loop[0][1]) < 6);
      if (loopy) set({lasso: new Set(shown.filter(i => inside(place(i), loop))), page: 0});
      else if (Number.isInteger(hit)) set({focus: hit});
      else set({lasso: null});
    });
}

// ---- global geometry: parallel axes ----------------------------------------------------------------------------------
views.push(function global() {
  const point = S.under === "B" && S.B ? S.B : S.A, width = wide("global"), height = 360, top = 46, bottom = height - 22;
  const keys = [...D.axes.map((_, k) => String(k)), ...METRICS];
  const span = keys => {
    const all = keys.flatMap(key => every(N).map(i => axisValue(key, point, i)));
    return [all.reduce((a, b) => Math.min(a, b)), all.reduce((a, b) => Math.max(a, b))];
  };
  const classes = keys.slice(0, -METRICS.length), common = span(classes);  // one range, so that classes compare
  const bounds = key => classes.includes(key) ? common : span([key]);
  const xs = keys.map((_, k) => 24 + (width - 48) * k / (keys.length - 1));
  const limits = keys.map(bounds), ys = limits.map(pair => scale(...pair, bottom, top));
  const drawing = plot("global", width, height, "Angles to each class, angle, norm and margin of " + selected.size + " examples");
  const drawn = [...shown].sort((a, b) => selected.has(a) - selected.has(b) || isRight(point, b) - isRight(point, a));
  drawn.forEach(i => drawing.append(svg("path", {class: "line " + markClass(point, i), "data-example": i, d: "M" + keys.map((key, k) =>
    xs[k].toFixed(1) + " " + ys[k](axisValue(key, point, i)).toFixed(1)).join("L")})));
  keys.forEach((key, k) => axisBrush(drawing, key, xs[k], ys[k], limits[k], top, bottom, Math.floor((width - 48) / keys.length / 6.5)));
  const some = D.axes.length < D.outputs ? " The " + D.axes.length + " classes most often confused have an axis." : "";
  $("#global-note").textContent = "Angle to each class, from " + plain(common[0]) + "° to " + plain(common[1]) +
    "°, then the three metrics, under " + (point === S.A ? "A" : "B") +
    ". Drag along an axis to select, click it to let go; Enter on an axis takes its lowest quarter, then its highest, then all." + some;
});

function axisBrush(drawing, key, x, y, [low, high], top, bottom, room) {
  const name = METRICS.includes(key) ? key : className(D.axes[Number(key)]);
  const handle = svg("rect", {class: "handle", x: x - 9, y: top - 8, width: 18, height: bottom - top + 16, "data-axis": key,
    "data-key": "axis " + key, tabindex: 0, role: "button", "aria-label": "Axis " + name + (S.ranges[key] ? ", brushed" : "")});
  const shade = svg("rect", {class: "brush", x: x - 6, width: 12});
  const paint = (a, b) => { shade.setAttribute("y", Math.min(a, b)); shade.setAttribute("height", Math.abs(a - b)); };
  const ends = METRICS.includes(key) && room > 4 ? [plain(high), plain(low)] : [];
  drawing.append(svg("line", {class: "axis", x1: x, x2: x, y1: top, y2: bottom, style: "stroke: var(--muted)"}),
    svg("text", {x, y: top - 26, "text-anchor": "middle"}, short(name, Math.max(3, room)), svg("title", {}, name)));
  ends.forEach((text, k) => drawing.append(svg("text", {x, y: k ? bottom + 16 : top - 10, "text-anchor": "middle"}, text)));
  if (S.ranges[key]) paint(y(S.ranges[key][0]), y(S.ranges[key][1]));
  drawing.append(shade, handle);
  const value = p => low + (high - low) * Math.min(1, Math.max(0, (bottom - p) / (bottom - top)));
  const quarter = (high - low) / 4, held = S.ranges[key];
  handle.addEventListener("keydown", event => {
    if (event.key !== "Enter") return;
    const {[key]: _, ...others} = S.ranges;
    const next = !held ? [low, low + quarter] : held[0] === low ? [high - quarter, high] : null;
    set({ranges: next ? {...others, [key]: next} : others, page: 0});
  });
  let from;
  drag(drawing, handle, p => { from = p[1]; }, p => paint(from, p[1]), p => {
    const ranges = {...S.ranges};
    delete ranges[key];
    if (Math.abs(p[1] - from) > 4) ranges[key] = [value(Math.max(from, p[1])), value(Math.min(from, p[1]))];
    set({ranges, page: 0});
  });
}
