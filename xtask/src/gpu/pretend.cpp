// Pretends to be CUDA's driver, cuBLAS, cuRAND and NVRTC, on the CPU: enough of each for the trainer. Device memory is
// memory, streams are nothing, and kernels are compiled behind the header that the tests use (`$PRETEND_SHIM`). With it
// the program that goes to a GPU runs here, with everything but the card: Candle's own kernels are written anew below.
//
// One source, built under the name of each library.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <unistd.h>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))
typedef uint64_t Address;

const int OK = 0, INVALID = 1, NOT_FOUND = 500, LAUNCH_FAILED = 719;

static int complain(int code, const char* what, const char* more = "") {
    fprintf(stderr, "pretend: %s %s\n", what, more);
    return code;
}

// --- device, context, streams and events ------------------------------------------------------------------------

API int cuInit(unsigned) { return OK; }
API int cuDriverGetVersion(int* version) { return *version = 13000, OK; }
API int cuDeviceGetCount(int* count) { return *count = 1, OK; }
API int cuDeviceGet(int* device, int ordinal) { return ordinal == 0 ? (*device = 0, OK) : 101; }
API int cuDeviceGetName(char* name, int len, int) { return snprintf(name, len, "pretended"), OK; }

API int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
    case 75: *value = 9; break;       // compute capability, major
    case 76: *value = 0; break;       // and minor
    case 97: *value = 227 << 10; break; // shared memory of a block, where asked for
    default: *value = 1;
    }
    return OK;
}

static int thing;
#define MAKES(name, ...) \
    API int name(void** made, ##__VA_ARGS__) { return *made = &thing, OK; }
#define DOES(name) \
    API int name(...) { return OK; }

MAKES(cuDevicePrimaryCtxRetain, int)
MAKES(cuCtxGetCurrent)
MAKES(cuStreamCreate, unsigned)
MAKES(cuStreamCreateWithPriority, unsigned, int)
MAKES(cuEventCreate, unsigned)
MAKES(cuDeviceGetDefaultMemPool, int)
DOES(cuDevicePrimaryCtxRelease_v2)
DOES(cuCtxSetCurrent)
DOES(cuCtxSynchronize)
DOES(cuStreamSynchronize)
DOES(cuStreamDestroy_v2)
DOES(cuStreamWaitEvent)
DOES(cuEventRecord)
DOES(cuEventSynchronize)
DOES(cuEventDestroy_v2)
DOES(cuMemPoolGetAttribute)
DOES(cuMemPoolSetAttribute)
DOES(cuModuleUnload)
API int cuEventElapsedTime_v2(float* ms, void*, void*) { return *ms = 0.001f, OK; }
API int cuEventElapsedTime(float* ms, void*, void*) { return *ms = 0.001f, OK; }
API int cuStreamIsCapturing(void*, int* status) { return *status = 0, OK; }
API int cuGetErrorName(int, const char** text) { return *text = "a pretended error", OK; }
API int cuGetErrorString(int, const char** text) { return *text = "a pretended error", OK; }

// --- memory: starts as NaNs, a guard behind it ------------------------------------------------------------------

const size_t GUARD = 256;
const unsigned FILL = 0x7fc0dead;
static std::map<Address, size_t> memories;
static std::mutex lock;

API int cuMemAllocAsync(Address* address, size_t bytes, void*) {
    size_t words = (bytes + 3) / 4 + GUARD / 4;
    unsigned* memory = (unsigned*)aligned_alloc(256, (words * 4 + 255) / 256 * 256);
    for (size_t i = 0; i < words; i++) memory[i] = FILL;
    *address = (Address)memory;
    std::lock_guard<std::mutex> hold(lock);
    memories[*address] = bytes;
    return OK;
}

API int cuMemFreeAsync(Address address, void*) {
    std::lock_guard<std::mutex> hold(lock);
    auto memory = memories.find(address);
    if (memory == memories.end()) return complain(INVALID, "memory is freed that was not given");
    const unsigned char* bytes = (const unsigned char*)address;
    for (size_t i = memory->second; i < (memory->second + 3) / 4 * 4 + GUARD; i++)
        if (bytes[i] != (FILL >> (8 * (i % 4)) & 255)) return complain(LAUNCH_FAILED, "something wrote behind a memory");
    free((void*)address);
    memories.erase(memory);
    return OK;
}

API int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void*) {
    return memcpy((void*)to, from, bytes), OK;
}
API int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void*) {
    return memcpy(to, (const void*)from, bytes), OK;
}
API int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void*) {
    return memcpy((void*)to, (const void*)from, bytes), OK;
}
API int cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void*) {
    return memset((void*)to, value, bytes), OK;
}

