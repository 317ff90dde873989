// The kernels of reference.py for an NVIDIA GPU: same names, same formulas, one pass over memory each.
//
//     B batch   I, O layer in/out   D data dimension   Z latent dimension   N all parameters   arrays are row-major
//
// REAL is float or double: the file is compiled once for each. It includes nothing, so that NVRTC compiles it from a
// string and a C++ compiler with a few definitions runs it on a CPU. Arrays written come first, then arrays read, then
// sizes, then what changes from step to step, in device memory so that a recorded graph can be replayed:
//     s   real numbers (learning rate, beta, ...)      n   whole numbers (step, row of the trace)
//     stop   1 once a gradient was no number, 3 once that or a loss is on record: from then on nothing is updated or
//            recorded, and the step repeats itself; 2 in a rehearsal, which updates and records nothing
// Matrix products are cuBLAS's, or `product` at the end. Blocks have THREADS threads; sums are taken in one fixed order.

#define THREADS 256

typedef REAL real;
typedef long long whole;

__device__ inline float exp_of(float x) { return expf(x); }
__device__ inline double exp_of(double x) { return exp(x); }
__device__ inline float log_of(float x) { return logf(x); }
__device__ inline double log_of(double x) { return log(x); }
__device__ inline float log1p_of(float x) { return log1pf(x); }
__device__ inline double log1p_of(double x) { return log1p(x); }
__device__ inline float expm1_of(float x) { return expm1f(x); }
__device__ inline double expm1_of(double x) { return expm1(x); }
__device__ inline float tanh_of(float x) { return tanhf(x); }
__device__ inline double tanh_of(double x) { return tanh(x); }
__device__ inline float root_of(float x) { return sqrtf(x); }
__device__ inline double root_of(double x) { return sqrt(x); }
__device__ inline void sincospi_of(float x, float* s, float* c) { sincospif(x, s, c); }
__device__ inline void sincospi_of(double x, double* s, double* c) { sincospi(x, s, c); }
__device__ inline bool is_finite(real x) { return x - x == 0; }
__device__ inline real positive(real x) { return x < 0 ? real(0) : x; }  // NaN stays

// every i below size, each once: thread by thread, then a whole grid further
#define EACH(i, size) \
    for (whole i = blockIdx.x * (whole)THREADS + threadIdx.x; i < (size); i += (whole)gridDim.x * THREADS)

// i / n, in 32 bits where both fit: whole division is slow on a GPU, and that of 64 bits slower still
__device__ inline whole quotient(whole i, whole n) {
    return (i | n) >> 32 ? i / n : (whole)((unsigned)i / (unsigned)n);
}

// The sum of one number from each thread of the block, in every thread: 8 numbers a thread of the first warp, then 32.
template <typename number>
__device__ inline number block_sum(number mine) {
    __shared__ number numbers[THREADS];
    __syncthreads();
    numbers[threadIdx.x] = mine;
    __syncthreads();
    if (threadIdx.x < 32) {
        number sum = 0;
        for (int k = threadIdx.x; k < THREADS; k += 32) sum += numbers[k];
        numbers[threadIdx.x] = sum;
    }
    __syncthreads();
    number sum = 0;
    for (int k = 0; k < 32; k++) sum += numbers[k];
    return sum;
}

// ---- Activations: f numbers them as reference.ACTIVATIONS does

#define GELU_C real(0.79788456080286535588)  // sqrt(2 / pi)
#define GELU_K real(0.044715)

__device__ inline real activated(real a, int f) {
    switch (f) {
        case 1: return positive(a);
        case 2: return a < 0 ? real(0.01) * a : a;
        case 3: return tanh_of(a);
        case 4: return real(1) / (real(1) + exp_of(-a));
        case 5: return positive(a) + log1p_of(exp_of(a < 0 ? a : -a));
        case 6: return a * (real(0.5) * (real(1) + tanh_of(GELU_C * a * (real(1) + GELU_K * a * a))));
        default: return a;
    }
}

__device__ inline real derivative(real a, real y, int f) {
    switch (f) {
        case 1: return y > 0 ? real(1) : real(0);
        case 2: return y <= 0 ? real(0.01) : real(1);
        case 3: return real(1) - y * y;
        case 4: return y * (real(1) - y);
        case 5: return -expm1_of(-y);
        case 6: {
            real t = tanh_of(GELU_C * a * (real(1) + GELU_K * a * a));
            real du = GELU_C * (real(1) + real(3) * GELU_K * a * a);
            return real(0.5) * (real(1) + t) + real(0.5) * a * (real(1) - t * t) * du;
        }
        default: return real(1);
    }
}

