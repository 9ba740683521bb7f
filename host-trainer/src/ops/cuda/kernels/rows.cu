// Kernels over rows of matrices: a warp owns a row unless said otherwise, so no row waits for another. Sums over rows
// are made in two steps with fixed parts, hence to the same bits in every run.

#define ROW ((size_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP)

// Where a block has a row (`blockIdx.x`; a grid is only long in x) and some of its columns, the column of this thread.
#define COLUMN (blockIdx.y * blockDim.x + threadIdx.x)

// `__restrict__` where a loop reads and writes: without it, no read would start before the write ahead of it has ended.

// --- quantisers -------------------------------------------------------------------------------------------------

// Absmax int8 codes of activations `x [rows, width]`, exact in bfloat16, and `a / 127` of every row.
KERNEL void quantise_rows(const float* __restrict__ x, int rows, int width, bf16* __restrict__ codes,
                          float* __restrict__ scales) {
    if (ROW >= rows) return;
    x += ROW * width;
    codes += ROW * width;
    float a = 0.0f;
    for (int c = lane(); c < width; c += WARP) a = fmaxf(a, fabsf(x[c]));
    a = warp_max(a);
    float factor = a == 0.0f ? 0.0f : 127.0f / a;
    for (int c = lane(); c < width; c += WARP) codes[c] = to_bf16(rintf(x[c] * factor));
    if (lane() == 0) scales[ROW] = a / 127.0f;
}

// int8 codes of weights `w [rows, width]` and the scale of every row.
KERNEL void int8_rows(const float* w, int rows, int width, bf16* codes, float* scales) {
    if (ROW >= rows) return;
    w += ROW * width;
    codes += ROW * width;
    float a = 0.0f;
    for (int c = lane(); c < width; c += WARP) a = fmaxf(a, fabsf(w[c]));
    float scale = warp_max(a) / 127.0f;
    for (int c = lane(); c < width; c += WARP) {
        float q = scale == 0.0f ? 0.0f : fminf(fmaxf(rintf(w[c] / scale), -127.0f), 127.0f);
        codes[c] = to_bf16(q);
    }
    if (lane() == 0) scales[ROW] = scale;
}

