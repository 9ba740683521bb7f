// TTT-Linear, forward and backward: one block a head of a row of the batch walks over the mini-batches with the fast
// weights in shared memory. `D_HEAD` (d), `MINI_BATCH` (b) and `THREADS` are defined in front of this text.
//
// Matrices in shared memory are padded with zeros to multiples of four, so that everything is read four at a time;
// rows are four longer still, so that neighbouring rows lie in other banks. A last mini-batch of fewer than b tokens
// is filled up with zeros whose rate is zero: they change nothing.
//
// Names are those of `ops::ttt`: `dx` is the gradient of the outer loss for `x`.

#define D D_HEAD
#define B MINI_BATCH
#define DP ((D + 3) / 4 * 4)
#define BP ((B + 3) / 4 * 4)
#define LD (DP + 4)
#define LB (BP + 4)
#define STATE ((D + 1) * D)
#define WARPS (THREADS / WARP)
#define LN_EPS 1e-6f

// Columns of a row that a lane holds, and what a thread fetches ahead: pairs of a mini-batch, values of a state.
#define COLUMNS ((D + WARP - 1) / WARP)
#define PAIRS ((B * (D / 2) + THREADS - 1) / THREADS)
#define VALUES ((STATE + THREADS - 1) / THREADS)

// Row tiles of `product` for many and for few rows.
#define TALL 4
#define FLAT 2

struct Shape {
    int tokens, heads;
    float base_lr;
    int anchor;

    __device__ size_t width() const { return (size_t)heads * D; }
    __device__ int chunks() const { return (tokens + B - 1) / B; }
    // Tokens of mini-batch `m`.
    __device__ int count(int m) const { return min(B, tokens - m * B); }
};

// The learned values of head `h` in the flat parameters: starts `W [H, d, d]` and `u [H, d]`, norm, decay, tau.
struct Learned {
    const float *w, *u, *ln_weight, *ln_bias, *decay, *tau;

    __device__ Learned(const float* flat, int heads, int h) {
        size_t hd = (size_t)heads * D;
        w = flat + (size_t)h * D * D;
        u = flat + hd * D + h * D;
        ln_weight = flat + hd * (D + 1) + h * D;
        ln_bias = ln_weight + hd;
        decay = flat + hd * (D + 3) + h;
        tau = flat + hd * (D + 3) + heads;
    }

    // Value `i` of the first state, `W` then `u`, rounded as the blob stores it.
    __device__ float start(int i) const { return through_f16(i < D * D ? w[i] : u[i - D * D]); }
    __device__ float lambda(const Shape& s) const { return s.anchor ? sigmoid(*decay) : 0.0f; }
    __device__ float tau_of(int i) const { return fmaxf(1.0f / (float)(i + 1) + tau[i], 0.0f); }
};

// `put(r, c, sums)` gets the four columns from `c` of row `r` of `a [M, K] * b [K, N]`; `AT` and `BT` say that the
// operand is stored transposed. A thread makes tiles of T rows and four columns.
template <int M, int N, int K, int T, bool AT, bool BT, class F>
__device__ inline void product(const float* a, int lda, const float* b, int ldb, F put) {
    for (int tile = threadIdx.x; tile < (M / T) * (N / 4); tile += THREADS) {
        int r = tile / (N / 4) * T, c = tile % (N / 4) * 4;
        float sums[T][4] = {};
        #pragma unroll 4
        for (int k = 0; k < K; k += 4) {
            float av[T][4], bv[4][4]; // [row][k] and [k][column]
            #pragma unroll
            for (int i = 0; i < (AT ? 4 : T); i++) {
                if (AT) {
                    #pragma unroll
                    for (int t = 0; t < T; t++) av[t][i] = a[(k + i) * lda + r + t];
                } else {
                    float4 v = *(const float4*)(a + (r + i) * lda + k);
                    av[i][0] = v.x, av[i][1] = v.y, av[i][2] = v.z, av[i][3] = v.w;
                }
            }
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                float4 v = *(const float4*)(BT ? b + (c + i) * ldb + k : b + (k + i) * ldb + c);
                float four[4] = {v.x, v.y, v.z, v.w};
                #pragma unroll
                for (int j = 0; j < 4; j++) {
                    if (BT) bv[j][i] = four[j];
                    else bv[i][j] = four[j];
                }
            }
            #pragma unroll
            for (int i = 0; i < 4; i++)
                #pragma unroll
                for (int t = 0; t < T; t++)
                    #pragma unroll
                    for (int j = 0; j < 4; j++) sums[t][j] = fmaf(av[t][i], bv[i][j], sums[t][j]);
        }
        #pragma unroll
        for (int t = 0; t < T; t++) put(r + t, c, sums[t]);
    }
}