// ---- The dense layer, beside its products

// a [B, O] += b [O];  y [B, O] = f(a).  y may be a.
extern "C" __global__ void bias_activation(real* y, real* a, const real* b, whole size, whole O, int activation) {
    EACH(i, size) {
        real value = a[i] + b[i - quotient(i, O) * O];
        a[i] = value;
        y[i] = activated(value, activation);
    }
}

// dy [B, O] becomes da = dy f'(a);  db [O] = sum_b da.  A block takes 32 columns of `rows` rows, 8 threads a column, and of
// these rows alone is its db, [blocks in y, O]: sum_rows adds them up. A thread asks for four numbers before it uses one.
extern "C" __global__ void activation_backward(real* dy, real* db, const real* a, const real* y, whole B, whole O,
                                               whole rows, int activation) {
    __shared__ real sums[THREADS];
    whole o = blockIdx.x * (whole)32 + threadIdx.x % 32;
    whole first = blockIdx.y * rows, last = first + rows < B ? first + rows : B;
    real sum = 0;
    if (o < O) {
        for (whole b = first + threadIdx.x / 32; b < last; b += 4 * (THREADS / 32)) {
            real da[4], before[4], after[4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                whole place = (b + k * (THREADS / 32)) * O + o;
                bool inside = b + k * (THREADS / 32) < last;
                da[k] = inside ? dy[place] : real(0);
                before[k] = inside && activation != 0 ? a[place] : real(0);
                after[k] = inside && activation != 0 ? y[place] : real(0);
            }
#pragma unroll
            for (int k = 0; k < 4; k++) {
                if (b + k * (THREADS / 32) < last) {
                    if (activation != 0) {
                        da[k] *= derivative(before[k], after[k], activation);
                        dy[(b + k * (THREADS / 32)) * O + o] = da[k];
                    }
                    sum += da[k];
                }
            }
        }
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < 32 && o < O) {
        for (int k = 1; k < THREADS / 32; k++) sum += sums[threadIdx.x + 32 * k];
        db[blockIdx.y * O + o] = sum;
    }
}

// total [C] = sum of the rows of part [B, C], from the first to the last
extern "C" __global__ void sum_rows(real* total, const real* part, whole B, whole C) {
    EACH(c, C) {
        real sum = 0;
        for (whole b = 0; b < B; b++) sum += part[b * C + c];
        total[c] = sum;
    }
}

// ---- The latent variable: h = [mu | logvar] [B, 2Z], with K = S / B samples for each example

// z [S, Z] = mu + sigma eps;  kl [B, Z] = 1/2 ( sigma^2 + mu^2 - logvar - 1 )
extern "C" __global__ void sample_forward(real* z, real* kl, const real* h, const real* eps, whole B, whole S, whole Z) {
    whole K = S / B;
    EACH(i, S * Z) {
        whole s = quotient(i, Z), j = i - s * Z, b = quotient(s, K), place = 2 * b * Z + j;
        real mu = h[place], logvar = h[place + Z], sigma = exp_of(real(0.5) * logvar);
        z[i] = mu + sigma * eps[i];
        if (s == b * K) kl[b * Z + j] = real(0.5) * (sigma * sigma + mu * mu - logvar - real(1));
    }
}

// dmu = sum_k dz + dkl mu;  dlogvar = 1/2 ( sum_k dz eps sigma + dkl (sigma^2 - 1) );  dkl_bj = weight_b dkl_mean_j
extern "C" __global__ void sample_backward(real* dh, const real* dz, const real* h, const real* eps, const real* dkl_mean,
                                           const real* weight, whole B, whole S, whole Z) {
    whole K = S / B;
    EACH(i, B * Z) {
        whole b = quotient(i, Z), j = i - b * Z, place = b * Z + i;
        real dkl = weight[b] * dkl_mean[j], sigma = exp_of(real(0.5) * h[place + Z]), dmu = 0, dlogvar = 0;
        for (whole k = 0, s = b * K * Z + j; k < K; k++, s += Z) {
            dmu += dz[s];
            dlogvar += dz[s] * eps[s];
        }
        dh[place] = dmu + dkl * h[place];
        dh[place + Z] = real(0.5) * (dlogvar * sigma + dkl * (sigma * sigma - real(1)));
    }
}