// Part `blockIdx.x` of the sum of `|w|` over matrix `blockIdx.y` of `len` weights.
KERNEL void abs_sums(const float* w, size_t len, double* parts) {
    __shared__ double scratch[WARP];
    w += blockIdx.y * len;
    double sum = 0.0;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < len; i += (size_t)gridDim.x * blockDim.x)
        sum += (double)fabsf(w[i]);
    sum = block_combine(sum, scratch, Add());
    if (threadIdx.x == 0) parts[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

// Mean of matrix `blockIdx.x` from the parts of its sum: one warp.
KERNEL void mean_of_parts(const double* parts, int count, size_t len, float* scales) {
    double sum = 0.0;
    for (int i = lane(); i < count; i += WARP) sum += parts[(size_t)blockIdx.x * count + i];
    sum = warp_sum(sum);
    if (lane() == 0) scales[blockIdx.x] = (float)(sum / (double)len);
}

// Trits of matrices of `len` weights each, with a scale each.
KERNEL void ternarise(const float* w, const float* scales, size_t len, bf16* codes) {
    float scale = scales[blockIdx.y];
    size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    if (i >= len) return;
    i += blockIdx.y * len;
    codes[i] = to_bf16(scale == 0.0f ? 0.0f : fminf(fmaxf(roundf(w[i] / scale), -1.0f), 1.0f));
}

// --- scales of a product ----------------------------------------------------------------------------------------

// Up to four neighbours of a row of `cols`, which a thread reads and writes at once where rows lie so.
struct Four {
    float x[4];
    bool whole;
    int count;

    __device__ Four(const float* from, int c, int cols) : whole(cols % 4 == 0), count(cols - c) {
        if (whole) {
            float4 v = *(const float4*)from;
            x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
        } else {
            each([&](int j) { x[j] = from[j]; });
        }
    }

    template <class F> __device__ void each(F f) const {
        #pragma unroll
        for (int j = 0; j < 4; j++)
            if (j < count) f(j);
    }

    __device__ void put(float* to) const {
        if (whole) *(float4*)to = float4{x[0], x[1], x[2], x[3]};
        else each([&](int j) { to[j] = x[j]; });
    }

    // Each times `scale(j)`, in bfloat16.
    template <class F> __device__ void put_rounded(bf16* to, F scale) const {
        unsigned v[4];
        each([&](int j) { v[j] = to_bf16(x[j] * scale(j)); });
        if (whole) *(uint2*)to = uint2{v[0] | v[1] << 16, v[2] | v[3] << 16};
        else each([&](int j) { to[j] = (bf16)v[j]; });
    }
};

// `y [rows, cols]` times the scale of its row and of its column; `group` columns share one. Four columns a thread.
KERNEL void scale_product(float* y, const float* row_scales, const float* col_scales, int group, int cols) {
    int c = COLUMN * 4;
    if (c >= cols) return;
    y += blockIdx.x * (size_t)cols + c;
    float scale = row_scales[blockIdx.x];
    Four four(y, c, cols);
    four.each([&](int j) { four.x[j] *= scale * col_scales[(c + j) / group]; });
    four.put(y);
}

// The gradient `dy [rows, cols]` with the scale of its column, for the inputs, and of its row, for the weights. Four columns
// a thread.
KERNEL void scale_gradient(const float* __restrict__ dy, const float* __restrict__ row_scales,
                           const float* __restrict__ col_scales, int group, int cols, bf16* __restrict__ for_input,
                           bf16* __restrict__ for_weight) {
    int c = COLUMN * 4;
    if (c >= cols) return;
    size_t at = blockIdx.x * (size_t)cols + c;
    float scale = row_scales[blockIdx.x];
    Four four(dy + at, c, cols);
    four.put_rounded(for_input + at, [&](int j) { return col_scales[(c + j) / group]; });
    four.put_rounded(for_weight + at, [&](int) { return scale; });
}

// --- norms ------------------------------------------------------------------------------------------------------

// `1 / sqrt(mean(x^2) + eps)` of the row whose values `value(c)` gives.
template <class F> __device__ inline float inverse_rms(int width, float eps, F value) {
    float sum = 0.0f;
    for (int c = lane(); c < width; c += WARP) {
        float v = value(c);
        sum += v * v;
    }
    return 1.0f / sqrtf(warp_sum(sum) / (float)width + eps);
}

// `x [rows, width] * gain / rms(x)`, times `silu(gate)` where there is a gate.
KERNEL void rms_norm(const float* __restrict__ x, const float* __restrict__ gain, const float* __restrict__ gate,
                     int rows, int width, float eps, float* __restrict__ out) {
    if (ROW >= rows) return;
    size_t at = ROW * width;
    float r = inverse_rms(width, eps, [&](int c) { return x[at + c]; });
    for (int c = lane(); c < width; c += WARP) {
        float y = x[at + c] * r * gain[c];
        out[at + c] = gate ? y * silu(gate[at + c]) : y;
    }
}

// Gradient of `y = x r g` for one row: `d(c)` is the gradient for `y`, `put(c, .)` takes that for `x`. Returns `r`.
template <class X, class D, class P>
__device__ inline float rms_gradient(int width, float eps, const float* gain, X x, D d, P put) {
    float squares = 0.0f, products = 0.0f;
    for (int c = lane(); c < width; c += WARP) {
        float v = x(c);
        squares += v * v;
        products += v * (gain[c] * d(c));
    }
    float r = 1.0f / sqrtf(warp_sum(squares) / (float)width + eps);
    float along = warp_sum(products) * r * r / (float)width;
    for (int c = lane(); c < width; c += WARP) put(c, r * (gain[c] * d(c) - x(c) * along), r);
    return r;
}

// Writes the factor of every row too, from which `gain_parts` goes on.
KERNEL void rms_norm_backward(const float* __restrict__ x, const float* __restrict__ gain,
                              const float* __restrict__ gate, const float* __restrict__ dy, int rows, int width,
                              float eps, float* __restrict__ dx, float* __restrict__ dgate,
                              float* __restrict__ factors) {
    if (ROW >= rows) return;
    size_t at = ROW * width;
    auto inner = [&](int c) { return gate ? dy[at + c] * silu(gate[at + c]) : dy[at + c]; };
    auto value = [&](int c) { return x[at + c]; };
    float factor = rms_gradient(width, eps, gain, value, inner, [&](int c, float d, float r) {
        dx[at + c] = d;
        if (gate) dgate[at + c] = dy[at + c] * (x[at + c] * r * gain[c]) * silu_slope(gate[at + c]);
    });
    if (lane() == 0) factors[ROW] = factor;
}

// Sum over rows `blockIdx.y * step ..` of `value(row, c)`, for column `c` of this thread.
template <class F> __device__ inline void column_part(int rows, int step, int width, float* parts, F value) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= width) return;
    int first = blockIdx.y * step, last = min(first + step, rows);
    float sum = 0.0f;
    for (int row = first; row < last; row++) sum += value((size_t)row, c);
    parts[blockIdx.y * (size_t)width + c] = sum;
}

