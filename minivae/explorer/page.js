"use strict";
// What the controls do. `explorer` holds all that can change: z, what the model is told, and which points are looked at.

const explorer = {};
const find = (id) => document.getElementById(id);
const STEPS = { image: 9, series: 9, table: 5 }; // of the walk between two points

async function start() {
  const about = JSON.parse(find("contents").textContent), { model } = about;
  const arrays = await unpack(about.packed, about.arrays), { row } = arrays;
  delete about.packed;
  Object.assign(explorer, { about, model, arrays, decoder: new Decoder(model, arrays), ends: [], shown: null });
  explorer.z = new Float64Array(model.latent);
  explorer.drawable = row ? Math.floor(arrays.x.length / columns()) : 0;
  explorer.order = about.kl.map((_, j) => j).sort((a, b) => about.kl[b] - about.kl[a]);
  explorer.side = startSide(model.condition);
  explorer.colour = 0; // the field of a table that the background shows
  explorer.mean = (z, side = explorer.side) => explorer.decoder.mean(z, side);
  explorer.paintCell = paintCell;
  document.title = `${about.title} \u2013 minivae explorer`;
  find("title").textContent = about.title;
  find("subtitle").textContent = [model.layers[0][1], ...model.layers.map((layer) => layer[2])].reverse().join(" \u2013 ");
  document.querySelector("main").hidden = false;
  explorer.view = VIEWS[about.kind](about, "Mean of p(x|z)");
  find("mean").append(explorer.view.element);
  for (const part of [find("pair"), document.querySelector(".now")]) part.classList.toggle("wide", about.kind !== "image");
  explorer.plane = new Plane(find("plane"), explorer, { move, hover: look, choose });
  find("plane").classList.toggle("flat", model.latent === 1);
  tabs();
  colourPoints();
  axes();
  plane();
  told();
  examples();
  walk();
  training();
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", () => { colourPoints(); explorer.plane.forget(); explorer.plane.redraw(); render(); });
  takeDims(explorer.order.slice(0, 2).sort((a, b) => a - b));
}

const columns = () => explorer.model.runs.reduce((sum, [, , count]) => sum + count, 0);

// ---- Rows of the data, and what the model was told of them

function original(i) {
  const { about, arrays, model } = explorer, D = columns(), row = arrays.x.subarray(i * D, (i + 1) * D);
  if (about.bytes) return Float64Array.from(row, (value) => value / about.bytes);
  return Float64Array.from(row, (value, d) => (model.shift ? model.shift[d] + model.scale[d] * value : value));
}

const embedded = (i) => explorer.arrays.mu.subarray(i * explorer.model.latent, (i + 1) * explorer.model.latent);

function sideOf(i) {
  const { model: { condition }, arrays: { side } } = explorer;
  if (!condition) return [];
  const width = condition.classes.length || condition.shift.length;
  return side instanceof Uint16Array ? oneHot(side[i], width) : side.subarray(i * width, (i + 1) * width);
}

const oneHot = (place, width) => Float64Array.from({ length: width }, (_, i) => (i === place ? 1 : 0));
const startSide = (condition) => (!condition ? [] : condition.classes.length ? oneHot(0, condition.classes.length) : new Float64Array(condition.shift.length));

// ---- Colours of points, and their legend

function colourPoints() {
  const { about: { labels, palette }, arrays: { label, row } } = explorer, n = row ? row.length : 0;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const seen = (colour) => { // the palette is made for white paper
    const light = (0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]) / 255;
    return css(dark && light < 0.45 ? mix(colour, [255, 255, 255], 0.45 - 0.6 * light) : colour);
  };
  const classes = labels?.classes ?? [], few = classes.length <= palette.length;
  const [low, high] = classes.length ? [0, classes.length - 1] : labels?.range ?? [0, 0];
  const one = (value) => {
    if (!labels) return style("--accent");
    if (Number.isNaN(value)) return style("--faint");
    return classes.length && few ? seen(rgb(palette[value])) : css(onScale((value - low) / (high - low || 1)));
  };
  explorer.colours = Array.from({ length: n }, (_, i) => one(label?.[i]));
  const legend = find("legend");
  legend.replaceChildren(...classes.map((name, code) => {
    const dot = make("span", { class: "dot" });
    dot.style.background = one(code);
    return make("span", {}, dot, name);
  }));
  if (labels && !classes.length) {
    const scale = make("canvas", { width: 160, height: 1 }), context = scale.getContext("2d");
    for (let i = 0; i < 160; i++) { context.fillStyle = css(onScale(i / 159)); context.fillRect(i, 0, 1, 1); }
    legend.append(make("span", {}, number(low), scale, number(high)));
  }
  find("dots-toggle").hidden = find("example").hidden = find("walk").hidden = !n;
}

