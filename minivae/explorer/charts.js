"use strict";
// The training as curves, and the KL of every latent as bars.

const NAMES = { loss: "Loss", recon: "Reconstruction, \u2212log p(x|z)", kl: "KL( q(z|x) \u2016 p(z) )" };
const PARTS = { "": "training", val_: "held out", test_: "test" };

// One quantity over the epochs, for training and every held-out part. A start that would flatten the rest is cut off.
function curves(records, quantity, colours) {
  const [width, height, left, right, bottom, top] = [440, 260, 52, 14, 40, 12];
  const epochs = records.map((record) => record.epoch);
  const parts = Object.keys(PARTS).filter((part) => records.some((record) => Number.isFinite(record[part + quantity])));
  const values = (from) => records.slice(from).flatMap((record) => parts.map((part) => record[part + quantity]))
    .filter(Number.isFinite);
  let [low, high] = [Math.min(...values(0)), Math.max(...values(0))];
  const later = Math.max(...values(records.length > 5 ? Math.ceil(records.length / 20) : 0));
  if (high - low > 2.5 * (later - low) && later > low) high = low + 1.15 * (later - low);
  const pad = 0.05 * (high - low) || 1;
  [low, high] = [low - pad, high + pad];
  const [first, last] = [epochs[0] - 0.5, epochs.at(-1) + 0.5];
  const x = (epoch) => left + ((epoch - first) / (last - first)) * (width - left - right);
  const y = (value) => top + (1 - (value - low) / (high - low)) * (height - top - bottom);
  const name = `${NAMES[quantity]} over the epochs`;
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name });
  for (const value of ticks(low, high)) {
    svg.append(make("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    svg.append(make("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, number(value, 4)));
  }
  for (const epoch of ticks(first, last, 7).filter(Number.isInteger)) {
    svg.append(make("text", { x: x(epoch), y: height - 22, "text-anchor": "middle" }, String(epoch)));
  }
  svg.append(make("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, "epoch"));
  const kept = records.findLast((record) => record.kept)?.epoch;
  if (kept) svg.append(make("line", { class: "kept", x1: x(kept), x2: x(kept), y1: top, y2: height - bottom }));
  parts.forEach((part, k) => {
    const known = records.filter((record) => Number.isFinite(record[part + quantity]));
    const inside = (record) => `${x(record.epoch).toFixed(1)} ${y(record[part + quantity]).toFixed(1)}`;
    const path = make("path", { d: `M${known.map(inside).join("L")}`, class: "curve" }, make("title", {}, PARTS[part]));
    path.style.stroke = `var(--curve${k})`;
    svg.append(path);
    const end = known.at(-1);
    if (known.length === 1) {
      const dot = make("circle", { cx: x(end.epoch), cy: y(end[part + quantity]), r: 3.5 });
      dot.style.fill = `var(--curve${k})`;
      svg.append(dot);
    }
  });
  const legend = make("figcaption", {}, ...parts.map((part, k) => {
    const line = make("span", { class: "swatch" });
    line.style.background = `var(--curve${k})`;
    return make("span", {}, line, `${PARTS[part]} ${number(records.at(-1)[part + quantity], 4)}`);
  }));
  return make("figure", {}, make("h3", {}, NAMES[quantity]), svg, legend);
}

// The mean KL of each latent in nats, largest first.
function klBars(kl) {
  const order = kl.map((_, j) => j).sort((a, b) => kl[b] - kl[a]), most = Math.max(...kl) || 1;
  return make("ol", { class: "kl" }, ...order.map((j) => {
    const bar = make("span", { class: "fill" });
    bar.style.width = `${(100 * kl[j]) / most}%`;
    return make("li", {}, make("span", {}, `z${j + 1}`), make("div", { class: "track" }, bar), number(kl[j]));
  }));
}
