"use strict";
// The model in the page: arrays from text, and the decoder with the mean of every likelihood. See likelihoods.py.

// A number of 16 bits (IEEE 754 binary16: sign, 5 bits of exponent, 10 of fraction) as a float.
function fromHalf(bits) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023, sign = bits >> 15 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}

const STORED = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array, float16: Uint16Array };

// {name: typed array} from base64 of deflated bytes, and the directory [name, dtype, shape] of what lies in them.
async function unpack(text, directory) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const all = await new Response(stream).arrayBuffer(), arrays = {};
  let at = 0;
  for (const [name, dtype, shape] of directory) {
    const end = at + STORED[dtype].BYTES_PER_ELEMENT * shape.reduce((product, n) => product * n, 1);
    const stored = new STORED[dtype](all.slice(at, end));
    arrays[name] = dtype === "float16" ? Float32Array.from(stored, fromHalf) : stored;
    at = end;
  }
  return arrays;
}

const sigmoid = (a) => 0.5 * (1 + Math.tanh(0.5 * a));

const ACTIVATIONS = {
  identity: (a) => a,
  relu: (a) => Math.max(a, 0),
  leaky_relu: (a) => Math.max(a, 0.01 * a),
  tanh: Math.tanh,
  sigmoid,
  softplus: (a) => Math.max(a, 0) + Math.log1p(Math.exp(-Math.abs(a))),
  gelu: (a) => 0.5 * a * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * a * (1 + 0.044715 * a * a))),
};

// 1 / (1 - e^-a) - 1/a, by its series where the two terms cancel; of large -a by the symmetry m(-a) = 1 - m(a).
function continuousBernoulliMean(a) {
  if (Math.abs(a) < 0.3) {
    const z = a * a;
    return 0.5 + a * (1 / 12 + z * (-1 / 720 + z * (1 / 30240 + z * (-1 / 1209600 + z / 47900160))));
  }
  const u = Math.abs(a), above = -1 / Math.expm1(-u) - 1 / u;
  return a < 0 ? 1 - above : above;
}

// The mean of p(x|z) from the decoder's output, in place, for the columns of one run.
const each = (f) => (a) => a.forEach((value, i) => { a[i] = f(value); });
const MEANS = {
  bernoulli: each(sigmoid),
  continuous_bernoulli: each(continuousBernoulliMean),
  gaussian: () => {},
  poisson: each(Math.exp),
  negative_binomial: each(Math.exp),
  categorical(a) {
    const top = a.reduce((most, value) => Math.max(most, value));
    let total = 0;
    for (let i = 0; i < a.length; i++) total += a[i] = Math.exp(a[i] - top);
    for (let i = 0; i < a.length; i++) a[i] /= total;
  },
};

class Decoder {
  constructor(model, arrays) {
    this.model = model;
    this.layers = model.layers.map(([name, , outputs, activation]) => (
      { outputs, f: ACTIVATIONS[activation], W: arrays[`${name}.W`], b: arrays[`${name}.b`] }));
    this.columns = model.runs.reduce((sum, [, , count]) => sum + count, 0);
  }

  // y = f(x W + b), row of W by row, as these lie one behind the other; a unit that is 0 adds nothing.
  dense({ outputs, f, W, b }, x) {
    const y = Float64Array.from(b);
    for (let i = 0, at = 0; i < x.length; i++, at += outputs) {
      const value = x[i];
      if (value === 0) continue;
      for (let o = 0; o < outputs; o++) y[o] += value * W[at + o];
    }
    for (let o = 0; o < outputs; o++) y[o] = f(y[o]);
    return y;
  }

  // The mean [D] of p(x|z, side), in the units of VAE.inverse_transform.
  mean(z, side = []) {
    const out = this.layers.reduce((x, layer) => this.dense(layer, x), Float64Array.of(...z, ...side));
    const { shift, scale, runs } = this.model, mean = new Float64Array(this.columns);
    let at = 0;
    for (const [likelihood, output, count] of runs) {
      const part = out.subarray(output, output + count);
      MEANS[likelihood](part);
      mean.set(part, at);
      at += count;
    }
    return shift ? mean.map((value, d) => shift[d] + scale[d] * value) : mean;
  }
}