// ---- The plane and its controls

function paintCell(canvas, x, y) {
  const { about, z, dims } = explorer, at = Float64Array.from(z);
  at[dims[0]] = x;
  if (dims.length > 1) at[dims[1]] = y;
  const mean = explorer.mean(at);
  if (about.kind === "image") return paintImage(canvas, mean, about);
  if (about.kind === "series") {
    const context = fitted(canvas, 144, 144);
    context.clearRect(0, 0, 144, 144);
    context.translate(12, 20);
    return paintLine(context, mean, about.range, 120, 104, style("--faint"), 1.5);
  }
  const field = about.fields[explorer.colour], [low, high] = field.range;
  [canvas.width, canvas.height] = [1, 1];
  const context = canvas.getContext("2d"), shade = mix(rgb(style("--paper")), rgb(style("--accent")), 0.05 + 0.75 * Math.min(Math.max((mean[field.at + (field.shown ?? 0)] - low) / (high - low || 1), 0), 1));
  context.fillStyle = css(shade);
  context.fillRect(0, 0, 1, 1);
}

function takeDims(dims) {
  explorer.dims = dims;
  explorer.plane.take(dims);
  document.querySelectorAll("#axes select.axis").forEach((select, k) => { select.value = dims[k]; });
  sliders();
  moved();
}

function choice(label, names, value, change, kind = "") {
  const select = make("select", { class: kind, onchange: () => change(Number(select.value)) });
  select.append(...names.map((name, i) => make("option", { value: i }, name)));
  select.value = value;
  return make("label", {}, label, select);
}

function axes() {
  const { model: { latent }, about, order } = explorer, names = Array.from({ length: latent }, (_, j) => `z${j + 1}`);
  const change = (k) => (j) => {
    const dims = [...explorer.dims];
    if (dims[1 - k] === j) dims[1 - k] = dims[k];
    dims[k] = j;
    takeDims(dims);
  };
  if (latent > 2) ["Across", "Up"].forEach((label, k) => find("axes").append(choice(label, names, order[k], change(k), "axis")));
  if (about.kind === "table") {
    const shades = about.fields.flatMap((field, i) => (field.kind === "category" ? field.values.map((value, shown) => [i, shown, `${field.name}: ${value}`]) : [[i, 0, field.kind === "binary" ? `${field.name}: ${field.values[1]}` : field.name]]));
    const shade = (k) => {
      [explorer.colour, about.fields[shades[k][0]].shown] = shades[k];
      explorer.plane.stale();
    };
    find("axes").append(choice("Shade", shades.map(([, , name]) => name), 0, shade));
    find("background-name").textContent = "Shading";
  }
}

function plane() {
  const { plane } = explorer;
  const toggle = (id, set) => find(id).addEventListener("change", (event) => { set(event.target.checked); plane.redraw(); });
  toggle("background", (on) => { plane.background = on; });
  toggle("dots", (on) => { plane.dots = on; });
  toggle("pan", (on) => { plane.panning = on; plane.root.classList.toggle("pans", on); });
  const click = (id, act) => find(id).addEventListener("click", act);
  click("in", () => plane.zoom(1 / 1.4));
  click("out", () => plane.zoom(1.4));
  click("home", () => plane.home());
  click("zero", () => setZ(new Float64Array(explorer.z.length)));
  click("random", () => setZ(explorer.z.map(() => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()))));
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const keys = { "+": () => plane.zoom(1 / 1.4), "=": () => plane.zoom(1 / 1.4), "-": () => plane.zoom(1.4), 0: () => plane.home() };
  Object.assign(keys, { n: () => step(1), p: () => step(-1), Enter: () => explorer.shown !== null && choose(explorer.shown) });
  plane.root.addEventListener("keydown", (event) => {
    const [right, up] = steps[event.key] ?? [];
    if (event.ctrlKey || event.metaKey || event.altKey || (right === undefined && !keys[event.key])) return;
    event.preventDefault();
    if (right === undefined) return keys[event.key]();
    const far = (plane.view.radius / 40) * (event.shiftKey ? 5 : 1), { z, dims } = explorer;
    const [x, y] = [z[dims[0]] + far * right, (z[dims[1]] ?? 0) + far * up];
    move(x, y);
    plane.follow(x, y);
  });
}