// Parts of the gradient for the gain of `rms_norm`.
KERNEL void gain_parts(const float* x, const float* gate, const float* dy, const float* factors, int rows, int step,
                       int width, float* parts) {
    column_part(rows, step, width, parts, [&](size_t row, int c) {
        size_t at = row * width + c;
        float d = gate ? dy[at] * silu(gate[at]) : dy[at];
        return d * x[at] * factors[row];
    });
}

// Sum of the rows of `parts [count, width]`.
KERNEL void sum_rows(const float* parts, int count, int width, float* out) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= width) return;
    float sum = 0.0f;
    for (int i = 0; i < count; i++) sum += parts[i * (size_t)width + c];
    out[c] = sum;
}

// --- feed-forward network ---------------------------------------------------------------------------------------

__device__ inline float activation(float x, int relu2) {
    float positive = fmaxf(x, 0.0f);
    return relu2 ? positive * positive : silu(x);
}

__device__ inline float activation_slope(float x, int relu2) {
    return relu2 ? 2.0f * fmaxf(x, 0.0f) : silu_slope(x);
}

// `act(gate) * up`, normalised, for row `blockIdx.x`, `[gate, up]` of `2 width`. A block a row, which it keeps in shared
// memory: with a warp a row, the rows of all warps are more than the cache holds, and a second look at them goes to memory.
KERNEL void glu_norm(const float* __restrict__ x, const float* __restrict__ gain, int relu2, int width, float eps,
                     float* __restrict__ out) {
    DYNAMIC_SHARED(kept);
    __shared__ float scratch[WARP];
    const float *gate = x + blockIdx.x * (size_t)2 * width, *up = gate + width;
    out += blockIdx.x * (size_t)width;
    float squares = 0.0f;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        float m = activation(gate[c], relu2) * up[c];
        kept[c] = m;
        squares += m * m;
    }
    float r = 1.0f / sqrtf(block_combine(squares, scratch, Add()) / (float)width + eps);
    for (int c = threadIdx.x; c < width; c += blockDim.x) out[c] = kept[c] * r * gain[c];
}

KERNEL void glu_norm_backward(const float* __restrict__ x, const float* __restrict__ gain, int relu2,
                              const float* __restrict__ dy, int width, float eps, float* __restrict__ dx,
                              float* __restrict__ factors) {
    DYNAMIC_SHARED(gates);
    float *ups = gates + width, *grads = ups + width;
    __shared__ float scratch[2 * WARP];
    const float *gate = x + blockIdx.x * (size_t)2 * width, *up = gate + width;
    float *dgate = dx + blockIdx.x * (size_t)2 * width, *dup = dgate + width;
    dy += blockIdx.x * (size_t)width;
    float squares = 0.0f, products = 0.0f;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        float g = gate[c], u = up[c], d = gain[c] * dy[c], m = activation(g, relu2) * u;
        gates[c] = g, ups[c] = u, grads[c] = d;
        squares += m * m;
        products += m * d;
    }
    float r = 1.0f / sqrtf(block_combine(squares, scratch, Add()) / (float)width + eps);
    float along = block_combine(products, scratch + WARP, Add()) * r * r / (float)width;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        float g = gates[c], u = ups[c], a = activation(g, relu2);
        float d = r * (grads[c] - a * u * along);
        dgate[c] = d * u * activation_slope(g, relu2);
        dup[c] = d * a;
    }
    if (threadIdx.x == 0) factors[blockIdx.x] = r;
}

// Parts of the gradient for the gain of `glu_norm`.
KERNEL void glu_gain_parts(const float* x, int relu2, const float* dy, const float* factors, int rows, int step,
                           int width, float* parts) {
    column_part(rows, step, width, parts, [&](size_t row, int c) {
        const float* gate = x + row * 2 * width;
        return dy[row * width + c] * (activation(gate[c], relu2) * gate[width + c]) * factors[row];
    });
}

// --- convolution ------------------------------------------------------------------------------------------------

#define TAPS 4

// `y_t[c] = sum_j w[j][c] x_{t-3+j}[c]` over rows of `tokens`.
KERNEL void causal_conv(const float* x, const float* w, int tokens, int width, float* out) {
    int c = COLUMN;
    if (c >= width) return;
    int t = blockIdx.x % tokens;
    size_t at = blockIdx.x * (size_t)width + c;
    float y = 0.0f;
    for (int j = 0; j < TAPS; j++) {
        int back = TAPS - 1 - j;
        if (t >= back) y += w[j * width + c] * x[at - back * (size_t)width];
    }
    out[at] = y;
}

