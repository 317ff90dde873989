"use strict";
// The training as curves, and the KL of every latent as bars.

const NAMES = { loss: "Loss", recon: "Reconstruction, \u2212log p(x|z)", kl: "KL( q(z|x) \u2016 p(z) )" };
const PARTS = { "": "training", val_: "held out", test_: "test" };

// An svg with axes of [first, last] and [low, high], and what draws in it: the places of two numbers, the path of points.
function chart(name, across, [first, last], [low, high], { height, left, marks, digits }) {
  const [width, right, bottom, top] = [440, 14, 40, 12];
  const x = (value) => left + ((value - first) / (last - first)) * (width - left - right);
  const y = (value) => top + (1 - (value - low) / (high - low)) * (height - top - bottom);
  const path = (points) => `M${points.map(([a, b]) => `${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("L")}`;
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name });
  for (const value of ticks(low, high)) {
    svg.append(make("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    svg.append(make("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, number(value, digits)));
  }
  for (const value of marks) svg.append(make("text", { x: x(value), y: height - 22, "text-anchor": "middle" }, number(value)));
  svg.append(make("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, across));
  return { svg, x, y, path };
}

// One quantity over the epochs, for training and every held-out part. A start that would flatten the rest is cut off.
function curves(records, quantity) {
  const parts = Object.keys(PARTS).filter((part) => records.some((record) => Number.isFinite(record[part + quantity])));
  const values = (from) => records.slice(from).flatMap((record) => parts.map((part) => record[part + quantity]))
    .filter(Number.isFinite);
  let [low, high] = [Math.min(...values(0)), Math.max(...values(0))];
  const later = Math.max(...values(records.length > 5 ? Math.ceil(records.length / 20) : 0));
  if (high - low > 2.5 * (later - low) && later > low) high = low + 1.15 * (later - low);
  const pad = 0.05 * (high - low) || 1, epochs = [records[0].epoch - 0.5, records.at(-1).epoch + 0.5];
  const look = { height: 260, left: 52, marks: ticks(...epochs, 7).filter(Number.isInteger), digits: 4 };
  const { svg, x, y, path } = chart(`${NAMES[quantity]} over the epochs`, "epoch", epochs, [low - pad, high + pad], look);
  const kept = records.findLast((record) => record.kept)?.epoch;
  if (kept) svg.append(make("line", { class: "kept", x1: x(kept), x2: x(kept), y1: y(high + pad), y2: y(low - pad) }));
  parts.forEach((part, k) => {
    const known = records.map((record) => [record.epoch, record[part + quantity]]).filter(([, value]) => Number.isFinite(value));
    const colour = `var(--curve${k})`, [epoch, value] = known.at(-1);
    svg.append(make("path", { d: path(known), class: "curve", style: { stroke: colour } }, make("title", {}, PARTS[part])));
    if (known.length === 1) svg.append(make("circle", { cx: x(epoch), cy: y(value), r: 3.5, style: { fill: colour } }));
  });
  const legend = make("figcaption", {}, ...parts.map((part, k) => {
    const line = make("span", { class: "swatch", style: { background: `var(--curve${k})` } });
    return make("span", {}, line, `${PARTS[part]} ${number(records.at(-1)[part + quantity], 4)}`);
  }));
  return make("figure", {}, make("h3", {}, NAMES[quantity]), svg, legend);
}

// The mean KL of each latent in nats, largest first.
function klBars(kl, order) {
  const most = kl[order[0]] || 1;
  return make("ol", { class: "kl" }, ...order.map((j) => {
    const bar = make("span", { class: "fill", style: { width: `${(100 * kl[j]) / most}%` } });
    return make("li", {}, make("span", {}, `z${j + 1}`), make("div", { class: "track" }, bar), number(kl[j]));
  }));
}
