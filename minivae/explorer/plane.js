"use strict";
// The plane of two latents: the decoded background, the points, and z. Three canvases, one above the other, so that what
// changes often (z) does not redraw what does not. A plane of one latent has points at heights that mean nothing.

const REACH = 14; // CSS pixels from a point that still hit it
const SLICE = 7; // milliseconds of each frame for the background, which leaves room for z
const CELLS = { image: 40, series: 72, table: 12 }; // least size of a cell in CSS pixels
const KEPT = 4000; // cells

class Plane {
  // on: {move(x, y), hover(point or null), choose(point)}, and paint(canvas, x, y), what lies behind that latent point.
  constructor(root, explorer, on) {
    this.root = root;
    this.explorer = explorer;
    this.on = on;
    [this.back, this.middle, this.top] = root.querySelectorAll("canvas");
    this.flat = explorer.model.latent === 1;
    this.gap = explorer.about.kind === "table" ? 0 : 2; // pixels between cells
    this.least = CELLS[explorer.about.kind];
    Object.assign(this, { background: true, dots: true, panning: false, queue: [], cells: new Map(), pointers: new Map() });
    this.listen();
    new ResizeObserver(() => this.resize()).observe(root);
  }

  // ---- Places

  // Where the points of these dimensions lie, and the view that holds them and the middle of the prior.
  take(dims) {
    this.dims = dims;
    const { latent } = this.explorer.model, { mu, row } = this.explorer.arrays, n = row ? row.length : 0;
    this.x = Float32Array.from({ length: n }, (_, i) => mu[i * latent + dims[0]]);
    const scattered = (i) => 0.7 * Math.sin(i * 12.9898);
    this.y = Float32Array.from({ length: n }, (_, i) => (this.flat ? scattered(i) : mu[i * latent + dims[1]]));
    this.forget();
    this.home();
  }