KERNEL void causal_conv_backward(const float* w, const float* dy, int tokens, int width, float* dx) {
    int c = COLUMN;
    if (c >= width) return;
    int t = blockIdx.x % tokens;
    size_t at = blockIdx.x * (size_t)width + c;
    float d = 0.0f;
    for (int j = 0; j < TAPS; j++) {
        int ahead = TAPS - 1 - j;
        if (t + ahead < tokens) d += w[j * width + c] * dy[at + ahead * (size_t)width];
    }
    dx[at] = d;
}

// Parts of the gradient for the taps, `[parts, 4, width]`, over `rows` tokens of the whole batch.
KERNEL void conv_weight_parts(const float* x, const float* dy, int tokens, int rows, int step, int width,
                              float* parts) {
    column_part(rows, step, TAPS * width, parts, [&](size_t row, int column) {
        int back = TAPS - 1 - column / width;
        size_t at = row * width + column % width;
        return (int)(row % tokens) >= back ? x[at - back * (size_t)width] * dy[at] : 0.0f;
    });
}

// --- dropout ----------------------------------------------------------------------------------------------------

// SplitMix64's finaliser: `rng::mix`.
__device__ inline size_t mix(size_t x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

// `x [rows, width] * scale`, and 0 where the random word of the place, counted from `first`, is below `bound`.
KERNEL void dropout(const float* x, size_t key, size_t first, size_t bound, float scale, int width, float* out) {
    int c = COLUMN;
    if (c >= width) return;
    size_t at = blockIdx.x * (size_t)width + c;
    out[at] = mix(key ^ (first + at)) >> 40 >= bound ? x[at] * scale : 0.0f;
}

// --- embedding --------------------------------------------------------------------------------------------------

// Rows `ids` of `weight [vocab, width]`, rounded to int8.
KERNEL void embedding_rows(const unsigned* ids, const float* weight, int rows, int width, float* out) {
    if (ROW >= rows) return;
    const float* w = weight + ids[ROW] * (size_t)width;
    out += ROW * width;
    float a = 0.0f;
    for (int c = lane(); c < width; c += WARP) a = fmaxf(a, fabsf(w[c]));
    float scale = warp_max(a) / 127.0f;
    for (int c = lane(); c < width; c += WARP) {
        float q = scale == 0.0f ? 0.0f : fminf(fmaxf(rintf(w[c] / scale), -127.0f), 127.0f);
        out[c] = q * scale;
    }
}

// Gradient of row `blockIdx.x`: the sum over the places `order[starts[row] .. starts[row + 1]]` where it was read.
KERNEL void embedding_backward(const unsigned* starts, const unsigned* order, const float* dy, int width, float* dw) {
    int c = COLUMN;
    if (c >= width) return;
    unsigned first = starts[blockIdx.x], last = starts[blockIdx.x + 1];
    float sum = 0.0f;
    for (unsigned i = first; i < last; i++) sum += dy[order[i] * (size_t)width + c];
    dw[blockIdx.x * (size_t)width + c] = sum;
}

// --- loss -------------------------------------------------------------------------------------------------------

#define IGNORE 0xffffffffu

// Maximum of the values `value(c)` of a row and the sum of `exp(value - max)`, by the whole block.
template <class F> __device__ inline float2 soft(int vocab, float* scratch, F value) {
    float most = -3.402823466e38f;
    for (int c = threadIdx.x; c < vocab; c += blockDim.x) most = fmaxf(most, value(c));
    most = block_combine(most, scratch, Larger());
    float sum = 0.0f;
    for (int c = threadIdx.x; c < vocab; c += blockDim.x) sum += exp_of(value(c) - most);
    sum = block_combine(sum, scratch + WARP, Add());
    float2 both = {most, sum};
    return both;
}

// `-log softmax(logits)[target]` of row `blockIdx.x`, 0 where the target does not count.
KERNEL void row_losses(const float* logits, const unsigned* targets, int vocab, float* losses) {
    __shared__ float scratch[2 * WARP];
    unsigned target = targets[blockIdx.x];
    const float* row = logits + blockIdx.x * (size_t)vocab;
    float loss = 0.0f;
    if (target != IGNORE) {
        float2 s = soft(vocab, scratch, [&](int c) { return row[c]; });
        loss = logf(s.y) + s.x - row[target];
    }
    if (threadIdx.x == 0) losses[blockIdx.x] = loss;
}

// `sum(losses) / counted`: one block.
KERNEL void mean_loss(const float* losses, int rows, int counted, float* mean) {
    __shared__ double scratch[WARP];
    double sum = 0.0;
    for (int i = threadIdx.x; i < rows; i += blockDim.x) sum += (double)losses[i];
    sum = block_combine(sum, scratch, Add());
    if (threadIdx.x == 0) *mean = (float)(sum / (double)counted);
}

// `(softmax(row) - onehot(target)) * grad / counted`.
KERNEL void loss_gradient(const float* logits, const unsigned* targets, const float* grad, int counted, int vocab,
                          float* out) {
    __shared__ float scratch[2 * WARP];
    unsigned target = targets[blockIdx.x];
    size_t at = blockIdx.x * (size_t)vocab;
    float weight = *grad / (float)counted;
    float2 s = {0.0f, 1.0f};
    if (target != IGNORE) s = soft(vocab, scratch, [&](int c) { return logits[at + c]; });
    float scale = weight / s.y;
    for (int c = threadIdx.x; c < vocab; c += blockDim.x) {
        float d = exp_of(logits[at + c] - s.x) * scale;
        if (c == (int)target) d -= weight;
        out[at + c] = target == IGNORE ? 0.0f : d;
    }
}

// The loss of row `blockIdx.x` of products `y [rows, vocab]` of codes, and the gradient of the mean of `counted` for what was
// multiplied: with the scale of its column for the inputs, with that of its row for the weights.
KERNEL void head_loss(const float* __restrict__ y, const float* __restrict__ row_scales,
                      const float* __restrict__ col_scales, const unsigned* __restrict__ targets, int counted, int vocab,
                      float* __restrict__ losses, bf16* __restrict__ for_input, bf16* __restrict__ for_weight) {
    __shared__ float scratch[2 * WARP];
    unsigned target = targets[blockIdx.x];
    size_t at = blockIdx.x * (size_t)vocab;
    float row_scale = row_scales[blockIdx.x], weight = target == IGNORE ? 0.0f : 1.0f / (float)counted;
    auto logit = [&](int c, float product) { return product * (row_scale * col_scales[c]); };
    float2 s = soft(vocab, scratch, [&](int c) { return logit(c, y[at + c]); });
    if (threadIdx.x == 0)
        losses[blockIdx.x] = target == IGNORE ? 0.0f : logf(s.y) + s.x - logit(target, y[at + target]);
    float scale = weight / s.y;
    for (int c = threadIdx.x * 4; c < vocab; c += blockDim.x * 4) {
        Four four(y + at + c, c, vocab);
        four.each([&](int j) {
            float d = exp_of(logit(c + j, four.x[j]) - s.x) * scale;
            four.x[j] = c + j == (int)target ? d - weight : d;
        });
        four.put_rounded(for_input + at + c, [&](int j) { return col_scales[c + j]; });
        four.put_rounded(for_weight + at + c, [&](int) { return row_scale; });
    }
}

// --- optimiser --------------------------------------------------------------------------------------------------

// Part `blockIdx.x` of the sum of squares.
KERNEL void square_sums(const float* x, size_t len, double* parts) {
    __shared__ double scratch[WARP];
    double sum = 0.0;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < len; i += (size_t)gridDim.x * blockDim.x)
        sum += (double)x[i] * (double)x[i];
    sum = block_combine(sum, scratch, Add());
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// The norm of all gradients from the parts of its square: one block.
KERNEL void norm_of_parts(const double* parts, int count, double* norm) {
    __shared__ double scratch[WARP];
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += parts[i];
    sum = block_combine(sum, scratch, Add());
    if (threadIdx.x == 0) *norm = sqrt(sum);
}

// One step of AdamW; a norm that is not finite changes nothing.
KERNEL void adamw(float* values, float* first, float* second, const float* grad, size_t len, const double* norm,
                  float clip, float beta1, float beta2, float rate, float root, float keep) {
    size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    double size = *norm;
    if (i >= len || !(size <= 1.7976931348623157e308)) return;
    float scale = (float)fmin((double)clip / fmax(size, 1e-12), 1.0);
    float g = grad[i] * scale;
    float m = beta1 * first[i] + (1.0f - beta1) * g;
    float v = beta2 * second[i] + (1.0f - beta2) * g * g;
    first[i] = m;
    second[i] = v;
    values[i] = values[i] * keep - rate * m / (sqrtf(v) * root + 1e-8f);
}