// A row spread over the lanes of a warp.
struct Row {
    float x[COLUMNS];

    template <class F> __device__ static Row of(F value) {
        Row row;
        #pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            int c = lane() + j * WARP;
            row.x[j] = c < D ? value(c) : 0.0f;
        }
        return row;
    }

    template <class F> __device__ void each(F f) const {
        #pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            int c = lane() + j * WARP;
            if (c < D) f(c, x[j], j);
        }
    }

    __device__ float sum() const {
        float total = 0.0f;
        #pragma unroll
        for (int j = 0; j < COLUMNS; j++) total += x[j];
        return warp_sum(total);
    }

    __device__ float dot(const Row& other) const {
        float total = 0.0f;
        #pragma unroll
        for (int j = 0; j < COLUMNS; j++) total += x[j] * other.x[j];
        return warp_sum(total);
    }

    // Centres and divides by the deviation; returns the factor.
    __device__ float normalise() {
        float mean = sum() / (float)D;
        each([&](int, float, int j) { x[j] -= mean; });
        float r = 1.0f / sqrtf(dot(*this) / (float)D + LN_EPS);
        each([&](int, float, int j) { x[j] *= r; });
        return r;
    }

    // Gradient through `normalise`, in place, `unit` being its result.
    __device__ void normalise_grad(const Row& unit, float r) {
        float mean = sum() / (float)D, along = dot(unit) / (float)D;
        each([&](int, float, int j) { x[j] = r * (x[j] - mean - unit.x[j] * along); });
    }

    __device__ void put(float* to) const {
        each([&](int c, float x, int) { to[c] = x; });
    }
};

// One token's pair of columns, fetched while the mini-batch before is computed.
struct Pair {
    float a, b;

    __device__ void fetch(const float* from) { a = from[0], b = from[1]; }
    __device__ void put(float* to) const { to[0] = a, to[1] = b; }
    __device__ void turn(float cos, float sin) {
        float x = a;
        a = x * cos - b * sin;
        b = x * sin + b * cos;
    }
};

// Cosines, then sines, `[b, d / 2]` each.
struct Rope {
    const float* cos;
    __device__ float sin(int i) const { return cos[B * (D / 2) + i]; }
};

// Where this block's head finds queries, keys and values of a mini-batch.
struct Tokens {
    const float *qkv, *lr;
    Shape s;
    int row, head;

    __device__ size_t token(int m, int i) const { return (size_t)row * s.tokens + m * B + i; }
    __device__ const float* query(int m, int i) const { return qkv + token(m, i) * 3 * s.width() + head * D; }
    __device__ size_t out(int m, int i) const { return token(m, i) * s.width() + head * D; }
    __device__ float logit(int m, int i) const { return lr[token(m, i) * s.heads + head]; }
};

// What a thread has fetched of a mini-batch.
struct Fetched {
    Pair q[PAIRS], k[PAIRS], v[PAIRS];
    float logit;

