"use strict";
// The points: rows of the data, their colours, the original beside its reconstruction, and the walk between two of them.

const STEPS = { image: 9, series: 9, table: 5 }; // of the walk

// ---- Rows of the data, and what the model was told of them

function original(i) {
  const { about, arrays, model } = explorer, D = explorer.decoder.columns, row = arrays.x.subarray(i * D, (i + 1) * D);
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

const startSide = ({ classes, shift }) => (classes.length ? oneHot(0, classes.length) : new Float64Array(shift.length));

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
    const dot = make("span", { class: "dot", style: { background: one(code) } });
    return make("span", {}, dot, make("bdi", {}, name || "(empty)"));
  }));
  if (labels && !classes.length) {
    const scale = make("span", { class: "scale", style: { background: `linear-gradient(90deg, ${VIRIDIS})` } });
    legend.append(make("span", {}, number(low), scale, number(high)));
  }
  find("dots-toggle").hidden = find("example").hidden = find("walk").hidden = !n;
}

// ---- Examples: the original beside its reconstruction

function examples() {
  const { about, drawable } = explorer, image = about.kind === "image";
  if (!drawable) return;
  const caption = (text) => make("figcaption", {}, text);
  explorer.reconstructed = VIEWS[about.kind](about, "Reconstruction");
  explorer.original = image ? VIEWS.image(about, "Original") : null;
  if (image) find("pair").append(make("figure", {}, explorer.original.element, caption("Original")));
  const name = caption(image ? "Reconstruction" : "Reconstruction in blue, original in orange");
  find("pair").append(make("figure", {}, explorer.reconstructed.element, name));
  find("which").max = drawable;
  const typed = () => clamp(Math.round(Number(find("which").value)) || 1, 1, drawable) - 1;
  find("which").addEventListener("change", () => visit(typed()));
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
  if (i !== null) find("which").value = i + 1; // also where no example has the number that was typed
  if (i === null || i === explorer.shown) return;
  explorer.shown = i;
  const { about, arrays } = explorer, x = original(i), mean = explorer.mean(embedded(i), sideOf(i));
  if (explorer.original) explorer.original.show(x);
  explorer.reconstructed.show(mean, x);
  const label = about.labels && (about.labels.classes[arrays.label[i]] ?? number(arrays.label[i]));
  const known = label === null ? "" : `, label ${label}`;
  find("of").replaceChildren(`of ${explorer.drawable.toLocaleString("en")}: row ${arrays.row[i]}`, make("bdi", {}, known));
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
    const rows = about.fields.map((field) => tableRow(field.name, ...cells(field)));
    find("strip").append(make("table", {}, make("tbody", {}, ...rows)));
    return;
  }
  means.forEach((mean, k) => {
    const canvas = make("canvas", { class: about.kind === "image" ? "picture" : "" });
    if (about.kind === "image") paintImage(canvas, mean, about);
    else paintLine(fitted(canvas, 84, 63), mean, about.range, 84, 63, style("--accent"));
    const go = () => { find("along").value = times[k]; setZ(between(times[k])); };
    find("strip").append(make("button", { onclick: go, "aria-label": `Step ${k + 1} of ${steps} from A to B` }, canvas));
  });
}