  home() {
    const far = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 2.5);
    this.view = { x: 0, y: 0, radius: 1.06 * Math.min(Math.max(far(this.x), this.flat ? 0 : far(this.y)), 12) };
    this.redraw();
  }

  get scale() { return Math.min(this.width, this.flat ? Infinity : this.height) / (2 * this.view.radius); }
  // In a plane of one latent the vertical axis is not the latent's: it is always from -1 to 1.
  get rise() { return this.flat ? this.height / 2 : this.scale; }
  get eye() { return this.flat ? 0 : this.view.y; }
  toScreen(x, y) {
    return [this.width / 2 + (x - this.view.x) * this.scale, this.height / 2 - (y - this.eye) * this.rise];
  }
  toLatent(left, up) {
    return [this.view.x + (left - this.width / 2) / this.scale, this.eye - (up - this.height / 2) / this.rise];
  }

  zoom(factor, left = this.width / 2, up = this.height / 2) {
    const [x, y] = this.toLatent(left, up), radius = clamp(this.view.radius * factor, 0.01, 100);
    const real = radius / this.view.radius;
    this.view = { x: x + (this.view.x - x) * real, y: y + (this.view.y - y) * real, radius };
    this.redraw();
  }

  pan(left, up) {
    this.view = { ...this.view, x: this.view.x - left / this.scale, y: this.view.y + up / this.scale };
    this.redraw();
  }

  // Moves the view as little as it takes to show a latent point.
  follow(x, y) {
    const [left, up] = this.toScreen(x, y), pad = 20;
    const beyond = (at, size) => Math.min(at - pad, 0) + Math.max(at - (size - pad), 0);
    const [right, down] = [beyond(left, this.width), this.flat ? 0 : beyond(up, this.height)];
    if (right || down) this.pan(-right, -down);
  }

  nearest(left, up, count) {
    let best = null, least = REACH ** 2;
    for (let i = 0; i < count && this.dots; i++) {
      const [a, b] = this.toScreen(this.x[i], this.y[i]), distance = (a - left) ** 2 + (b - up) ** 2;
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  }

  // ---- What the pointer and the keys do

  listen() {
    const { root } = this, place = (event) => {
      const box = root.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const hit = (event) => this.nearest(...place(event), this.explorer.drawable);
    root.addEventListener("pointerdown", (event) => {
      root.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, place(event));
      const pans = this.panning || event.shiftKey || event.button > 0;
      this.gesture = this.pointers.size > 1 || pans ? "pan" : "draw";
      this.still = this.pointers.size === 1 && !pans ? place(event) : null;
      if (this.gesture === "draw") this.on.move(...this.toLatent(...place(event)));
    });
    root.addEventListener("pointermove", (event) => {
      const now = place(event), before = this.pointers.get(event.pointerId);
      if (!before) return this.on.hover(hit(event));
      if (this.still && Math.hypot(now[0] - this.still[0], now[1] - this.still[1]) > 4) this.still = null;
      if (this.gesture === "draw") this.on.move(...this.toLatent(...now));
      else this.drag(event.pointerId, before, now);
      this.pointers.set(event.pointerId, now);
    });
    const end = (event) => {
      if (this.still && event.type === "pointerup") {
        const point = hit(event);
        if (point !== null) this.on.choose(point);
      }
      this.still = null;
      this.pointers.delete(event.pointerId);
    };
    for (const name of ["pointerup", "pointercancel"]) root.addEventListener(name, end);
    root.addEventListener("pointerleave", () => this.on.hover(null));
    root.addEventListener("contextmenu", (event) => event.preventDefault());
    root.addEventListener("wheel", (event) => {
      this.zoom(Math.exp(clamp(event.deltaY, -100, 100) * 0.003), ...place(event));
      event.preventDefault();
    }, { passive: false });
  }

  // One pointer pans; two zoom by their distance and pan by their middle.
  drag(id, before, now) {
    const other = [...this.pointers].find(([key]) => key !== id)?.[1];
    if (!other) return this.pan(now[0] - before[0], now[1] - before[1]);
    this.pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    const apart = (a) => Math.hypot(a[0] - other[0], a[1] - other[1]) || 1;
    this.zoom(apart(before) / apart(now), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }

  // ---- Drawing

  resize() {
    [this.width, this.height] = [this.root.clientWidth, this.root.clientHeight];
    if (!this.width) return; // in a tab that is not shown
    const canvases = [this.back, this.middle, this.top];
    [this.behind, this.between, this.above] = canvases.map((canvas) => fitted(canvas, this.width, this.height));
    if (this.view) this.redraw();
  }

  redraw() {
    if (!this.width) return;
    this.drawPoints();
    this.drawTop();
    this.plan();
    this.drawBackground();
  }

  drawPoints() {
    const c = this.between, { colours } = this.explorer;
    c.clearRect(0, 0, this.width, this.height);
    if (this.dots) {
      const radius = clamp(60 / Math.sqrt(this.x.length), 2.2, 4.5);
      c.lineWidth = radius / 5;
      c.strokeStyle = this.background ? "rgb(255 255 255 / 0.75)" : style("--paper");
      for (let i = this.x.length - 1; i >= 0; i--) {
        c.fillStyle = colours[i];
        c.beginPath();
        c.arc(...this.toScreen(this.x[i], this.y[i]), radius, 0, 7);
        c.fill();
        if (this.x.length <= 1500) c.stroke(); // of more points one would see nothing else
      }
    }
    this.drawAxes(c);
  }

  // Round numbers along the lower and the left edge, each on a piece of paper.
  drawAxes(c) {
    Object.assign(c, { font: "12px system-ui, sans-serif", textBaseline: "middle", textAlign: "center" });
    const tag = (text, left, up) => {
      const wide = c.measureText(text).width + 8;
      c.fillStyle = style("--paper");
      c.globalAlpha = 0.8;
      c.fillRect(left - wide / 2, up - 9, wide, 18);
      c.globalAlpha = 1;
      c.fillStyle = style("--faint");
      c.fillText(text, left, up);
    };
    const [left, low] = this.toLatent(0, this.height), [right, high] = this.toLatent(this.width, 0);
    for (const [x, text] of labelled(ticks(left, right, this.width / 70))) {
      const at = this.toScreen(x, 0)[0];
      if (at > 44 && at < this.width - 44) tag(text, at, this.height - 12);
    }
    tag(`z${this.dims[0] + 1} \u2192`, this.width - 22, this.height - 12);
    if (this.flat) return;
    for (const [y, text] of labelled(ticks(low, high, this.height / 70))) {
      const at = this.toScreen(0, y)[1];
      if (at > 34 && at < this.height - 34) tag(text, 20, at);
    }
    tag(`z${this.dims[1] + 1} \u2191`, 20, 14);
  }

  // z, the point that is looked at, and the two ends of an interpolation.
  drawTop() {
    if (!this.above || !this.view) return;
    const c = this.above, { z, shown, ends } = this.explorer, [first, second] = this.dims;
    c.clearRect(0, 0, this.width, this.height);
    const stroke = (path, colour, thick) => { // with a halo of paper
      for (const [strokeStyle, lineWidth] of [[style("--paper"), thick + 2.5], [colour, thick]]) {
        Object.assign(c, { strokeStyle, lineWidth });
        c.stroke(path);
      }
    };
    const ring = (x, y, radius, colour, thick) => {
      const path = new Path2D();
      path.arc(x, y, radius, 0, 7);
      stroke(path, colour, thick);
    };
    const at = (i) => this.toScreen(this.x[i], this.y[i]);
    if (ends.length === 2) stroke(new Path2D(`M${ends.map((i) => at(i).join(" ")).join("L")}`), style("--ink"), 1.5);
    if (shown !== null) ring(...at(shown), 6.5, style("--ink"), 1.5);
    ends.forEach((i, k) => {
      const [x, y] = at(i);
      ring(x, y, 6.5, style("--second"), 2);
      Object.assign(c, { font: "bold 14px system-ui, sans-serif", textAlign: "left", lineWidth: 4 });
      Object.assign(c, { strokeStyle: style("--paper"), fillStyle: style("--second") });
      c.strokeText("AB"[k], x + 11, y - 9);
      c.fillText("AB"[k], x + 11, y - 9);
    });
    const here = this.toScreen(z[first], this.flat ? 0 : z[second]);
    ring(...here, 9, style("--accent"), 3);
    ring(...here, 1, style("--accent"), 2);
  }

  // ---- The background: cells on a lattice of steps 2^k, so that panning, and zooming back, find them drawn

  // All cells are of another z, or of another told side: they stay in view until they are drawn anew.
  stale() {
    for (const cell of this.cells.values()) cell.fresh = false;
    if (this.width) this.plan();
  }

  forget() {
    this.cells.clear();
    this.queue = [];
  }

  // Which cells the view lacks, from its middle outwards.
  plan() {
    if (!this.background || !this.view) return;
    const k = Math.ceil(Math.log2(this.least / this.scale)), step = 2 ** k;
    const [left, low] = this.toLatent(0, this.height), [right, high] = this.toLatent(this.width, 0);
    const rows = this.flat ? [0, 0] : [Math.floor(low / step), Math.floor(high / step)];
    this.queue = [];
    this.level = k;
    if (this.cells.size > KEPT) this.forget();
    for (let i = Math.floor(left / step); i * step < right; i++) {
      for (let j = rows[0]; j <= rows[1]; j++) {
        const key = `${k} ${i} ${j}`, known = this.cells.get(key);
        if (known?.fresh) continue;
        const x = (i + 0.5) * step, y = this.flat ? 0 : (j + 0.5) * step;
        this.queue.push({ key, k, x, y, step, canvas: known?.canvas, far: Math.hypot(x - this.view.x, y - this.view.y) });
      }
    }
    this.queue.sort((a, b) => b.far - a.far); // the nearest is taken from the end
    if (!this.working && this.queue.length) this.working = requestAnimationFrame(() => this.work());
  }

  work() {
    const until = performance.now() + SLICE;
    while (this.queue.length && performance.now() < until) {
      const cell = this.queue.pop();
      cell.canvas ??= document.createElement("canvas");
      this.on.paint(cell.canvas, cell.x, cell.y);
      this.cells.set(cell.key, { ...cell, fresh: true });
    }
    this.drawBackground();
    this.working = this.queue.length ? requestAnimationFrame(() => this.work()) : 0;
  }

  drawBackground() {
    const c = this.behind;
    c.clearRect(0, 0, this.width, this.height);
    if (!this.background) return;
    this.back.style.opacity = this.dots && this.x.length ? 0.6 : 1; // behind points no colour is as strong as theirs
    // those of another size fill the gaps until all of this size are there
    const some = [...this.cells.values()].filter((cell) => cell.k === this.level || this.queue.length);
    const ordered = some.sort((a, b) => (a.k === this.level) - (b.k === this.level) || b.k - a.k);
    for (const { x, y, step, canvas } of ordered) {
      const size = step * this.scale, [left, up] = this.toScreen(x, y).map((at) => at - size / 2);
      const [a, b] = [Math.round(left), Math.round(up)];
      if (a > this.width || b > this.height || left + size < 0 || up + size < 0) continue;
      const [wide, high] = [Math.round(left + size) - a - this.gap, Math.round(up + size) - b - this.gap]; // whole pixels
      c.imageSmoothingEnabled = wide < canvas.width;
      c.drawImage(canvas, a, b, wide, high);
    }
  }
}