    __device__ void fetch(const Tokens& t, int m) {
        int n = t.s.count(m);
        #pragma unroll
        for (int p = 0; p < PAIRS; p++) {
            int at = threadIdx.x + p * THREADS, i = at / (D / 2), c = at % (D / 2) * 2;
            q[p] = k[p] = v[p] = Pair{0.0f, 0.0f};
            if (i >= n) continue;
            const float* from = t.query(m, i) + c;
            q[p].fetch(from);
            k[p].fetch(from + t.s.width());
            v[p].fetch(from + 2 * t.s.width());
        }
        logit = threadIdx.x < n ? t.logit(m, threadIdx.x) : 0.0f;
    }

    // Turns queries and keys and puts everything into shared memory; `gates [b]` may be null.
    __device__ void place(const Tokens& t, const Rope& rope, int n, float* ks, float* qs, float* vs, float* rates,
                          float* gates) {
        #pragma unroll
        for (int p = 0; p < PAIRS; p++) {
            int at = threadIdx.x + p * THREADS, i = at / (D / 2), to = i * LD + at % (D / 2) * 2;
            if (i >= B) continue;
            q[p].turn(rope.cos[at], rope.sin(at));
            k[p].turn(rope.cos[at], rope.sin(at));
            q[p].put(qs + to);
            k[p].put(ks + to);
            v[p].put(vs + to);
        }
        if (threadIdx.x < B) {
            float gate = sigmoid(logit);
            rates[threadIdx.x] = threadIdx.x < n ? t.s.base_lr * gate / (float)D : 0.0f;
            if (gates) gates[threadIdx.x] = gate;
        }
    }
};

__device__ inline void clear(float* x, int len) {
    for (int i = threadIdx.x; i < len; i += THREADS) x[i] = 0.0f;
}

// Place of value `i` of a state, `W` then `u`, in padded matrices.
__device__ inline float& padded(float* w, float* u, int i) { return i < D * D ? w[i / D * LD + i % D] : u[i - D * D]; }

// --- forward ----------------------------------------------------------------------------------------------------

#define FORWARD_FLOATS (2 * (DP * LD + DP) + 7 * BP * LD + BP * LB + 2 * BP)