// --- Candle's kernels -------------------------------------------------------------------------------------------

// Argument `i` of a kernel.
template <class T> static T arg(void** args, int i) { return *(T*)args[i]; }

// Place of element `i` of a strided tensor; `dims` may be null for a contiguous one.
static size_t place(size_t i, size_t rank, const size_t* dims, const size_t* strides) {
    if (!dims) return i;
    size_t at = 0;
    for (size_t d = rank; d-- > 0; i /= dims[d]) at += i % dims[d] * strides[d];
    return at;
}

template <class F> static void binary(void** args, F f) {
    size_t len = arg<size_t>(args, 0), rank = arg<size_t>(args, 1);
    const size_t* info = arg<const size_t*>(args, 2);
    const float *a = arg<const float*>(args, 3), *b = arg<const float*>(args, 4);
    float* out = arg<float*>(args, 5);
    for (size_t i = 0; i < len; i++)
        out[i] = f(a[place(i, rank, info, info + rank)], b[place(i, rank, info, info + 2 * rank)]);
}

static void add(void** args) { binary(args, [](float a, float b) { return a + b; }); }
static void subtract(void** args) { binary(args, [](float a, float b) { return a - b; }); }
static void multiply(void** args) { binary(args, [](float a, float b) { return a * b; }); }

static void affine(void** args) {
    size_t len = arg<size_t>(args, 0), rank = arg<size_t>(args, 1);
    const size_t* info = arg<const size_t*>(args, 2);
    const float* in = arg<const float*>(args, 3);
    float *out = arg<float*>(args, 4), factor = arg<float>(args, 5), shift = arg<float>(args, 6);
    for (size_t i = 0; i < len; i++) out[i] = in[place(i, rank, info, info + rank)] * factor + shift;
}

static void copy(void** args) {
    size_t len = arg<size_t>(args, 0), rank = arg<size_t>(args, 1);
    const size_t* info = arg<const size_t*>(args, 2);
    const float* in = arg<const float*>(args, 3);
    float* out = arg<float*>(args, 4);
    for (size_t i = 0; i < len; i++) out[i] = in[place(i, rank, info, info + rank)];
}

static void copy2d(void** args) {
    const float* in = arg<const float*>(args, 0);
    float* out = arg<float*>(args, 1);
    size_t rows = arg<unsigned>(args, 2), cols = arg<unsigned>(args, 3);
    size_t in_row = arg<unsigned>(args, 4), out_row = arg<unsigned>(args, 5);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) out[r * out_row + c] = in[r * in_row + c];
}

static void set(void** args) {
    size_t len = arg<size_t>(args, 0), rank = arg<size_t>(args, 1);
    const size_t* info = arg<const size_t*>(args, 2);
    float value = arg<float>(args, 3), *out = arg<float*>(args, 4);
    for (size_t i = 0; i < len; i++) out[place(i, rank, info, info + rank)] = value;
}

// Sums of `each` elements; the first argument is the number of all elements, or with `small` that of the results.
template <bool SMALL> static void sum(void** args) {
    size_t len = arg<size_t>(args, 0), each = arg<size_t>(args, 1), rank = arg<size_t>(args, 2);
    const size_t* info = arg<const size_t*>(args, 3);
    const float* in = arg<const float*>(args, 4);
    float* out = arg<float*>(args, 5);
    for (size_t o = 0; o < (SMALL ? len : len / each); o++) {
        float total = 0.0f;
        for (size_t i = 0; i < each; i++) total += in[place(o * each + i, rank, info, info + rank)];
        out[o] = total;
    }
}

