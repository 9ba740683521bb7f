// What every kernel here uses. The same sources are compiled by NVRTC for a card and, behind `emulator/shim.h`, by a
// C++ compiler for the tests. Compile without contraction (`--fmad=false`): products and sums round as on the CPU,
// and where a fused one is wanted it says `fmaf`. No header of CUDA is needed.

#define KERNEL extern "C" __global__
#define WARP 32

// The shared memory that a launch asks for, as an array of floats aligned for `float4`.
#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(name)              \
    extern __shared__ float4 shared_pool[]; \
    float* name = (float*)shared_pool
#endif

// `d [16, 8] += a [16, 8] * b [8, 8]` by a warp on the tensor cores, in tf32 with f32 sums. Of the lane `4 g + t`: `d` has
// columns `2 t` and `2 t + 1` of rows `g` and `g + 8`, `a` rows `g` and `g + 8` of column `t`, then of column `t + 4`, `b`
// rows `t` and `t + 4` of column `g` (PTX, mma.m16n8k8).
#ifndef EMULATED
__device__ inline void multiply_tile(float* d, const unsigned* a, const unsigned* b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Brings the line of an address to the second cache.
__device__ inline void prefetch(const float* from) { asm("prefetch.global.L2 [%0];" : : "l"(from)); }
#endif

// The bits of a bfloat16.
typedef unsigned short bf16;

__device__ inline unsigned lane() { return threadIdx.x % WARP; }

__device__ inline float bits_to_float(unsigned bits) { return __uint_as_float(bits); }

// Nearest bfloat16, ties to even.
__device__ inline bf16 to_bf16(float x) {
    if (x != x) return 0x7fc0;
    unsigned bits = __float_as_uint(x);
    return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// `x` rounded to binary16 and back, ties to even.
__device__ inline float through_f16(float x) {
    float size = fabsf(x);
    if (size < 6.103515625e-5f) return rintf(x * 16777216.0f) * 5.9604644775390625e-8f;
    unsigned bits = __float_as_uint(x);
    bits = (bits + 0xfff + ((bits >> 13) & 1)) & ~0x1fffu;
    if (size >= 65520.0f && size == size) return bits_to_float((bits & 0x80000000u) | 0x7f800000u);
    return bits_to_float(bits);
}

// `e^x`, the polynomial of `ops::math::exp`.
__device__ inline float exp_of(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x; // not fminf, which would hide a NaN
    float n = rintf(x * 1.44269504088896341f);
    float f = (x - n * 0.6933594f) - n * -2.1219444e-4f;
    float p = 1.9875692e-4f;
    p = p * f + 1.3981999e-3f;
    p = p * f + 8.333452e-3f;
    p = p * f + 4.1665796e-2f;
    p = p * f + 1.6666666e-1f;
    p = p * f + 0.5f;
    p = p * f * f + f + 1.0f;
    return p * bits_to_float((unsigned)((int)n + 127) << 23);
}

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + exp_of(-x)); }

__device__ inline float silu(float x) { return x * sigmoid(x); }

__device__ inline float silu_slope(float x) {
    float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}

// Sum over the lanes of a warp, the same bits in every lane.
__device__ inline float warp_sum(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

__device__ inline double warp_sum(double x) {
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

__device__ inline float warp_max(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

struct Add {
    template <class T> __device__ T operator()(T a, T b) const { return a + b; }
};

struct Larger {
    __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// Combines one value a thread over the block, in a fixed order; every thread gets the result. `scratch` has a place
// for each warp and may be used again after the next barrier.
template <class T, class F> __device__ inline T block_combine(T x, T* scratch, F f) {
    for (int step = WARP / 2; step > 0; step /= 2) x = f(x, __shfl_xor_sync(0xffffffffu, x, step));
    if (lane() == 0) scratch[threadIdx.x / WARP] = x;
    __syncthreads();
    x = scratch[0];
    for (unsigned w = 1; w < blockDim.x / WARP; w++) x = f(x, scratch[w]);
    return x;
}
