// Stands in for CUDA: compiles kernels for the CPU, and runs the threads of a block as fibers that change at barriers
// and shuffles only. Which fiber goes first is chosen by the caller: where a barrier is missing, results depend on it.
// Shared memory starts as NaNs and ends in a guard.

#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(name) float* name = (float*)emulator::shared

struct dim3 {
    unsigned x, y;
};
struct float2 {
    float x, y;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

static dim3 threadIdx, blockIdx, blockDim, gridDim;

template <class T> static T min(T a, T b) { return b < a ? b : a; }

static float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}

namespace emulator {

const size_t STACK = 64 * 1024;
const size_t SHARED = 256 * 1024, GUARD = 4096;
const unsigned NAN_BITS = 0x7fc0dead;

enum Wait { READY, WARP_BARRIER, BLOCK_BARRIER, DONE };

struct Fiber {
    jmp_buf at;
    ucontext_t first;
    bool started;
    Wait wait;
    unsigned index, shuffles;
};

alignas(16) static char shared[SHARED + GUARD];
static std::vector<Fiber> fibers;
static std::vector<char> stacks;
static std::vector<double> exchange; // two places for each thread, used in turn
static std::vector<float> fragments; // the same of six values, for products of tiles
static jmp_buf scheduler;
static Fiber* current;
static std::function<void()> body;
static const char* fault;

static void leave(Wait why) {
    Fiber* me = current;
    me->wait = why;
    if (_setjmp(me->at) == 0) _longjmp(scheduler, 1);
}

static void run_fiber() {
    body();
    current->wait = DONE;
    _longjmp(scheduler, 1);
}

__attribute__((noinline)) static void enter(Fiber& fiber) {
    current = &fiber;
    threadIdx = {fiber.index, 0};
    if (_setjmp(scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.at, 1);
    fiber.started = true;
    setcontext(&fiber.first);
}

// Lets go whoever has waited for all of a warp, or for all of the block; false when nobody can go on.
static bool release() {
    bool any = false;
    unsigned waiting = 0, done = 0;
    for (size_t w = 0; w < fibers.size(); w += 32) {
        unsigned here = 0;
        for (size_t i = w; i < w + 32; i++) {
            here += fibers[i].wait == WARP_BARRIER;
            waiting += fibers[i].wait == BLOCK_BARRIER;
            done += fibers[i].wait == DONE;
        }
        if (here == 32) {
            for (size_t i = w; i < w + 32; i++) fibers[i].wait = READY;
            any = true;
        } else if (here != 0) {
            fault = "lanes of a warp part before a shuffle";
            return false;
        }
    }
    if (any || done == fibers.size()) return any;
    if (waiting == fibers.size()) {
        for (Fiber& fiber : fibers) fiber.wait = READY;
        return true;
    }
    fault = "threads of a block part before a barrier";
    return false;
}

// Order of the fibers: 0 ascending, 1 descending, above that shuffled with this seed.
static void schedule(unsigned order, std::vector<unsigned>& turns, unsigned long long& seed) {
    for (unsigned i = 0; i < turns.size(); i++) turns[i] = order == 1 ? turns.size() - 1 - i : i;
    for (unsigned i = turns.size() - 1; order > 1 && i > 0; i--) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        std::swap(turns[i], turns[(seed >> 33) % (i + 1)]);
    }
}

static void run_block(size_t shared_bytes, unsigned order, unsigned long long& seed) {
    size_t end = shared_bytes + GUARD;
    for (size_t i = 0; i < end; i += 4) memcpy(shared + i, &NAN_BITS, 4);
    for (unsigned i = 0; i < fibers.size(); i++) {
        Fiber& fiber = fibers[i];
        getcontext(&fiber.first);
        fiber.first.uc_stack.ss_sp = stacks.data() + i * STACK;
        fiber.first.uc_stack.ss_size = STACK;
        fiber.first.uc_link = nullptr;
        makecontext(&fiber.first, run_fiber, 0);
        fiber.started = false;
        fiber.wait = READY;
        fiber.index = i;
        fiber.shuffles = 0;
    }
    std::vector<unsigned> turns(fibers.size());
    do {
        schedule(order, turns, seed);
        for (unsigned i : turns)
            if (fibers[i].wait == READY) enter(fibers[i]);
    } while (release());
    for (size_t i = shared_bytes; i < end && !fault; i += 4)
        if (memcmp(shared + i, &NAN_BITS, 4) != 0) fault = "a kernel writes behind its shared memory";
}

// Runs all blocks; returns what went wrong, or null.
static const char* run(const unsigned* launch, std::function<void()> kernel) {
    gridDim = {launch[0], launch[1]};
    blockDim = {launch[2], 1};
    unsigned shared_bytes = launch[3], order = launch[4];
    if (blockDim.x % 32 != 0 || shared_bytes > SHARED) return "whole warps and less shared memory, please";
    unsigned long long seed = order;
    fault = nullptr;
    body = kernel;
    fibers.resize(blockDim.x);
    exchange.resize(2 * blockDim.x);
    fragments.resize(2 * blockDim.x * 6);
    stacks.resize(blockDim.x * STACK);
    for (unsigned y = 0; y < gridDim.y && !fault; y++)
        for (unsigned x = 0; x < gridDim.x && !fault; x++) {
            blockIdx = {x, y};
            run_block(shared_bytes, order, seed);
        }
    return fault;
}

// Calls a kernel with arguments that are pointed to, as `cuLaunchKernel` gets them.
template <class... A, size_t... I>
static void unpack(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
    kernel(*(std::remove_cv_t<A>*)args[I]...);
}

template <class... A> static void call(void (*kernel)(A...), void** args) {
    unpack(kernel, args, std::index_sequence_for<A...>());
}

} // namespace emulator