// kl_mean [Z] = sum_b weight_b kl_bj;  dkl_mean = beta, but 0 below free_bits.  A block for each j; s = beta, free_bits.
extern "C" __global__ void kl_loss(real* kl_mean, real* dkl_mean, const real* kl, const real* weight, whole B, whole Z,
                                   const real* s) {
    whole j = blockIdx.x;
    real mine = 0;
    for (whole b = threadIdx.x; b < B; b += THREADS) mine += weight[b] * kl[b * Z + j];
    real mean = block_sum(mine);
    if (threadIdx.x == 0) {
        kl_mean[j] = mean;
        dkl_mean[j] = s[1] > 0 && mean < s[1] ? real(0) : s[0];
    }
}

// dkl_mean [Z] *= sign( sum_j max(free_bits, kl_mean_j) - capacity ).  One block; s = beta, free_bits, capacity, 0 for none.
extern "C" __global__ void kl_capacity(real* dkl_mean, const real* kl_mean, whole Z, const real* s) {
    real mine = 0;
    for (whole j = threadIdx.x; j < Z; j += THREADS) mine += kl_mean[j] < s[1] ? s[1] : kl_mean[j];
    real excess = block_sum(mine) - s[2], sign = excess > 0 ? real(1) : excess < 0 ? real(-1) : excess;  // NaN stays
    for (whole j = threadIdx.x; j < Z && s[2] > 0; j += THREADS) dkl_mean[j] *= sign;
}

// ---- Importance-weighted bounds, see kernels/bounds.py

extern "C" __global__ void repeat(real* y, const real* x, whole B, whole S, whole C) {
    whole K = S / B;
    EACH(i, S * C) {
        whole s = quotient(i, C);
        y[i] = x[quotient(s, K) * C + i - s * C];
    }
}

// log w = -nll + beta / 2 sum_j ( logvar + eps^2 - z^2 );  bound [B] = -log mean_k w;  dnll [S] = weight softmax_k(log w);
// terms [B, Z + 1] = [ kl | mean_k nll ].  A block for each example, a thread for a sample; s = beta
extern "C" __global__ void importance_bound(real* bound, real* dnll, real* terms, const real* nll, const real* kl, const real* z,
                                            const real* h, const real* eps, const real* weight, whole B, whole S, whole Z,
                                            const real* s) {
    whole K = S / B, b = blockIdx.x, first = b * K;
    real mine = 0, sum = 0;
    for (whole j = threadIdx.x; j < Z; j += THREADS) {
        mine += h[2 * b * Z + Z + j];
        terms[b * (Z + 1) + j] = kl[b * Z + j];
    }
    real volume = block_sum(mine);
    for (whole k = threadIdx.x; k < K; k += THREADS) {
        real ratio = volume;
        for (whole j = (first + k) * Z; j < (first + k + 1) * Z; j++) ratio += eps[j] * eps[j] - z[j] * z[j];
        dnll[first + k] = real(0.5) * s[0] * ratio - nll[first + k];
        sum += nll[first + k];
    }
    real total = block_sum(sum), top = dnll[first];
    for (whole k = 1; k < K; k++) top = dnll[first + k] > top || dnll[first + k] != dnll[first + k] ? dnll[first + k] : top;
    mine = 0;
    __syncthreads();  // all know the largest: now it may be taken out
    for (whole k = threadIdx.x; k < K; k += THREADS) {
        real w = exp_of(dnll[first + k] - top);
        dnll[first + k] = w < real(1e-20) ? real(0) : w;
        mine += dnll[first + k];
    }
    real w = block_sum(mine);
    for (whole k = threadIdx.x; k < K; k += THREADS) dnll[first + k] *= weight[b] / w;
    if (threadIdx.x == 0) {
        bound[b] = -top - log_of(w / real(K));
        terms[b * (Z + 1) + Z] = total / real(K);
    }
}

// dout [S, P] *= dnll [S]
extern "C" __global__ void weigh(real* dout, const real* dnll, whole size, whole P) {
    EACH(i, size) dout[i] = dnll[quotient(i, P)] == 0 ? real(0) : dout[i] * dnll[quotient(i, P)];
}

// estimator: 0 iwae, 1 stl, 2 dreg;  s = beta
extern "C" __global__ void importance_backward(real* dh, const real* dz, const real* z, const real* h, const real* eps,
                                               const real* dnll, const real* weight, whole B, whole S, whole Z, int estimator,
                                               const real* s) {
    whole K = S / B;
    real beta = s[0];
    EACH(i, B * Z) {
        whole b = quotient(i, Z), j = i - b * Z, place = b * Z + i;
        real sigma = exp_of(real(0.5) * h[place + Z]), dmu = 0, dlogvar = 0, sum = 0;
        for (whole k = b * K; k < (b + 1) * K; k++) {
            real c = beta * dnll[k], e = eps[k * Z + j], g = dz[k * Z + j] + c * z[k * Z + j];
            if (estimator != 0) g -= c * e / sigma;
            if (estimator == 2) g *= real(1) - beta + c / weight[b];
            dmu += g;
            dlogvar += g * e;
            sum += c;
        }
        dh[place] = dmu;
        dh[place + Z] = real(0.5) * (dlogvar * sigma - (estimator == 0 ? sum : real(0)));
    }
}