function move(x, y) {
  const { z, dims } = explorer;
  z[dims[0]] = x;
  if (dims.length > 1) z[dims[1]] = y;
  moved();
}

// A whole new z: the background is of other latents than before.
function setZ(z) {
  explorer.z = Float64Array.from(z);
  const { plane, dims } = explorer;
  if (z.length > 2) plane.stale();
  plane.follow(z[dims[0]], z[dims[1]] ?? 0);
  moved();
}

// z has moved: once a frame, what depends on it is drawn.
function moved() {
  explorer.frame ||= requestAnimationFrame(render);
}

function render() {
  const { z, plane, view, order } = explorer;
  explorer.frame = 0;
  view.show(explorer.mean(z));
  plane.drawTop();
  const some = order.slice(0, 4).sort((a, b) => a - b);
  find("where").textContent = some.map((j) => `z${j + 1} = ${z[j].toFixed(2).replace("-", "\u2212")}`).join(",  ");
  document.querySelectorAll("#sliders input").forEach((input) => {
    input.value = z[input.dataset.latent];
    input.nextSibling.textContent = z[input.dataset.latent].toFixed(2).replace("-", "\u2212");
  });
}

// A slider for every latent that the plane does not show, the most used first.
function sliders() {
  const { arrays: { mu }, model: { latent }, order, dims, plane } = explorer;
  find("sliders").replaceChildren(...order.filter((j) => !dims.includes(j)).map((j) => {
    let far = 4;
    for (let at = j; mu && at < mu.length; at += latent) far = Math.max(far, Math.ceil(Math.abs(mu[at])));
    const input = make("input", { type: "range", min: -far, max: far, step: 0.01, "data-latent": j, "aria-label": `z${j + 1}` });
    input.addEventListener("input", () => {
      explorer.z[j] = Number(input.value);
      plane.stale();
      moved();
    });
    return make("label", {}, `z${j + 1}`, input, make("output", {}));
  }));
}

// What a conditional model is told: a class, or numbers.
function told() {
  const { condition } = explorer.model;
  if (!condition) return;
  const changed = () => { explorer.plane.stale(); moved(); };
  if (condition.classes.length) {
    const row = choice("Told", condition.classes, 0, (k) => { explorer.side = oneHot(k, condition.classes.length); changed(); });
    row.className = "told-row";
    find("told").append(row);
  } else {
    condition.shift.forEach((shift, k) => {
      const input = make("input", { type: "range", min: -3, max: 3, step: 0.01, value: 0, "aria-label": `told number ${k + 1}` });
      const output = make("output", {}, number(shift));
      input.addEventListener("input", () => {
        explorer.side[k] = Number(input.value);
        output.textContent = number(shift + condition.scale[k] * explorer.side[k]);
        changed();
      });
      find("told").append(make("label", { class: "number" }, condition.shift.length > 1 ? `Told ${k + 1}` : "Told", input, output));
    });
  }
}

function takeSide(side) {
  explorer.side = Float64Array.from(side);
  const { condition } = explorer.model, inputs = find("told").querySelectorAll("input"), select = find("told").querySelector("select");
  if (select) select.value = side.indexOf(1);
  inputs.forEach((input, k) => {
    input.value = side[k];
    input.nextSibling.textContent = number(condition.shift[k] + condition.scale[k] * side[k]);
  });
}

// ---- Examples: the original beside its reconstruction

function examples() {
  const { about, drawable } = explorer, image = about.kind === "image";
  if (!drawable) return;
  const caption = (text) => make("figcaption", {}, text);
  explorer.reconstructed = VIEWS[about.kind](about, "Reconstruction");
  explorer.original = image ? VIEWS.image(about, "Original") : null;
  if (image) find("pair").append(make("figure", {}, explorer.original.element, caption("Original")));
  const name = caption(image ? "Reconstruction" : "");
  if (!image) name.append(make("span", { class: "value" }, "Reconstruction in blue, ", make("span", {}, "original in orange")));
  find("pair").append(make("figure", {}, explorer.reconstructed.element, name));
  find("which").max = drawable;
  find("which").addEventListener("change", () => visit(Math.min(Math.max(Math.round(Number(find("which").value)) || 1, 1), drawable) - 1));
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  look(0);
}

function step(by) {
  const { shown, drawable } = explorer;
  if (drawable) visit(((shown ?? 0) + by + drawable) % drawable);
}