static void __syncthreads() { emulator::leave(emulator::BLOCK_BARRIER); }

template <class T> static T __shfl_xor_sync(unsigned, T value, int mask) {
    static_assert(sizeof(T) <= sizeof(double), "a value that fits");
    emulator::Fiber* me = emulator::current;
    size_t base = (me->shuffles++ % 2) * emulator::fibers.size();
    memcpy(&emulator::exchange[base + me->index], &value, sizeof value);
    emulator::leave(emulator::WARP_BARRIER);
    memcpy(&value, &emulator::exchange[base + (me->index ^ mask)], sizeof value);
    return value;
}

// The tensor cores read the upper 19 bits of a number.
static void multiply_tile(float* d, const unsigned* a, const unsigned* b) {
    emulator::Fiber* me = emulator::current;
    float* all = &emulator::fragments[(me->shuffles++ % 2) * emulator::fibers.size() * 6];
    for (int i = 0; i < 6; i++) all[me->index * 6 + i] = __uint_as_float((i < 4 ? a[i] : b[i - 4]) & 0xffffe000u);
    emulator::leave(emulator::WARP_BARRIER);
    const float* warp = all + me->index / 32 * 32 * 6;
    unsigned group = me->index % 32 / 4, own = me->index % 4;
    for (unsigned i = 0; i < 4; i++) // row `group + i / 2 * 8`, column `2 own + i % 2`
        for (unsigned k = 0; k < 8; k++) {
            float left = warp[(group * 4 + k % 4) * 6 + i / 2 + k / 4 * 2];
            float right = warp[((2 * own + i % 2) * 4 + k % 4) * 6 + 4 + k / 4];
            d[i] = fmaf(left, right, d[i]);
        }
}

static void prefetch(const float*) {}

#define EMULATED(name)                                                    \
    extern "C" const char* emulate_##name(const unsigned* launch, void** args) { \
        return emulator::run(launch, [=] { emulator::call(name, args); });   \
    }