// `qkv [R, T, 3 H d]`, `lr [R, T, H]`; writes `out [R, T, H d]` and the state at every mini-batch start,
// `states [R, H, chunks, (d + 1) d]`. Grid (H, R).
KERNEL void ttt_forward(const float* qkv, const float* lr, const float* flat, const float* rope_table, int tokens,
                        int heads, float base_lr, int anchor, float* out, float* states) {
    DYNAMIC_SHARED(pool);
    float *w = pool, *u = w + DP * LD, *w0 = u + DP, *u0 = w0 + DP * LD;
    float *k = u0 + DP, *q = k + BP * LD, *v = q + BP * LD; // k and q are one matrix of 2 BP rows
    float *z = v + BP * LD, *y = z + BP * LD;               // and so are z and y
    float *g = y + BP * LD, *steps = g + BP * LD;           // inner gradients, and times their share of the update
    float *p = steps + BP * LD, *rates = p + BP * LB, *taus = rates + BP;

    Shape s = {tokens, heads, base_lr, anchor};
    int head = blockIdx.x, row = blockIdx.y, warp = threadIdx.x / WARP;
    Learned learned(flat, heads, head);
    Rope rope = {rope_table};
    Tokens t = {qkv, lr, s, row, head};
    states += ((size_t)row * heads + head) * s.chunks() * STATE;
    float kept = 1.0f - learned.lambda(s);

    Fetched next;
    next.fetch(t, 0);
    clear(pool, FORWARD_FLOATS);
    __syncthreads();
    for (int i = threadIdx.x; i < STATE; i += THREADS)
        states[i] = padded(w, u, i) = padded(w0, u0, i) = learned.start(i);
    if (threadIdx.x < B) taus[threadIdx.x] = learned.tau_of(threadIdx.x);
    Row weight = Row::of([&](int c) { return learned.ln_weight[c]; });
    Row bias = Row::of([&](int c) { return learned.ln_bias[c]; });

    for (int m = 0; m < s.chunks(); m++) {
        int n = s.count(m);
        bool more = m + 1 < s.chunks();
        next.place(t, rope, n, k, q, v, rates, nullptr);
        __syncthreads();
        if (more) next.fetch(t, m + 1);

        product<2 * BP, DP, DP, FLAT, false, false>(k, LD, w, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 4; j++) z[r * LD + c + j] = u[c + j] + sums[j];
        });
        product<BP, BP, DP, 1, false, true>(q, LD, k, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 4; j++) p[r * LB + c + j] = c + j <= r ? -taus[r] * rates[c + j] * (sums[j] + 1.0f) : 0.0f;
        });
        __syncthreads();

        for (int i = warp; i < B; i += WARPS) {
            Row x = Row::of([&](int c) { return z[i * LD + c]; });
            float r = x.normalise();
            Row grad = Row::of([&](int c) { return k[i * LD + c] - v[i * LD + c]; });
            grad.each([&](int, float e, int j) {
                grad.x[j] = weight.x[j] * (weight.x[j] * x.x[j] + bias.x[j] + e);
            });
            grad.normalise_grad(x, r);
            grad.put(g + i * LD);
            float step = -taus[B - 1] * rates[i];
            grad.each([&](int c, float grad, int) { steps[i * LD + c] = step * grad; });
        }
        __syncthreads();

        product<BP, DP, BP, 1, false, false>(p, LB, g, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 4; j++) y[r * LD + c + j] += sums[j];
        });
        if (more) {
            float* state = states + (size_t)(m + 1) * STATE;
            product<DP, DP, BP, TALL, true, false>(k, LD, steps, LD, [&](int r, int c, const float* sums) {
                for (int j = 0; j < 4; j++) {
                    float first = w0[r * LD + c + j];
                    float value = first + kept * (w[r * LD + c + j] - first) + sums[j];
                    w[r * LD + c + j] = value;
                    if (r < D && c + j < D) state[r * D + c + j] = value;
                }
            });
            for (int c = threadIdx.x; c < D; c += THREADS) {
                float value = u0[c] + kept * (u[c] - u0[c]);
                for (int i = 0; i < B; i++) value += steps[i * LD + c];
                state[D * D + c] = u[c] = value;
            }
        }
        __syncthreads();

        for (int i = warp; i < n; i += WARPS) {
            Row x = Row::of([&](int c) { return y[i * LD + c]; });
            x.normalise();
            float* to = out + t.out(m, i);
            x.each([&](int c, float x, int j) { to[c] = q[i * LD + c] + (weight.x[j] * x + bias.x[j]); });
        }
        __syncthreads();
    }
}

// --- backward ---------------------------------------------------------------------------------------------------

#define BACKWARD_FLOATS (3 * (DP * LD + DP) + 11 * BP * LD + 3 * BP * LB + 8 * BP + WARP)

