"use strict";
// A row of data as a picture, a line, or bars with names; and what all drawings share: colours and numbers as text.

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const mix = (a, b, share) => a.map((value, i) => Math.round(value + share * (b[i] - value)));
const css = (colour) => `rgb(${colour.join(" ")})`;

const VIRIDIS = ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const shareOf = (value, [low, high]) => clamp(high > low ? (value - low) / (high - low) : 0.5, 0, 1);

// A place from 0 to 1 on the colour scale.
function onScale(share) {
  const place = clamp(share, 0, 1) * (VIRIDIS.length - 1), below = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return mix(rgb(VIRIDIS[below]), rgb(VIRIDIS[below + 1]), place - below);
}

const minus = (text) => text.replace(/-/g, "\u2212");

// Three digits, a real minus sign, no -0; whole numbers whole, up to those of seconds since 1970.
function number(value, digits = 3) {
  if (!Number.isFinite(value)) return "missing";
  const size = Math.abs(value);
  if (size >= 1e10) return minus(value.toExponential(digits - 1));
  const text = size < 10 ** digits ? value.toPrecision(digits) : size < 1e7 ? Math.round(value) : value.toPrecision(6);
  return minus(String(Number(text)));
}

// Some round numbers within a range: 1, 2 or 5 times a power of ten apart.
function ticks(low, high, count = 4) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((m) => m * power >= rough) * power, found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(i * step);
  return found;
}

// Each of some evenly spaced numbers with as many decimals as tell them apart.
function labelled(places) {
  const decimals = clamp(-Math.floor(Math.log10(places[1] - places[0]) + 1e-9) || 0, 0, 15);
  return places.map((value) => [value, minus((value || 0).toFixed(decimals))]);
}

const SVG = document.querySelector("svg").namespaceURI; // an address, which the page shall not spell out

// An element with attributes, listeners (onclick), an object of styles and children; texts stay texts.
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "title", "circle"].includes(tag);
  const element = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value); // as an attribute the policy forbids it
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

const tableRow = (name, ...cells) => make("tr", {}, make("th", { scope: "row" }, name), ...cells);

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// A canvas of so many CSS pixels with the device's own, and its context in CSS pixels.
function fitted(canvas, width, height) {
  const density = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * density);
  canvas.height = Math.round(height * density);
  const context = canvas.getContext("2d");
  context.setTransform(density, 0, 0, density, 0, 0);
  return context;
}

// ---- Pictures: grey over the range; a colour is clipped to [0, 1]; what is missing is hatched

function paintImage(canvas, x, { shape, range }) {
  const [height, width, channels = 1] = shape, [low, high] = range, span = high - low || 1;
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d"), image = context.createImageData(width, height), data = image.data;
  for (let i = 0, at = 0; i < width * height; i++, at += 4) {
    for (let channel = 0; channel < 3; channel++) {
      const value = x[channels === 3 ? 3 * i + channel : i];
      const hatched = (i + Math.floor(i / width)) % 2 ? 200 : 120;
      data[at + channel] = Number.isNaN(value) ? hatched : (255 * (value - low)) / span; // clamped by its type
    }
    data[at + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

// ---- Series: a line over the columns, broken where a cell is missing

function paintLine(context, x, [low, high], width, height, colour, thick = 1.5) {
  const pad = 0.06 * height, step = x.length > 1 ? width / (x.length - 1) : 0;
  context.beginPath();
  let pen = false;
  for (let i = 0; i < x.length; i++) {
    if (Number.isNaN(x[i])) { pen = false; continue; }
    const y = pad + (1 - (x[i] - low) / (high - low || 1)) * (height - 2 * pad);
    pen ? context.lineTo(i * step, y) : context.moveTo(i * step, y);
    pen = true;
  }
  Object.assign(context, { strokeStyle: colour, lineWidth: thick, lineJoin: "round" });
  context.stroke();
}

// ---- Views: an element, and show(mean, original), where original may be null

function imageView(about, label) {
  const look = { class: "picture", style: { aspectRatio: `${about.shape[1]} / ${about.shape[0]}` } };
  const canvas = make("canvas", { role: "img", "aria-label": label, ...look });
  return { element: canvas, show: (x) => paintImage(canvas, x, about) };
}

function seriesView(about, label) {
  const canvas = make("canvas", { role: "img", "aria-label": label, class: "series" });
  const [low, high] = about.range.map((value) => number(value * about.unit));
  const element = make("figure", { class: "lined" }, canvas, make("figcaption", {}, `${low} to ${high}`));
  return {
    element,
    show(x, original = null) {
      const [width, height] = [canvas.clientWidth || 280, canvas.clientHeight || 150];
      const context = fitted(canvas, width, height);
      if (original) paintLine(context, original, about.range, width, height, style("--second"));
      paintLine(context, x, about.range, width, height, style("--accent"), 2);
    },
  };
}

// A table's row: bars of its fields. The filled bar is the model's mean, the mark the original.
function tableView(about, label) {
  const rows = about.fields.map((field) => {
    const fill = make("span", { class: "fill" }), mark = make("span", { class: "mark", hidden: true });
    const value = make("td", { class: "value" }), track = make("div", { class: "track" }, fill, mark);
    const row = make("tr", {}, make("th", { scope: "row", title: field.name }, field.name), make("td", {}, track), value);
    return { field, fill, mark, value, row };
  });
  const element = make("table", { class: "bars", "aria-label": label }, make("tbody", {}, ...rows.map(({ row }) => row)));
  const share = (value, range) => `${100 * shareOf(value, range)}%`;
  return {
    element,
    show(x, original = null) {
      for (const { field, fill, mark, value } of rows) {
        const best = chosen(field, x), told = original && chosen(field, original);
        fill.style.width = share(best.at, field.range);
        mark.hidden = !told || Number.isNaN(told.at) || field.kind === "category";
        if (!mark.hidden) mark.style.left = share(told.at, field.range);
        value.replaceChildren(spoken(field, best, about.unit));
        if (told) value.append(make("span", { class: "told" }, spoken(field, told, about.unit, true)));
      }
    },
  };
}

// What a field says: a number, or of a category the likeliest value with its probability.
function chosen(field, x) {
  if (field.kind === "binary") return { at: x[field.at], value: x[field.at] >= 0.5 ? 1 : 0 };
  if (field.kind !== "category") return { at: x[field.at] };
  let best = 0;
  for (let i = 1; i < field.count; i++) if (x[field.at + i] > x[field.at + best]) best = i;
  return { at: x[field.at + best], value: best };
}

function spoken(field, { at, value }, unit, observed = false) {
  if (Number.isNaN(at)) return "missing";
  if (value === undefined) return number(at * unit);
  if (observed) return field.values[value];
  return `${field.values[field.kind === "binary" ? 1 : value]} ${Math.round(100 * at)} %`;
}

const VIEWS = { image: imageView, series: seriesView, table: tableView };