static void argmax(void** args) {
    size_t len = arg<size_t>(args, 0), each = arg<size_t>(args, 1), rank = arg<size_t>(args, 2);
    const size_t* info = arg<const size_t*>(args, 3);
    const float* in = arg<const float*>(args, 4);
    unsigned* out = arg<unsigned*>(args, 5);
    for (size_t o = 0; o < len / each; o++) {
        size_t best = 0;
        for (size_t i = 1; i < each; i++)
            if (in[place(o * each + i, rank, info, info + rank)] > in[place(o * each + best, rank, info, info + rank)])
                best = i;
        out[o] = best;
    }
}

typedef void (*Candle)(void**);
static const std::map<std::string, Candle> CANDLE = {
    {"badd_f32", add}, {"bsub_f32", subtract}, {"bmul_f32", multiply}, {"affine_f32", affine},
    {"ucopy_f32", copy}, {"copy2d_f32", copy2d}, {"const_set_f32", set}, {"fast_sum_f32", sum<false>},
    {"fast_sum_small_f32", sum<true>}, {"fast_argmax_f32", argmax},
};

// --- modules and launches ---------------------------------------------------------------------------------------

typedef const char* (*Ours)(const unsigned*, void**);

struct Function {
    std::string name;
    Ours ours;
    Candle candle;
    unsigned shared;
};

static const char MARK[] = "pretended: ";

API int cuModuleLoadData(void** module, const void* image) {
    const char* text = (const char*)image;
    *module = &thing; // Candle's
    if (strncmp(text, MARK, sizeof MARK - 1) != 0) return OK;
    *module = dlopen(text + sizeof MARK - 1, RTLD_NOW | RTLD_LOCAL);
    return *module ? OK : complain(NOT_FOUND, "no library", dlerror());
}

API int cuModuleGetFunction(Function** function, void* module, const char* name) {
    static std::map<std::string, Function*> functions;
    std::lock_guard<std::mutex> hold(lock);
    Function*& known = functions[std::string(name) + std::to_string((Address)module)];
    if (!known) {
        auto candle = CANDLE.find(name);
        void* ours = module == &thing ? nullptr : dlsym(module, (std::string("emulate_") + name).c_str());
        if (!ours && candle == CANDLE.end()) return complain(NOT_FOUND, "no kernel", name);
        known = new Function{name, (Ours)ours, ours ? nullptr : candle->second, 48 << 10};
    }
    *function = known;
    return OK;
}

API int cuFuncSetAttribute(Function* function, int attribute, int value) {
    if (attribute == 8) function->shared = value;
    return OK;
}

API int cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                       unsigned shared, void*, void** args, void**) {
    const char* name = function->name.c_str();
    if (!gx || !gy || gz != 1 || !bx || bx > 1024 || by != 1 || bz != 1 || gy > 65535)
        return complain(INVALID, "no such grid:", name);
    if (shared > function->shared) return complain(INVALID, "more shared memory than asked for:", name);
    if (function->candle) return function->candle(args), OK;
    const unsigned launch[] = {gx, gy, bx, shared, 1};
    const char* fault = function->ours(launch, args);
    return fault ? complain(LAUNCH_FAILED, name, fault) : OK;
}

// --- NVRTC: the C++ compiler ------------------------------------------------------------------------------------

struct Program {
    std::string source, ptx, log;
};

API int nvrtcCreateProgram(Program** program, const char* source, const char*, int, const char**, const char**) {
    return *program = new Program{source, "", ""}, OK;
}

API int nvrtcCompileProgram(Program* program, int, const char**) {
    const char *shim = getenv("PRETEND_SHIM"), *compiler = getenv("CXX");
    std::ifstream file(shim ? shim : "");
    std::stringstream text;
    text << file.rdbuf() << "\n" << program->source << "\n";
    const std::string start = "\nKERNEL ";
    for (size_t at = program->source.find(start); at != std::string::npos; at = program->source.find(start, at + 1)) {
        size_t name = program->source.find("void ", at) + 5;
        text << "EMULATED(" << program->source.substr(name, program->source.find('(', name) - name) << ")\n";
    }
    char folder[] = "/tmp/pretend-XXXXXX";
    if (!mkdtemp(folder)) return complain(INVALID, "no folder to compile in");
    std::string base = std::string(folder) + "/kernels";
    std::ofstream(base + ".cpp") << text.str();
    std::string command = std::string(compiler ? compiler : "c++") +
        " -std=c++17 -O1 -march=native -fPIC -shared -ffp-contract=off -fno-strict-aliasing -w -o " + base + ".so " + base +
        ".cpp";
    if (system(command.c_str()) != 0) return complain(6, "does not compile:", base.c_str());
    program->ptx = MARK + base + ".so";
    return OK;
}