// Shows a point; the last one stays in view when the pointer leaves it.
function look(i) {
  if (i === null || i === explorer.shown) return;
  explorer.shown = i;
  const { about, arrays } = explorer, x = original(i), mean = explorer.mean(embedded(i), sideOf(i));
  if (explorer.original) explorer.original.show(x);
  explorer.reconstructed.show(mean, x);
  find("which").value = i + 1;
  const label = about.labels?.classes.length ? about.labels.classes[arrays.label[i]] : about.labels ? number(arrays.label[i]) : "";
  find("of").textContent = `of ${explorer.drawable.toLocaleString("en")}: row ${arrays.row[i]}${label && `, label ${label}`}`;
  explorer.plane.drawTop();
}

// Goes to a point: z is its mean, and the model is told what it was told of it.
function visit(i) {
  look(i);
  if (explorer.model.condition) { takeSide(sideOf(i)); explorer.plane.stale(); }
  setZ(embedded(i));
}

// ---- The walk between two points

function choose(i) {
  visit(i);
  explorer.ends = explorer.ends.length === 1 && explorer.ends[0] !== i ? [explorer.ends[0], i] : [i];
  explorer.plane.drawTop();
  paintWalk();
}

const between = (t) => {
  const [a, b] = explorer.ends.map(embedded);
  return Float64Array.from(a, (value, j) => (1 - t) * value + t * b[j]);
};

function walk() {
  find("along").addEventListener("input", () => setZ(between(Number(find("along").value))));
}

function paintWalk() {
  const { about, ends } = explorer, both = ends.length === 2, steps = STEPS[about.kind];
  const times = Array.from({ length: steps }, (_, k) => k / (steps - 1));
  find("along-label").hidden = !both;
  find("ends").hidden = both;
  find("ends").textContent = "A is chosen. Click a second point, B.";
  find("strip").replaceChildren();
  if (!both) return;
  find("along").value = 1;
  const means = times.map((t) => explorer.mean(between(t)));
  if (about.kind === "table") {
    const cells = (field) => means.map((mean) => make("td", {}, spoken(field, chosen(field, mean), about.unit)));
    const rows = about.fields.map((field) => make("tr", {}, make("th", { scope: "row" }, field.name), ...cells(field)));
    find("strip").append(make("table", {}, make("tbody", {}, ...rows)));
    return;
  }
  means.forEach((mean, k) => {
    const canvas = make("canvas", { class: "picture" });
    if (about.kind === "image") paintImage(canvas, mean, about);
    else paintLine(fitted(canvas, 80, 60), mean, about.range, 80, 60, style("--accent"));
    const go = () => { find("along").value = times[k]; setZ(between(times[k])); };
    find("strip").append(make("button", { onclick: go, "aria-label": `Step ${k + 1} of ${steps} from A to B` }, canvas));
  });
}

// ---- The other tabs

function tabs() {
  const all = [...document.querySelectorAll("[role=tab]")];
  const open = (tab) => {
    for (const other of all) {
      other.setAttribute("aria-selected", other === tab);
      other.tabIndex = other === tab ? 0 : -1;
      find(other.getAttribute("aria-controls")).hidden = other !== tab;
    }
  };
  all.forEach((tab, k) => {
    tab.addEventListener("click", () => open(tab));
    tab.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      const next = all[(k + by + all.length) % all.length];
      open(next);
      next.focus();
    });
  });
}

function training() {
  const { about } = explorer;
  if (about.training.length) {
    find("curves").append(...["loss", "recon", "kl"].map((quantity) => curves(about.training, quantity)));
    const kept = about.training.findLast((record) => record.kept);
    find("training").append(make("p", { class: "help" }, `Nats per example.${kept ? ` The dotted line is epoch ${kept.epoch}, which this model is of.` : ""}`));
  }
  find("tab-training").hidden = !about.training.length;
  find("words").append(...about.words.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
  const shown = explorer.drawable ? ` ${explorer.arrays.row.length.toLocaleString("en")} rows are shown as points, ${explorer.drawable.toLocaleString("en")} of them with their originals.` : "";
  find("words").append(make("dt", {}, "This page"), make("dd", {}, `Weights in ${about.precision} precision; the largest error is ${number(about.error)} of the data's range.${shown}`));
  find("kl-part").hidden = !explorer.drawable;
  find("kl").append(klBars(about.kl));
}

start().catch((error) => {
  find("trouble").hidden = false;
  find("trouble").textContent = `This page could not be read (${error.message}). A browser of 2023 or later can open it.`;
  console.error(error);
});