// ---- Likelihoods: a block for each example

// nll [B] = sum_d softplus(a) - x a;  dlogits = weight (sigmoid(a) - x).  With e = exp(-|a|) nothing overflows.
extern "C" __global__ void bernoulli_loss(real* dlogits, real* nll, const real* logits, const real* x, const real* weight,
                                          whole D) {
    whole row = blockIdx.x * D;
    real mine = 0, w = weight[blockIdx.x];
    for (whole d = threadIdx.x; d < D; d += THREADS) {
        real a = logits[row + d], target = x[row + d], e = exp_of(a < 0 ? a : -a);
        mine += positive(a) + log1p_of(e) - target * a;
        dlogits[row + d] = w * ((a < 0 ? e : real(1)) / (real(1) + e) - target);
    }
    real sum = block_sum(mine);
    if (threadIdx.x == 0) nll[blockIdx.x] = sum;
}

#define HALF_LOG_2PI real(0.91893853320467274178)

// r = (mean - x) / s;  nll = sum_d r^2 / 2 + log s + log(2 pi) / 2;  dmean = weight r / s;  part [B] = weight (D - sum r^2)
extern "C" __global__ void gaussian_loss(real* dmean, real* part, real* nll, const real* mean, const real* x,
                                         const real* log_sigma, const real* weight, whole D) {
    whole row = blockIdx.x * D;
    real mine = 0, w = weight[blockIdx.x], inverse_sigma = exp_of(-log_sigma[0]);
    for (whole d = threadIdx.x; d < D; d += THREADS) {
        real r = (mean[row + d] - x[row + d]) * inverse_sigma;
        mine += r * r;
        dmean[row + d] = w * inverse_sigma * r;
    }
    real squares = block_sum(mine);
    if (threadIdx.x == 0) {
        nll[blockIdx.x] = real(0.5) * squares + real(D) * (log_sigma[0] + HALF_LOG_2PI);
        part[blockIdx.x] = w * (real(D) - squares);
    }
}

// exp(a) - x a + log x! for whole x, as the book takes it: without large numbers that cancel
__device__ inline real nll_of_count(real a, real x) {
    if (x < 9) {
        real product = 1;
        for (int k = 2; k < 9; k++) product *= x >= k ? real(k) : real(1);
        return exp_of(a) - x * a + log_of(product);
    }
    real z = real(1) / (x * x), series = real(-691.0 / 360360);
    series = ((((series * z + real(1.0 / 1188)) * z - real(1.0 / 1680)) * z + real(1.0 / 1260)) * z - real(1.0 / 360)) * z;
    real l = log_of(x), u = a - l;
    return x * (expm1_of(u) - u) + HALF_LOG_2PI + real(0.5) * l + (series + real(1.0 / 12)) / x;
}

// a = log_rate;  nll = sum_d exp(a) - x a + log x!;  dlog_rate = weight (exp(a) - x)
extern "C" __global__ void poisson_loss(real* dlog_rate, real* nll, const real* log_rate, const real* x, const real* weight,
                                        whole D) {
    whole row = blockIdx.x * D;
    real mine = 0, w = weight[blockIdx.x];
    for (whole d = threadIdx.x; d < D; d += THREADS) {
        real a = log_rate[row + d], target = x[row + d];
        mine += nll_of_count(a, target);
        dlog_rate[row + d] = w * (exp_of(a) - target);
    }
    real sum = block_sum(mine);
    if (threadIdx.x == 0) nll[blockIdx.x] = sum;
}

// ---- A likelihood for every column, see kernels/columns.py

// observed = 1, or 0 where x is NaN;  x becomes (x - shift) / scale, 0 there;  inputs [B, E] = x or [x | observed]
extern "C" __global__ void observe(real* observed, real* inputs, real* x, const real* shift, const real* scale, whole B,
                                   whole D, whole E) {
    EACH(i, B * D) {
        whole b = quotient(i, D), d = i - b * D;
        bool seen = x[i] == x[i];
        real value = seen ? (x[i] - shift[d]) / scale[d] : real(0);
        observed[i] = seen ? real(1) : real(0);
        x[i] = value;
        inputs[b * E + d] = value;
        if (d + D < E) inputs[b * E + d + D] = observed[i];
    }
}

