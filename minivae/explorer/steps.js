"use strict";
// One training step call by call, in the book's order, and what another value of one weight moves in it. See steps.py.

function watch() {
  const { about: { step } } = explorer;
  find("tab-step").hidden = !step;
  if (!step) return;
  const told = ["beta", "learning_rate"].map((name) => `${name.replace("_", " ")} ${short(step.variables[name])}`);
  const which = `Step ${step.variables.step.toLocaleString("en")} of this training, on ${step.rows} rows, in double precision`;
  const moments = step.fresh ? " The optimizer's moments begin at 0." : "";
  find("step-what").textContent = `${which}: ${told.join(", ")}.${moments} Open a call to read it in the book.`;
  const names = step.weights.map(([name]) => name), middle = (step.weights[0][1].length - 1) / 2;
  explorer.watched = { weight: 0, at: middle, middle };
  const change = (weight) => { Object.assign(explorer.watched, { weight, at: middle }); paintStep(); };
  find("weight").append(choice("Weight", names, 0, change));
  const input = find("weight-value");
  input.max = 2 * middle;
  input.addEventListener("input", () => { explorer.watched.at = Number(input.value); paintStep(); });
  find("weight-back").addEventListener("click", () => change(explorer.watched.weight));
  const body = find("calls").tBodies[0];
  explorer.watched.cells = step.seen.map(() => []);
  step.calls.forEach(([kernel, call], i) => {
    for (const [name, first] of step.phases) if (first === i) body.append(wide("phase", name));
    const [where, source] = step.book[kernel], line = make("summary", {}, `${i + 1}  ${call}`, make("span", {}, where));
    body.append(wide("call", make("details", {}, line, make("pre", {}, source))));
    step.seen.forEach(([of, array, shape], s) => {
      if (of !== i + 1) return;
      const cells = ["mean", "spread", "norm", "zeros", "last"].map(() => make("td"));
      explorer.watched.cells[s] = cells;
      body.append(tableRow(array, make("td", {}, shape.join(" \u00d7 ")), ...cells));
    });
  });
  explorer.watched.parameters = step.parameters.map((name) => {
    const cells = Array.from({ length: 4 }, () => make("td"));
    find("parameters").tBodies[0].append(tableRow(name, ...cells));
    return cells;
  });
  paintStep();
}

// A row of its own; a phone has no room for two of the seven columns.
const wide = (kind, content) => {
  const columns = matchMedia("(max-width: 700px)").matches ? 5 : 7;
  return make("tr", { class: kind }, make("th", { colspan: columns }, content));
};

const short = (value, digits = 4) => {
  if (!Number.isFinite(value)) return value === null ? "" : String(value);
  const small = value && Math.abs(value) < 1e-3;
  return small ? minus(value.toExponential(digits > 2 ? 2 : 1)) : number(value, digits);
};

function paintStep() {
  const { about: { step }, arrays: { seen, moved }, watched } = explorer, { weight, at, middle } = watched;
  const [, values, losses, slope] = step.weights[weight], T = values.length, asItIs = at === middle;
  const from = (array, rows, columns, row, k) => array[((weight * rows + row) * columns + k) * T + at];
  const input = find("weight-value");
  input.value = at;
  input.setAttribute("aria-valuetext", short(values[at]));
  input.nextElementSibling.textContent = short(values[at]);
  find("last").textContent = asItIs ? "error" : "moved";
  find("last").title = asItIs ? "Of a gradient, by finite differences" : "By how much of its norm the array has moved";
  watched.cells.forEach((cells, s) => {
    const numbers = cells.map((_, k) => from(seen, step.seen.length, cells.length, s, k)), far = numbers.at(-1);
    const last = asItIs ? step.seen[s][3] : far || null;
    const texts = [...numbers.slice(0, 3).map((value) => short(value)), `${Math.round(100 * numbers[3])} %`, short(last, 2)];
    cells.forEach((cell, k) => { cell.textContent = texts[k]; });
    cells[0].parentNode.classList.toggle("moved", !asItIs && far > 0);
  });
  watched.parameters.forEach((cells, p) => {
    const [norm, gradient, changed] = [0, 1, 2].map((k) => from(moved, step.parameters.length, 3, p, k));
    [norm, gradient, changed, norm ? changed / norm : null].forEach((value, k) => { cells[k].textContent = short(value); });
  });
  const nats = (loss) => (Number.isFinite(loss) ? number(loss, 7) : "no finite number of");
  find("step-loss").textContent = `Loss ${nats(step.loss)}${asItIs ? "" : ` \u2192 ${nats(losses[at])}`} nats per example`;
  find("slope").replaceChildren(slopeChart(values, losses, slope, at));
}

// The loss over the weight, the book's gradient as the tangent at the weight's own value, and where the slider is.
function slopeChart(values, losses, slope, at) {
  const middle = (values.length - 1) / 2, ends = [values[0], values.at(-1)];
  const known = losses.map((loss, i) => [values[i], loss]).filter(([, loss]) => Number.isFinite(loss));
  let [low, high] = [Math.min(...known.map(([, loss]) => loss)), Math.max(...known.map(([, loss]) => loss))];
  const room = 0.08 * (high - low) || 1;
  [low, high] = [low - room, high + room];
  const look = { height: 206, left: 62, marks: ticks(...ends), digits: high < 1e7 ? 6 : 2 };
  const name = "Loss over the weight, and the gradient as its tangent";
  const { svg, x, y, path } = chart(name, "weight", ends, [low, high], look);
  if (slope !== null && Number.isFinite(losses[middle])) {
    const reach = Math.min(ends[1] - values[middle], Math.max(high - losses[middle], losses[middle] - low) / Math.abs(slope));
    const inside = [-reach, reach].map((by) => {
      const loss = clamp(losses[middle] + slope * by, low, high);
      return [values[middle] + (slope ? (loss - losses[middle]) / slope : by), loss];
    });
    svg.append(make("path", { d: path(inside), class: "tangent" }, make("title", {}, `dL/dw = ${short(slope)}`)));
  }
  svg.append(make("path", { d: path(known), class: "curve" }));
  if (Number.isFinite(losses[at])) svg.append(make("circle", { cx: x(values[at]), cy: y(losses[at]), r: 5 }));
  const told = slope === null ? "This estimator's gradient is not the slope of the loss." : `Dashed: the gradient, ${short(slope)}`;
  return make("figure", {}, svg, make("figcaption", {}, told));
}
