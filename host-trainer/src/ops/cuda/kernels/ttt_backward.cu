// TTT-Linear's gradients; `ttt.cuh` stands in front. Mini-batches in reverse, each recomputed from its first state, in
// the order of `ops::ttt::backward`.

#define BACKWARD_FLOATS (3 * (DP * LD + DP) + 11 * BP * LD + 3 * BP * LB + 8 * BP + WARP)

// Gradients `dqkv` and `dlr` of the operands; of the learned values for this row of the batch, `parts [R, flat - b]` in
// their flat order and `tau_parts [R, H, b]`. Grid (H, R).
KERNEL __launch_bounds__(THREADS, BLOCKS(BACKWARD_FLOATS)) void ttt_backward(
    const float* qkv, const float* lr, const float* flat, const float* rope_table, const float* states,
    const float* grad, int tokens, int heads, float base_lr, int anchor, float* dqkv, float* dlr, float* parts,
    float* tau_parts) {
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
    auto fetch = [&](int m) {
        next.fetch(t, m);
        #pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            int at = threadIdx.x + j * THREADS, i = at / (D / 2);
            next_grads[j] = Pair{0.0f, 0.0f};
            if (i < s.count(m)) next_grads[j].fetch(grad + t.out(m, i) + at % (D / 2) * 2);
        }
        // A state in registers would leave too few of them for a second block.
        for (int i = threadIdx.x * LINE; i < STATE; i += THREADS * LINE) prefetch(states + (size_t)m * STATE + i);
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
        for (int i = threadIdx.x; i < STATE; i += THREADS) padded(w, u, i) = states[(size_t)m * STATE + i];
        __syncthreads();
        if (m > 0) fetch(m - 1);

        // Forward again, and what the update brings back to the keys.
        product<2 * BP, DP, DP, false, false>(k, LD, w, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 2; j++) x[r * LD + c + j] = u[c + j] + sums[j];
        });
        product<BP, BP, DP, false, true>(q, LD, k, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 2; j++) {
                att[r * LB + c + j] = sums[j] + 1.0f;
                p[r * LB + c + j] = c + j <= r ? -taus[r] * rates[c + j] * (sums[j] + 1.0f) : 0.0f;
            }
        });
        if (updates) {
            product<BP, DP, DP, false, false>(k, LD, dw, LD, [&](int r, int c, const float* sums) {
                for (int j = 0; j < 2; j++) pulled[r * LD + c + j] = du[c + j] + sums[j];
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

        product<BP, DP, BP, false, false>(p, LB, g, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 2; j++) y[r * LD + c + j] += sums[j];
        });
        product<BP, DP, DP, false, true>(pulled, LD, dw, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 2; j++) dk[r * LD + c + j] = updates ? sums[j] : 0.0f;
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
        product<BP, DP, DP, false, true>(dz, LD, w, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 2; j++) pulled[r * LD + c + j] = grads[r * LD + c + j] + sums[j];
        });
        product<DP, DP, BP, true, false>(q, LD, dz, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 2; j++) dw[r * LD + c + j] += sums[j];
        });
        product<BP, DP, BP, true, false>(p, LB, dz, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 2; j++) dg[r * LD + c + j] += sums[j];
        });
        product<BP, BP, DP, false, true>(dz, LD, g, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 2; j++) {
                bool seen = c + j <= r;
                att[r * LB + c + j] = seen ? sums[j] * att[r * LB + c + j] : 0.0f;
                datt[r * LB + c + j] = seen ? -sums[j] * taus[r] * rates[c + j] : 0.0f;
            }
        });
        for (int c = threadIdx.x; c < D; c += THREADS) {
            float sum = du[c];
            #pragma unroll
            for (int i = 0; i < B; i++) sum += dz[i * LD + c];
            du[c] = sum;
        }
        __syncthreads();

        // att = q k^T + 1; the inner gradients. `att` now holds the gradient for P times it.
        product<BP, DP, BP, false, false>(datt, LB, k, LD, [&](int r, int c, const float* sums) {
            float* to = dqkv + t.token(m, r) * 3 * s.width() + head * D;
            if (c < D && r < n) {
                int at = r * (D / 2) + c / 2, i = r * LD + c;
                Pair pair = {pulled[i] + sums[0], pulled[i + 1] + sums[1]};
                pair.turn(rope.cos[at], -rope.sin(at));
                pair.put(to + c);
            }
        });
        product<BP, DP, BP, true, false>(datt, LB, q, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 2; j++) dk[r * LD + c + j] += sums[j];
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
            float dtau = dtaus[i], drate = drates[i];
            #pragma unroll
            for (int o = 0; o < B; o++) {
                dtau -= att[i * LB + o] * rates[o];
                drate -= att[o * LB + i] * taus[o];
            }
            if (updates && i == B - 1)
                for (int o = 0; o < B; o++) dtau += last[o];
            dtaus[i] = dtau;
            drates[i] = drate;
        }
        __syncthreads();

        // z = k W + u. The target is v - k.
        product<BP, DP, DP, false, true>(dz, LD, w, LD, [&](int r, int c, const float* sums) {
            float* to = dqkv + t.token(m, r) * 3 * s.width() + s.width() + head * D;
            if (c < D && r < n) {
                int at = r * (D / 2) + c / 2, i = r * LD + c;
                Pair dv = {grads[i], grads[i + 1]};
                Pair pair = {dk[i] + sums[0] - dv.a, dk[i + 1] + sums[1] - dv.b};
                pair.turn(rope.cos[at], -rope.sin(at));
                pair.put(to + c);
                dv.put(to + s.width() + c);
            }
        });
        product<DP, DP, BP, true, false>(k, LD, dz, LD, [&](int r, int c, const float* sums) {
            for (int j = 0; j < 2; j++) dw[r * LD + c + j] += sums[j];
        });
        for (int c = threadIdx.x; c < D; c += THREADS) {
            float sum = du[c];
            #pragma unroll
            for (int i = 0; i < B; i++) sum += dz[i * LD + c];
            du[c] = sum;
        }
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