// y [B, P] = [a | c];  and of gradients da = the first columns of dy
extern "C" __global__ void join(real* y, const real* a, const real* c, whole size, whole P, whole E, whole C) {
    EACH(i, size) {
        whole b = quotient(i, P), d = i - b * P;
        y[i] = d < E ? a[b * E + d] : c[b * C + d - E];
    }
}

extern "C" __global__ void split(real* a, const real* y, whole size, whole E, whole P) {
    EACH(i, size) {
        whole b = quotient(i, E);
        a[i] = y[b * P + i - b * E];
    }
}

__device__ inline real stirling(real x) {
    real z = real(1) / (x * x), series = real(-691.0 / 360360);
    const real terms[5] = {real(1.0 / 1188), real(-1.0 / 1680), real(1.0 / 1260), real(-1.0 / 360), real(1.0 / 12)};
    for (int k = 0; k < 5; k++) series = series * z + terms[k];
    return series / x;
}

__device__ inline real d_stirling(real x) {
    real z = real(1) / (x * x), series = real(11 * 691.0 / 360360);
    const real terms[5] = {real(-9.0 / 1188), real(7.0 / 1680), real(-5.0 / 1260), real(3.0 / 360), real(-1.0 / 12)};
    for (int k = 0; k < 5; k++) series = series * z + terms[k];
    return series * z;
}

#define LEAST real(-6.90775527898213705)  // the log of a thousandth
#define MOST real(15)

// a gaussian whose log sigma s is factor t, floored:  the loss; r = (mean - x) / sigma; ds/dt
__device__ inline real gaussian_cell(real mean, real x, real t, real factor, real* dmean, real* dt) {
    real above = factor * t - LEAST, e = exp_of(above < 0 ? above : -above);
    real s = LEAST + positive(above) + log1p_of(e), r = (mean - x) * exp_of(-s);
    *dmean = r * exp_of(-s);
    *dt = factor * (real(1) - r * r) * (above < 0 ? e : real(1)) / (real(1) + e);
    return real(0.5) * r * r + s + HALF_LOG_2PI;
}

__device__ inline real negative_binomial_cell(real a, real x, real t, real* da, real* dt) {
    real log_r = t < MOST ? t : MOST, u = a - log_r, e = exp_of(u < 0 ? u : -u);
    real r = exp_of(log_r), R = r + real(8), lift = 0, slope = 0, factorial = 1;
    for (int k = 0; k < 8; k++) {
        real rk = r + real(k);
        lift -= log1p_of(x / rk);
        slope += x / (rk * (x + rk));
        factorial *= x >= real(k + 1) ? real(k + 1) : real(1);
    }
    lift += (R - real(0.5)) * log1p_of(x / R) + x * log_of(x + R) - x + stirling(x + R) - stirling(R);
    slope += log1p_of(x / R) + real(0.5) * x / (R * (x + R)) + d_stirling(x + R) - d_stirling(R);
    real share = positive(u) + log1p_of(e);
    *da = (r * (u < 0 ? e : real(1)) - x * (u < 0 ? real(1) : e)) / (real(1) + e);
    *dt = t < MOST ? r * (share - slope) - *da : real(0);
    real log_factorial = x < 9 ? log_of(factorial) : (x + real(0.5)) * log_of(x) - x + HALF_LOG_2PI + stirling(x);
    return log_factorial - lift + r * share + x * (positive(-u) + log1p_of(e));
}

__device__ inline real continuous_bernoulli_cell(real a, real x, real* da) {
    real u = a < 0 ? -a : a;
    if (u < real(1e-30)) u = real(1e-30);
    real rest = -expm1_of(-u), z = a * a;
    real far = a < 0 ? real(1) / u - exp_of(-u) / rest : real(1) / rest - real(1) / u;
    real series = real(1.0 / 47900160);
    const real terms[4] = {real(-1.0 / 1209600), real(1.0 / 30240), real(-1.0 / 720), real(1.0 / 12)};
    for (int k = 0; k < 4; k++) series = series * z + terms[k];
    *da = (u < real(0.3) ? real(0.5) + a * series : far) - x;
    return positive(a) + log_of(rest / u) - x * a;
}

