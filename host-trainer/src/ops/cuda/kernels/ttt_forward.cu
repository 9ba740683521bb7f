// TTT-Linear's values; `ttt.cuh` stands in front.

#define FORWARD_FLOATS (2 * (DP * LD + DP) + 7 * BP * LD + BP * LB + 2 * BP)

// `qkv [R, T, 3 H d]`, `lr [R, T, H]`; writes `out [R, T, H d]` and the state at every mini-batch start,
// `states [R, H, chunks, (d + 1) d]`. Grid (H, R).
KERNEL __launch_bounds__(THREADS, BLOCKS(FORWARD_FLOATS)) void ttt_forward(
    const float* qkv, const float* lr, const float* flat, const float* rope_table, int tokens, int heads,
    float base_lr, int anchor, float* out, float* states) {
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

        product<2 * BP, DP, DP, false, false>(k, LD, w, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 2; j++) z[r * LD + c + j] = u[c + j] + sums[j];
        });
        product<BP, BP, DP, false, true>(q, LD, k, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 2; j++)
                p[r * LB + c + j] = c + j <= r ? -taus[r] * rates[c + j] * (sums[j] + 1.0f) : 0.0f;
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

        product<BP, DP, BP, false, false>(p, LB, g, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 2; j++) y[r * LD + c + j] += sums[j];
        });
        if (more) {
            float* state = states + (size_t)(m + 1) * STATE;
            product<DP, DP, BP, true, false>(k, LD, steps, LD, [&](int r, int c, const float* sums) {
                for (int j = 0; j < 2; j++) {
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
