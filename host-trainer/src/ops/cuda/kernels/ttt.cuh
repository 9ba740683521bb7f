// TTT-Linear, forward and backward: one block a head of a row of the batch walks over the mini-batches with the fast
// weights in shared memory. `D_HEAD` (d), `MINI_BATCH` (b) and `THREADS` are defined in front of this text.
//
// Matrices in shared memory are padded with zeros to multiples of 16, the tile of the tensor cores; rows are four longer
// still, so that neighbouring rows lie in other banks. A last mini-batch of fewer than b tokens is filled up with zeros
// whose rate is zero: they change nothing.
//
// Names are those of `ops::ttt`: `dx` is the gradient of the outer loss for `x`.

#define D D_HEAD
#define B MINI_BATCH
#define DP ((D + 15) / 16 * 16)
#define BP ((B + 15) / 16 * 16)
#define LD (DP + 4)
#define LB (BP + 4)
#define STATE ((D + 1) * D)
#define WARPS (THREADS / WARP)
#define LN_EPS 1e-6f

// Columns of a row that a lane holds, pairs of a mini-batch that a thread fetches ahead, and values of a line of the cache.
#define COLUMNS ((D + WARP - 1) / WARP)
#define PAIRS ((B * (D / 2) + THREADS - 1) / THREADS)
#define LINE 32

// Blocks that fit on one multiprocessor of an H100 at a time, by their shared memory.
#define BLOCKS(floats) ((floats) * 4 <= 112 * 1024 ? 2 : 1)

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

// A number as the sum of two that the tensor cores take whole: 11 bits each, 22 together.
struct Split {
    unsigned high, low;

    __device__ Split(float x) {
        high = __float_as_uint(x) & 0xffffe000u;
        low = __float_as_uint(x - __uint_as_float(high));
    }
};

// `put(r, c, sums)` gets columns `c` and `c + 1` of row `r` of `a [M, K] * b [K, N]`; `AT` and `BT` say that the operand is
// stored transposed. A warp makes tiles of 16 rows and 8 columns. What three products of the halves leave out is the product
// of the two low ones, 2^-22 of the whole.
template <int M, int N, int K, bool AT, bool BT, class F>
__device__ inline void product(const float* a, int lda, const float* b, int ldb, F put) {
    int group = lane() / 4, own = lane() % 4;
    for (int tile = threadIdx.x / WARP; tile < (M / 16) * (N / 8); tile += WARPS) {
        int r = tile / (N / 8) * 16 + group, c = tile % (N / 8) * 8 + group;
        float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        #pragma unroll 4
        for (int first = 0; first < K; first += 8) {
            unsigned ah[4], al[4], bh[2], bl[2];
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = r + i % 2 * 8, k = first + own + i / 2 * 4;
                Split x(AT ? a[k * lda + row] : a[row * lda + k]);
                ah[i] = x.high, al[i] = x.low;
            }
            #pragma unroll
            for (int i = 0; i < 2; i++) {
                int k = first + own + i * 4;
                Split x(BT ? b[c * ldb + k] : b[k * ldb + c]);
                bh[i] = x.high, bl[i] = x.low;
            }
            multiply_tile(sums, al, bh);
            multiply_tile(sums, ah, bl);
            multiply_tile(sums, ah, bh);
        }
        int column = tile % (N / 8) * 8 + own * 2;
        put(r, column, sums);
        put(r + 8, column, sums + 2);
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