// nll [B] of the observed cells, dout [B, P], dt [B, D]; runs [R, 4]: kind, first column of x, first of out, columns
extern "C" __global__ void columns_loss(real* dout, real* dt, real* nll, const real* out, const real* x, const real* observed,
                                        const real* t, const real* log_scale, const whole* runs, const real* weight, whole D,
                                        whole P, whole R) {
    whole row = blockIdx.x * D;
    real mine = 0, w = weight[blockIdx.x];
    for (whole i = 0; i < R; i++) {
        whole kind = runs[4 * i], c = runs[4 * i + 1], n = runs[4 * i + 3];
        const real *values = x + row + c, *seen = observed + row + c, *a = out + blockIdx.x * P + runs[4 * i + 2];
        real *da = dout + blockIdx.x * P + runs[4 * i + 2], *dt_of = dt + row + c;
        if (kind == 6) {  // a group of one-hot columns, by one thread: groups are small
            if (threadIdx.x == i % THREADS) {
                real top = a[0], sum = 0, hit = 0;
                for (whole k = 1; k < n; k++) top = a[k] > top ? a[k] : top;
                for (whole k = 0; k < n; k++) {
                    sum += exp_of(a[k] - top);
                    hit += a[k] * values[k];
                }
                for (whole k = 0; k < n; k++) da[k] = seen[0] > 0 ? w * (exp_of(a[k] - top) / sum - values[k]) : real(0);
                if (seen[0] > 0) mine += log_of(sum) + top - hit;
            }
        }
        for (whole k = threadIdx.x; k < n; k += THREADS) {
            real cell = 0, slope = 0, slope_t = 0;
            dt_of[k] = 0;
            if (seen[k] > 0) {
                mine += log_scale[c + k];
                if (kind == 0) {
                    real e = exp_of(a[k] < 0 ? a[k] : -a[k]);
                    cell = positive(a[k]) + log1p_of(e) - values[k] * a[k];
                    slope = (a[k] < 0 ? e : real(1)) / (real(1) + e) - values[k];
                } else if (kind == 1) {
                    cell = continuous_bernoulli_cell(a[k], values[k], &slope);
                } else if (kind == 2) {
                    cell = gaussian_cell(a[k], values[k], t[c + k], real(1), &slope, &slope_t);
                } else if (kind == 3) {
                    cell = gaussian_cell(a[k], values[k], a[n + k], real(0.5), &slope, &slope_t);
                } else if (kind == 4) {
                    cell = nll_of_count(a[k], values[k]);
                    slope = exp_of(a[k]) - values[k];
                } else if (kind == 5) {
                    cell = negative_binomial_cell(a[k], values[k], t[c + k], &slope, &slope_t);
                }
            }
            mine += cell;
            if (kind != 6) da[k] = w * slope;
            if (kind == 3) da[n + k] = w * slope_t;
            if (kind == 2 || kind == 5) dt_of[k] = w * slope_t;
        }
    }
    real sum = block_sum(mine);
    if (threadIdx.x == 0) nll[blockIdx.x] = sum;
}

// result [1] = sum of values [size], by one block
extern "C" __global__ void total(real* result, const real* values, whole size) {
    real mine = 0;
    for (whole i = threadIdx.x; i < size; i += THREADS) mine += values[i];
    real sum = block_sum(mine);
    if (threadIdx.x == 0) result[0] = sum;
}

// ---- Optimizers on flat vectors [N]