API int nvrtcGetPTXSize(Program* program, size_t* len) { return *len = program->ptx.size() + 1, OK; }
API int nvrtcGetPTX(Program* program, char* ptx) { return strcpy(ptx, program->ptx.c_str()), OK; }
API int nvrtcGetProgramLogSize(Program*, size_t* len) { return *len = 1, OK; }
API int nvrtcGetProgramLog(Program*, char* log) { return *log = 0, OK; }
API int nvrtcDestroyProgram(Program** program) { return delete *program, *program = nullptr, OK; }

// --- cuBLAS and cuRAND ------------------------------------------------------------------------------------------

MAKES(cublasCreate_v2)
DOES(cublasDestroy_v2)
DOES(cublasSetStream_v2)
DOES(cublasSetMathMode)
DOES(curandDestroyGenerator)
DOES(curandSetStream)
DOES(curandSetPseudoRandomGeneratorSeed)
DOES(curandSetGeneratorOffset)
MAKES(curandCreateGenerator, int)

// Element `i` of a matrix of floats (type 0) or bfloat16 (type 14).
static float element(const void* matrix, int type, size_t i) {
    if (type == 0) return ((const float*)matrix)[i];
    unsigned bits = (unsigned)((const uint16_t*)matrix)[i] << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

API int cublasGemmStridedBatchedEx(void*, int ta, int tb, int m, int n, int k, const float* alpha, const void* a, int a_type,
                                   int lda, long long a_next, const void* b, int b_type, int ldb, long long b_next,
                                   const float* beta, void* c, int c_type, int ldc, long long c_next, int count, int, int) {
    if ((a_type != 0 && a_type != 14) || (b_type != 0 && b_type != 14) || c_type != 0)
        return complain(15, "no product of these types");
    if (lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m) return complain(7, "columns of a matrix overlap");
    for (int batch = 0; batch < count; batch++) {
        // Rows of both operands side by side, so that sums run along memory.
        std::vector<float> left((size_t)m * k), right((size_t)n * k);
        for (int i = 0; i < m; i++)
            for (int p = 0; p < k; p++)
                left[(size_t)i * k + p] = element(a, a_type, batch * a_next + (ta ? p + (size_t)i * lda : i + (size_t)p * lda));
        for (int j = 0; j < n; j++)
            for (int p = 0; p < k; p++)
                right[(size_t)j * k + p] = element(b, b_type, batch * b_next + (tb ? j + (size_t)p * ldb : p + (size_t)j * ldb));
        for (int j = 0; j < n; j++)
            for (int i = 0; i < m; i++) {
                float lanes[16] = {};
                int p = 0;
                for (; p + 16 <= k; p += 16)
                    for (int l = 0; l < 16; l++) lanes[l] += left[(size_t)i * k + p + l] * right[(size_t)j * k + p + l];
                float total = 0.0f;
                for (float lane : lanes) total += lane;
                for (; p < k; p++) total += left[(size_t)i * k + p] * right[(size_t)j * k + p];
                float* to = (float*)c + batch * c_next + i + (size_t)j * ldc;
                *to = *alpha * total + (*beta == 0.0f ? 0.0f : *beta * *to);
            }
    }
    return OK;
}

API int cublasGemmEx(void* handle, int ta, int tb, int m, int n, int k, const float* alpha, const void* a, int a_type,
                     int lda, const void* b, int b_type, int ldb, const float* beta, void* c, int c_type, int ldc,
                     int compute, int algorithm) {
    return cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0, beta, c, c_type,
                                      ldc, 0, 1, compute, algorithm);
}