// Gradients `dqkv` and `dlr` of the operands; of the learned values for this row of the batch, `parts [R, flat - b]` in
// their flat order and `tau_parts [R, H, b]`. Grid (H, R).
KERNEL void ttt_backward(const float* qkv, const float* lr, const float* flat, const float* rope_table,
                         const float* states, const float* grad, int tokens, int heads, float base_lr, int anchor,
                         float* dqkv, float* dlr, float* parts, float* tau_parts) {
    DYNAMIC_SHARED(pool);
    float *w = pool, *u = w + DP * LD, *dw = u + DP, *du = dw + DP * LD, *dw0 = du + DP, *du0 = dw0 + DP * LD;
    float *k = du0 + DP, *q = k + BP * LD, *e = q + BP * LD; // e holds v until the inner gradients are made
    float *x = e + BP * LD, *y = x + BP * LD;                // x and y are one matrix of 2 BP rows
    float *g = y + BP * LD, *dk = g + BP * LD, *dg = dk + BP * LD;
    float* grads = dg + BP * LD;  // for the output; later dv
    float* pulled = grads + BP * LD; // k dW + du, then its part of dk; later dq
    float* dz = pulled + BP * LD; // for y, later for z
    float *p = dz + BP * LD, *att = p + BP * LB, *datt = att + BP * LB;
    float *rates = datt + BP * LB, *gates = rates + BP, *taus = gates + BP, *drates = taus + BP, *dtaus = drates + BP;
    float *last = dtaus + BP;          // what each token adds to the gradient of the last tau
    float *rs = last + BP, *dots = rs + BP; // factors of the inner norm, and mean(p x)
    float* scratch = dots + BP;      // a place a warp

    Shape s = {tokens, heads, base_lr, anchor};
    int head = blockIdx.x, row = blockIdx.y, warp = threadIdx.x / WARP;
    Learned learned(flat, heads, head);
    Rope rope = {rope_table};
    Tokens t = {qkv, lr, s, row, head};
    states += ((size_t)row * heads + head) * s.chunks() * STATE;
    float lambda = learned.lambda(s), dlambda = 0.0f;
    Row weight = Row::of([&](int c) { return learned.ln_weight[c]; });
    Row dweight = Row::of([](int) { return 0.0f; }), dbias = dweight;

    Fetched next;
    Pair next_grads[PAIRS];
    float next_state[VALUES];
    auto fetch = [&](int m) {
        next.fetch(t, m);
        #pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            int at = threadIdx.x + j * THREADS, i = at / (D / 2);
            next_grads[j] = Pair{0.0f, 0.0f};
            if (i < s.count(m)) next_grads[j].fetch(grad + t.out(m, i) + at % (D / 2) * 2);
        }
        #pragma unroll
        for (int j = 0; j < VALUES; j++) {
            int i = threadIdx.x + j * THREADS;
            if (i < STATE) next_state[j] = states[(size_t)m * STATE + i];
        }
    };
    fetch(s.chunks() - 1);
    clear(pool, BACKWARD_FLOATS);
    __syncthreads();
    if (threadIdx.x < B) taus[threadIdx.x] = learned.tau_of(threadIdx.x);

    for (int m = s.chunks() - 1; m >= 0; m--) {
        int n = s.count(m);
        bool updates = m + 1 < s.chunks();

        next.place(t, rope, n, k, q, e, rates, gates);
        #pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            int at = threadIdx.x + j * THREADS, i = at / (D / 2);
            if (i < B) next_grads[j].put(grads + i * LD + at % (D / 2) * 2);
        }
        #pragma unroll
        for (int j = 0; j < VALUES; j++) {
            int i = threadIdx.x + j * THREADS;
            if (i < STATE) padded(w, u, i) = next_state[j];
        }
        __syncthreads();
        if (m > 0) fetch(m - 1);

        // Forward again, and what the update brings back to the keys.
        product<2 * BP, DP, DP, FLAT, false, false>(k, LD, w, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 4; j++) x[r * LD + c + j] = u[c + j] + sums[j];
        });
        product<BP, BP, DP, 1, false, true>(q, LD, k, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 4; j++) {
                att[r * LB + c + j] = sums[j] + 1.0f;
                p[r * LB + c + j] = c + j <= r ? -taus[r] * rates[c + j] * (sums[j] + 1.0f) : 0.0f;
            }
        });
        if (updates) {
            product<BP, DP, DP, 1, false, false>(k, LD, dw, LD, [&](int r, int c, const float* sums) {
                for (int j = 0; j < 4; j++) pulled[r * LD + c + j] = du[c + j] + sums[j];
            });
        }
        __syncthreads();

        // Inner gradients; -c_i g_i of the update with c_i = tau_{b-1} lr_i.
        for (int i = warp; i < B; i += WARPS) {
            Row unit = Row::of([&](int c) { return x[i * LD + c]; });
            float r = unit.normalise();
            unit.put(x + i * LD);
            Row error = Row::of([&](int c) { return k[i * LD + c] - e[i * LD + c]; });
            error.each([&](int c, float d, int j) {
                error.x[j] = weight.x[j] * unit.x[j] + learned.ln_bias[c] + d;
            });
            error.put(e + i * LD);
            Row inner = error;
            inner.each([&](int, float d, int j) { inner.x[j] = weight.x[j] * d; });
            float dot = inner.dot(unit) / (float)D;
            inner.normalise_grad(unit, r);
            inner.put(g + i * LD);
            Row pull = Row::of([&](int c) { return updates ? pulled[i * LD + c] : 0.0f; });
            float dc = -pull.dot(inner), step = -taus[B - 1] * rates[i];
            pull.each([&](int c, float d, int j) {
                dg[i * LD + c] = step * d;
                pulled[i * LD + c] = step * inner.x[j];
            });
            if (lane() == 0) {
                rs[i] = r;
                dots[i] = dot;
                drates[i] = dc * taus[B - 1];
                last[i] = dc * rates[i];
            }
        }
        __syncthreads();

        product<BP, DP, BP, 1, false, false>(p, LB, g, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 4; j++) y[r * LD + c + j] += sums[j];
        });
        product<BP, DP, DP, 1, false, true>(pulled, LD, dw, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 4; j++) dk[r * LD + c + j] = updates ? sums[j] : 0.0f;
        });
        __syncthreads();

        // Output norm; the decay of the state.
        for (int i = warp; i < B; i += WARPS) {
            Row unit = Row::of([&](int c) { return y[i * LD + c]; });
            float r = unit.normalise();
            Row d = Row::of([&](int c) { return grads[i * LD + c]; });
            d.each([&](int, float o, int j) {
                dweight.x[j] += o * unit.x[j];
                dbias.x[j] += o;
                d.x[j] = o * weight.x[j];
            });
            d.normalise_grad(unit, r);
            d.put(dz + i * LD);
        }
        if (updates && anchor) {
            for (int i = threadIdx.x; i < STATE; i += THREADS) {
                float& d = padded(dw, du, i);
                dlambda += d * (learned.start(i) - padded(w, u, i));
                padded(dw0, du0, i) += lambda * d;
                d *= 1.0f - lambda;
            }
        }
        __syncthreads();

        // y = q W + u + P g.
        product<BP, DP, DP, 1, false, true>(dz, LD, w, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 4; j++) pulled[r * LD + c + j] = grads[r * LD + c + j] + sums[j];
        });
        product<DP, DP, BP, TALL, true, false>(q, LD, dz, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 4; j++) dw[r * LD + c + j] += sums[j];
        });
        product<BP, DP, BP, 1, true, false>(p, LB, dz, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 4; j++) dg[r * LD + c + j] += sums[j];
        });
        product<BP, BP, DP, 1, false, true>(dz, LD, g, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 4; j++) {
                bool seen = c + j <= r;
                att[r * LB + c + j] = seen ? sums[j] * att[r * LB + c + j] : 0.0f;
                datt[r * LB + c + j] = seen ? -sums[j] * taus[r] * rates[c + j] : 0.0f;
            }
        });
        for (int c = threadIdx.x; c < D; c += THREADS)
            for (int i = 0; i < B; i++) du[c] += dz[i * LD + c];
        __syncthreads();

        // att = q k^T + 1; the inner gradients. `att` now holds the gradient for P times it.
        product<BP, DP, BP, 1, false, false>(datt, LB, k, LD, [&](int r, int c, const float* sums) {
            float* to = dqkv + t.token(m, r) * 3 * s.width() + head * D;
            for (int j = 0; j < 4 && c + j < D && r < n; j += 2) {
                int at = r * (D / 2) + (c + j) / 2;
                Pair pair = {pulled[r * LD + c + j] + sums[j], pulled[r * LD + c + j + 1] + sums[j + 1]};
                pair.turn(rope.cos[at], -rope.sin(at));
                pair.put(to + c + j);
            }
        });
        product<BP, DP, BP, 1, true, false>(datt, LB, q, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 4; j++) dk[r * LD + c + j] += sums[j];
        });
        for (int i = warp; i < B; i += WARPS) {
            Row unit = Row::of([&](int c) { return x[i * LD + c]; });
            Row dinner = Row::of([&](int c) { return dg[i * LD + c]; });
            Row inner = Row::of([&](int c) { return g[i * LD + c]; });
            float r = rs[i], along_r = dinner.dot(inner) * r / (float)D;
            float mean = r * dinner.sum() / (float)D, along = r * dinner.dot(unit) / (float)D;
            Row d = Row::of([](int) { return 0.0f; });
            dinner.each([&](int c, float dinner, int j) {
                float ds = r * dinner, error = e[i * LD + c];
                float dp = ds - mean - unit.x[j] * along, de = weight.x[j] * dp;
                dweight.x[j] += dp * error + de * unit.x[j];
                dbias.x[j] += de;
                grads[i * LD + c] = -de;
                d.x[j] = weight.x[j] * de - dots[i] * ds - weight.x[j] * error * along;
            });
            d.normalise_grad(unit, r);
            d.each([&](int c, float d, int j) { dz[i * LD + c] = d - along_r * unit.x[j]; });
        }
        if (threadIdx.x < B) {
            int i = threadIdx.x;
            for (int o = 0; o < B; o++) {
                dtaus[i] -= att[i * LB + o] * rates[o];
                drates[i] -= att[o * LB + i] * taus[o];
            }
            if (updates && i == B - 1)
                for (int o = 0; o < B; o++) dtaus[i] += last[o];
        }
        __syncthreads();

        // z = k W + u. The target is v - k.
        product<BP, DP, DP, 1, false, true>(dz, LD, w, LD, [&](int r, int c, const float* sums) {
            float* to = dqkv + t.token(m, r) * 3 * s.width() + s.width() + head * D;
            for (int j = 0; j < 4 && c + j < D && r < n; j += 2) {
                int at = r * (D / 2) + (c + j) / 2, i = r * LD + c + j;
                Pair dv = {grads[i], grads[i + 1]};
                Pair pair = {dk[i] + sums[j] - dv.a, dk[i + 1] + sums[j + 1] - dv.b};
                pair.turn(rope.cos[at], -rope.sin(at));
                pair.put(to + c + j);
                dv.put(to + s.width() + c + j);
            }
        });
        product<DP, DP, BP, TALL, true, false>(k, LD, dz, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 4; j++) dw[r * LD + c + j] += sums[j];
        });
        for (int c = threadIdx.x; c < D; c += THREADS)
            for (int i = 0; i < B; i++) du[c] += dz[i * LD + c];
        if (threadIdx.x < n)
            dlr[t.token(m, threadIdx.x) * heads + head] =
                drates[threadIdx.x] * rates[threadIdx.x] * (1.0f - gates[threadIdx.x]);
        __syncthreads();
    }

    // Sums of the learned values. `k .. g` are free: a row a warp.
    size_t hd = (size_t)heads * D;
    parts += (size_t)row * (hd * (D + 3) + heads);
    for (int i = threadIdx.x; i < STATE; i += THREADS) {
        size_t at = i < D * D ? (size_t)head * D * D + i : hd * D + head * D + (i - D * D);
        parts[at] = padded(dw0, du0, i) + padded(dw, du, i);
    }
    float *weights = k, *biases = k + WARPS * DP;
    dweight.put(weights + warp * DP);
    dbias.put(biases + warp * DP);
    float total = block_combine(dlambda, scratch, Add());
    for (int c = threadIdx.x; c < D; c += THREADS) {
        float sums[2] = {0.0f, 0.0f};
        for (int i = 0; i < WARPS; i++) sums[0] += weights[i * DP + c], sums[1] += biases[i * DP + c];
        parts[hd * (D + 1) + head * D + c] = sums[0];
        parts[hd * (D + 2) + head * D + c] = sums[1];
    }
    if (threadIdx.x == 0) parts[hd * (D + 3) + head] = total * lambda * (1.0f - lambda);
    if (threadIdx.x < B)
        tau_parts[((size_t)row * heads + head) * B + threadIdx.x] =
            taus[threadIdx.x] > 0.0f ? dtaus[threadIdx.x] : 0.0f;
}