// part [blocks]: each block's share of ||g||^2, in double: the square of a norm that float can hold may be more than it can
extern "C" __global__ void squares(double* part, const real* g, whole size) {
    double mine = 0;
    EACH(i, size) mine += (double)g[i] * (double)g[i];
    double sum = block_sum(mine);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

// norm [1] = sqrt(sum of part [size]), by one block; a norm that is no number stops the updates
extern "C" __global__ void norm_of_squares(real* norm, whole* stop, const double* part, whole size) {
    double mine = 0;
    for (whole i = threadIdx.x; i < size; i += THREADS) mine += part[i];
    double sum = block_sum(mine);
    if (threadIdx.x == 0) {
        norm[0] = real(root_of(sum));
        if (stop && !stop[0] && !is_finite(norm[0])) stop[0] = 1;
    }
}

// g is scaled to the norm s[0] where it is longer
extern "C" __global__ void clip(real* g, const real* norm, whole size, const real* s) {
    real factor = s[0] / norm[0];
    if (!(norm[0] > s[0])) return;
    EACH(i, size) g[i] *= factor;
}

// m = momentum m + g;  p -= learning_rate m, with Nesterov learning_rate (g + momentum m);  s = learning_rate, momentum
extern "C" __global__ void sgd_step(real* p, real* m, const real* g, whole size, int nesterov, const real* s,
                                    const whole* stop) {
    if (stop && stop[0]) return;
    real rate = s[0], momentum = s[1];
    EACH(i, size) {
        real velocity = momentum * m[i] + g[i];
        m[i] = velocity;
        p[i] -= rate * (nesterov ? g[i] + momentum * velocity : velocity);
    }
}

// Adam and AdamW: s = learning_rate / (1 - beta1^step), 1 / sqrt(1 - beta2^step), 1 - beta1, 1 - beta2, epsilon,
// 1 - learning_rate weight_decay
extern "C" __global__ void adam_step(real* p, real* m, real* v, const real* g, whole size, const real* s,
                                     const whole* stop) {
    if (stop && stop[0]) return;
    real step_size = s[0], root_correction = s[1], c1 = s[2], c2 = s[3], epsilon = s[4], keep = s[5];
    EACH(i, size) {
        real gradient = g[i], mean = m[i], square = v[i];
        mean += c1 * (gradient - mean);
        square += c2 * (gradient * gradient - square);
        m[i] = mean;
        v[i] = square;
        p[i] = keep * p[i] - step_size * mean / (root_of(square) * root_correction + epsilon);
    }
}

// ---- Randomness: Philox4x32-10 with the counter (block, example, step, purpose), n = step; then Box and Muller

struct Words {
    unsigned w[4];
};

__device__ inline Words philox(unsigned c0, unsigned c1, unsigned c2, unsigned c3, unsigned k0, unsigned k1) {
    for (int round = 0; round < 10; round++) {
        unsigned long long p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
        c0 = (unsigned)(p1 >> 32) ^ c1 ^ k0;
        c1 = (unsigned)p1;
        c2 = (unsigned)(p0 >> 32) ^ c3 ^ k1;
        c3 = (unsigned)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return Words{{c0, c1, c2, c3}};
}

__device__ inline real unit(unsigned word) { return (real(word >> 9) + real(0.5)) * real(1.0 / 8388608); }

// u [B, C] uniform in (0, 1), row b belonging to examples[b]; a thread for each four of a row
extern "C" __global__ void philox_uniform(real* u, const whole* examples, whole B, whole C, unsigned k0, unsigned k1,
                                          unsigned purpose, const whole* n) {
    whole blocks = (C + 3) / 4;
    EACH(i, B * blocks) {
        whole b = quotient(i, blocks), block = i - b * blocks, first = 4 * block;
        Words words = philox((unsigned)block, (unsigned)examples[b], (unsigned)n[0], purpose, k0, k1);
        for (int lane = 0; lane < 4; lane++)
            if (first + lane < C) u[b * C + first + lane] = unit(words.w[lane]);
    }
}

// eps [B, C] standard normal, alike
extern "C" __global__ void philox_normal(real* eps, const whole* examples, whole B, whole C, unsigned k0, unsigned k1,
                                         unsigned purpose, const whole* n) {
    whole blocks = (C + 3) / 4;
    EACH(i, B * blocks) {
        whole b = quotient(i, blocks), block = i - b * blocks, first = 4 * block;
        Words words = philox((unsigned)block, (unsigned)examples[b], (unsigned)n[0], purpose, k0, k1);
        for (int lane = 0; lane < 4 && first + lane < C; lane += 2) {
            real sine, cosine, radius = root_of(real(-2) * log_of(unit(words.w[lane])));
            sincospi_of(real(2) * unit(words.w[lane + 1]), &sine, &cosine);
            eps[b * C + first + lane] = radius * cosine;
            if (first + lane + 1 < C) eps[b * C + first + lane + 1] = radius * sine;
        }
    }
}

// ---- Batches

// x [B, D] = data[rows] / s[0], from data of any type;  and with it 1 where u < x, else 0, for u as philox_uniform draws it
#define GATHER(type, name)                                                                                              \
    extern "C" __global__ void name(real* x, const type* data, const whole* rows, whole size, whole D, const real* s) { \
        EACH(i, size) {                                                                                                 \
            whole b = quotient(i, D);                                                                                   \
            x[i] = real(data[rows[b] * D + i - b * D]) / s[0];                                                          \
        }                                                                                                               \
    }                                                                                                                   \
    extern "C" __global__ void name##_binarized(real* x, const type* data, const whole* rows, whole B, whole D,         \
                                                unsigned k0, unsigned k1, unsigned purpose, const real* s,              \
                                                const whole* n) {                                                       \
        whole blocks = (D + 3) / 4;                                                                                     \
        EACH(i, B * blocks) {                                                                                           \
            whole b = quotient(i, blocks), block = i - b * blocks, first = 4 * block;                                   \
            Words words = philox((unsigned)block, (unsigned)rows[b], (unsigned)n[0], purpose, k0, k1);                  \
            for (int lane = 0; lane < 4; lane++)                                                                        \
                if (first + lane < D) {                                                                                 \
                    real grey = real(data[rows[b] * D + first + lane]) / s[0];                                          \
                    x[b * D + first + lane] = unit(words.w[lane]) < grey ? real(1) : real(0);                           \
                }                                                                                                       \
        }                                                                                                               \
    }
GATHER(unsigned char, gather_uint8)
GATHER(short, gather_int16)
GATHER(int, gather_int32)
GATHER(whole, gather_int64)
GATHER(float, gather_float32)
GATHER(double, gather_float64)

// x [B, D] becomes 1 where u < x, else 0
extern "C" __global__ void binarize(real* x, const real* u, whole size) {
    EACH(i, size) x[i] = u[i] < x[i] ? real(1) : real(0);
}

// trace[n[0]] = [mean nll, norm, kl_mean ..], by one block; a loss that is no number stops what follows
extern "C" __global__ void record(double* trace, whole* stop, const real* nll, const real* kl_mean, const real* norm,
                                  const real* weight, whole B, whole Z, const whole* n) {
    if (stop && stop[0] >= 2) return;
    real mine = 0;
    for (whole b = threadIdx.x; b < B; b += THREADS) mine += weight[b] * nll[b];
    real mean = block_sum(mine);
    double* row = trace + n[0] * (2 + Z);
    for (whole j = threadIdx.x; j < Z; j += THREADS) row[2 + j] = kl_mean[j];
    if (threadIdx.x == 0) {
        row[0] = mean;
        row[1] = norm[0];
        if (stop && (stop[0] || !(is_finite(mean) && is_finite(norm[0])))) stop[0] = 3;
    }
}

// ---- A recorded step begins here: the next row of each table becomes the current one. state = [stop, steps begun]

extern "C" __global__ void advance(real* s, whole* n, whole* rows, whole* state, const real* all_s, const whole* all_n,
                                   const whole* all_rows, whole count_s, whole count_n, whole count_rows) {
    whole step = state[1];
    if (state[0]) return;  // the step that failed is repeated, with its own numbers
    for (whole i = threadIdx.x; i < count_s; i += THREADS) s[i] = all_s[step * count_s + i];
    for (whole i = threadIdx.x; i < count_n; i += THREADS) n[i] = all_n[step * count_n + i];
    for (whole i = threadIdx.x; i < count_rows; i += THREADS) rows[i] = all_rows[step * count_rows + i];
    __syncthreads();
    if (threadIdx.x == 0) state[1] = step + 1;
}

// ---- Matrix products, where cuBLAS is not at hand

// c [M, N] = a b, a_ik at a + i a_row + k a_column, b_kj at b + k b_row + j b_column.  A block makes a square of 64 by 64,
// each thread 4 by 4 of it, from pieces 16 deep that all threads fetch together.
#define SIDE 64
#define DEPTH 16
extern "C" __global__ void product(real* c, const real* a, const real* b, whole M, whole N, whole K, whole a_row,
                                   whole a_column, whole b_row, whole b_column) {
    __shared__ real as[DEPTH][SIDE + 4], bs[DEPTH][SIDE + 4];
    whole i0 = blockIdx.y * (whole)SIDE, j0 = blockIdx.x * (whole)SIDE;
    int across = threadIdx.x % 16 * 4, down = threadIdx.x / 16 * 4;
    real sums[4][4] = {};
    for (whole k0 = 0; k0 < K; k0 += DEPTH) {
        for (int t = threadIdx.x; t < SIDE * DEPTH; t += THREADS) {
            // neighbours in memory are fetched by neighbouring threads, whichever way an operand lies
            int i = a_column == 1 ? t / DEPTH : t % SIDE, ka = a_column == 1 ? t % DEPTH : t / SIDE;
            int j = b_column == 1 ? t % SIDE : t / DEPTH, kb = b_column == 1 ? t / SIDE : t % DEPTH;
            as[ka][i] = i0 + i < M && k0 + ka < K ? a[(i0 + i) * a_row + (k0 + ka) * a_column] : real(0);
            bs[kb][j] = j0 + j < N && k0 + kb < K ? b[(k0 + kb) * b_row + (j0 + j) * b_column] : real(0);
        }
        __syncthreads();
        for (int k = 0; k < DEPTH; k++)
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) sums[i][j] += as[k][down + i] * bs[k][across + j];
        __syncthreads();
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            if (i0 + down + i < M && j0 + across + j < N) c[(i0 + down + i) * N + j0 + across + j] = sums[i][j];
}
