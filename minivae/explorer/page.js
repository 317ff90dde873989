"use strict";
// What the controls do. `explorer` holds all that can change: z, what the model is told, and which points are looked at.

const explorer = {};
const find = (id) => document.getElementById(id);

async function start() {
  const about = JSON.parse(find("contents").textContent), { model } = about;
  const arrays = await unpack(about.packed, about.arrays), { row } = arrays;
  delete about.packed;
  Object.assign(explorer, { about, model, arrays, decoder: new Decoder(model, arrays), ends: [], shown: null });
  explorer.z = new Float64Array(model.latent);
  explorer.drawable = row ? Math.floor(arrays.x.length / explorer.decoder.columns) : 0;
  explorer.order = about.kl.map((_, j) => j).sort((a, b) => about.kl[b] - about.kl[a]);
  explorer.side = model.condition ? startSide(model.condition) : [];
  explorer.mean = (z, side = explorer.side) => explorer.decoder.mean(z, side);
  document.title = `${about.title} \u2013 minivae explorer`;
  find("title").textContent = about.title;
  find("subtitle").textContent = [model.layers[0][1], ...model.layers.map((layer) => layer[2])].reverse().join(" \u2013 ");
  document.querySelector("main").hidden = false;
  explorer.view = VIEWS[about.kind](about, "Mean of p(x|z)");
  find("mean").append(explorer.view.element);
  for (const part of [find("pair"), document.querySelector(".now")]) part.classList.toggle("wide", about.kind !== "image");
  explorer.plane = new Plane(find("plane"), explorer, { paint: paintCell, move, hover: look, choose });
  find("plane").classList.toggle("flat", model.latent === 1);
  tabs();
  colourPoints();
  axes();
  plane();
  told();
  examples();
  walk();
  training();
  watch();
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", () => { colourPoints(); explorer.plane.forget(); explorer.plane.redraw(); render(); });
  takeDims(explorer.order.slice(0, 2).sort((a, b) => a - b));
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
  [canvas.width, canvas.height] = [1, 1];
  const context = canvas.getContext("2d"), { at: column, range } = explorer.shade;
  const share = 0.05 + 0.75 * shareOf(mean[column], range);
  context.fillStyle = css(mix(rgb(style("--paper")), rgb(style("--accent")), share));
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
  const axis = (label, k) => find("axes").append(choice(label, names, order[k], change(k), "axis"));
  if (latent > 2) ["Across", "Up"].forEach(axis);
  if (about.kind === "table") {
    const shades = about.fields.flatMap(({ name, kind, at, values, range }) => {
      if (kind === "category") return values.map((value, i) => ({ name: `${name}: ${value}`, at: at + i, range }));
      return { name: kind === "binary" ? `${name}: ${values[1]}` : name, at, range };
    });
    const shade = (k) => { explorer.shade = shades[k]; explorer.plane.stale(); };
    find("axes").append(choice("Shade", shades.map(({ name }) => name), 0, shade));
    explorer.shade = shades[0];
    find("background-name").textContent = "Shading";
  }
}

function plane() {
  const { plane } = explorer;
  const toggle = (id, set) => find(id).addEventListener("change", ({ target }) => { set(target.checked); plane.redraw(); });
  toggle("background", (on) => { plane.background = on; });
  toggle("dots", (on) => { plane.dots = on; });
  toggle("pan", (on) => { plane.panning = on; plane.root.classList.toggle("pans", on); });
  const click = (id, act) => find(id).addEventListener("click", act);
  click("zero", () => setZ(new Float64Array(explorer.z.length)));
  const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  click("random", () => setZ(explorer.z.map(normal)));
  for (const [id, key] of [["in", "+"], ["out", "-"], ["home", 0]]) click(id, () => keys[key]());
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const nearer = () => plane.zoom(1 / 1.4), farther = () => plane.zoom(1.4), again = () => choose(explorer.shown ?? 0);
  const keys = { "+": nearer, "=": nearer, "-": farther, 0: () => plane.home() };
  if (explorer.drawable) Object.assign(keys, { n: () => step(1), p: () => step(-1), Enter: again });
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
  const { z, plane, view, dims } = explorer;
  explorer.frame = 0;
  view.show(explorer.mean(z));
  plane.drawTop();
  const text = (value) => value.toFixed(2).replace("-", "\u2212");
  find("where").textContent = dims.map((j) => `z${j + 1} = ${text(z[j])}`).join(",  ");
  find("sliders").querySelectorAll("input").forEach((input) => setSlider(input, z[input.dataset.latent], text));
}

function setSlider(input, value, text) {
  input.value = value;
  input.nextSibling.textContent = text(value);
}

function slider(name, far, change) {
  const input = make("input", { type: "range", min: -far, max: far, step: 0.01, value: 0, "aria-label": name });
  input.addEventListener("input", () => { change(Number(input.value)); explorer.plane.stale(); moved(); });
  return make("label", { class: "number" }, name, input, make("output", {}));
}

// A slider for every latent that the plane does not show, the most used first.
function sliders() {
  const { arrays: { mu }, model: { latent }, order, dims } = explorer;
  find("sliders").replaceChildren(...order.filter((j) => !dims.includes(j)).map((j) => {
    let far = 4;
    for (let at = j; mu && at < mu.length; at += latent) far = Math.max(far, Math.ceil(Math.abs(mu[at])));
    const label = slider(`z${j + 1}`, far, (value) => { explorer.z[j] = value; });
    label.querySelector("input").dataset.latent = j;
    return label;
  }));
}

// What a conditional model is told: a class, or numbers, which the sliders have in standard deviations.
function told() {
  const { condition } = explorer.model, classes = condition?.classes ?? [];
  if (classes.length) {
    const change = (k) => { takeSide(oneHot(k, classes.length)); explorer.plane.stale(); moved(); };
    find("told").append(choice("The model is told", classes, 0, change));
  } else if (condition) {
    const change = (k) => (value) => takeSide(explorer.side.with(k, value));
    find("told").append(...condition.shift.map((_, k) => slider(`Told ${k + 1}`, 3, change(k))));
    takeSide(explorer.side);
  }
}

function takeSide(side) {
  explorer.side = Float64Array.from(side);
  const { condition } = explorer.model, row = find("told"), select = row.querySelector("select");
  if (select) select.value = side.indexOf(1);
  const text = (k) => (value) => number(condition.shift[k] + condition.scale[k] * value);
  row.querySelectorAll("input").forEach((input, k) => setSlider(input, side[k], text(k)));
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
    const note = kept ? ` The dotted line is epoch ${kept.epoch}, which this model is of.` : "";
    find("training").append(make("p", { class: "help" }, `Nats per example.${note}`));
  }
  find("tab-training").hidden = !about.training.length;
  find("words").append(...about.words.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
  find("kl-part").hidden = !explorer.drawable;
  find("kl").append(klBars(about.kl, explorer.order));
}

start().catch((error) => {
  find("trouble").hidden = false;
  find("trouble").textContent = `This page could not be read (${error.message}). A browser of 2023 or later can open it.`;
  console.error(error);
});
