// Enough of CUDA to execute kernel texts with a C++ compiler on the CPU.
//
// A thread of a block is a fiber (ucontext), run until it ends or waits; the blocks of a grid run one after the other.
// Text without any barrier or shuffle runs as plain calls. A warp runs as far as it can before the next one does. Three
// schedules order blocks, warps and lanes: forward, reverse, and shuffled anew at every pass; a result that depends on
// the schedule shows a race. A barrier that part of a block
// never reaches, or a shuffle that part of a warp never reaches, is reported as a deadlock, never a hang.
//
// A tensor core's product has a stand-in after the documented layout of fragments. Not modelled: asynchronous copies,
// clusters, coalescing, weak memory.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __shared__ static
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define TENSOR_CORE_STAND_IN

using std::exp;
using std::expm1;
using std::fabs;
using std::lgamma;
using std::log;
using std::log1p;
using std::sqrt;
using std::tanh;

struct dim3 {
    unsigned int x, y, z;
};

static dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

constexpr int WARP = 32;
constexpr size_t STACK = 32 * 1024;

enum State { READY, BARRIER, SHUFFLE, DONE };

struct Fiber {
    ucontext_t context;
    State state;
    dim3 index;
    uint64_t value;  // offered to the warp's shuffle
    void (*body)(void**);
    void** args;
};

static std::vector<Fiber> fibers;
static std::vector<char> stacks;
static std::vector<uint64_t> offered;  // values of the last complete shuffle, by thread
static ucontext_t scheduler;
static int current;
static uint64_t random_state;

inline uint64_t random_word()
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

enum Schedule { FORWARD, REVERSE, SHUFFLED };

inline void arrange(std::vector<int>& order, int schedule)
{
    const int n = (int)order.size();
    for (int i = 0; i < n; i++)
        order[i] = schedule == REVERSE ? n - 1 - i : i;
    if (schedule == SHUFFLED)
        for (int i = n - 1; i > 0; i--)
            std::swap(order[i], order[random_word() % (uint64_t)(i + 1)]);
}

inline void wait(State why)
{
    if (fibers.empty()) {
        std::fprintf(stderr, "runtime error: a barrier in text that was run without fibers\n");
        std::abort();
    }
    Fiber& fiber = fibers[current];
    fiber.state = why;
    swapcontext(&fiber.context, &scheduler);
}

inline void start()
{
    Fiber& fiber = fibers[current];
    fiber.body(fiber.args);
    fiber.state = DONE;  // uc_link leads back to the scheduler
}

// Every thread of the group [from, to) waits for the same thing: let them go on.
inline bool release(int from, int to, State why)
{
    for (int i = from; i < to; i++)
        if (fibers[i].state != why)
            return false;
    for (int i = from; i < to; i++) {
        if (why == SHUFFLE)
            offered[i] = fibers[i].value;
        fibers[i].state = READY;
    }
    return true;
}

inline dim3 place(int i, const unsigned int* n)
{
    return {(unsigned int)i % n[0], (unsigned int)i / n[0] % n[1], (unsigned int)i / n[0] / n[1]};
}

// One warp as far as it gets without the others, so that warps drift apart as far as barriers allow.
inline bool run_warp(int from, int to, int schedule)
{
    std::vector<int> order((size_t)(to - from));
    bool ran = false;
    do {
        arrange(order, schedule);
        for (int i : order) {
            if (fibers[from + i].state != READY)
                continue;
            current = from + i;
            threadIdx = fibers[current].index;
            swapcontext(&scheduler, &fibers[current].context);
            ran = true;
        }
    } while (release(from, to, SHUFFLE));
    return ran;
}

// One block with fibers; false: deadlock.
inline bool run_block(void (*body)(void**), void** args, const unsigned int* block, int schedule)
{
    const int count = (int)(block[0] * block[1] * block[2]);
    fibers.resize((size_t)count);
    offered.resize((size_t)count);
    stacks.resize((size_t)count * STACK);
    for (int i = 0; i < count; i++) {
        Fiber& fiber = fibers[i];
        fiber.state = READY;
        fiber.index = place(i, block);
        fiber.body = body;
        fiber.args = args;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = &stacks[(size_t)i * STACK];
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, start, 0);
    }
    const int warps = (count + WARP - 1) / WARP;
    std::vector<int> warp_order((size_t)warps);
    for (;;) {
        bool ran = false, done = true;
        arrange(warp_order, schedule);
        for (int w : warp_order)
            ran = run_warp(w * WARP, w * WARP + WARP < count ? w * WARP + WARP : count, schedule) || ran;
        for (const Fiber& fiber : fibers)
            done = done && fiber.state == DONE;
        if (done)
            return true;
        // strict: a thread that has ended never reaches the barrier
        if (!release(0, count, BARRIER) && !ran)
            return false;
    }
}

// A whole grid. Returns 0, or 1 for a deadlock.
inline int run_grid(void (*body)(void**), void** args, const unsigned int* grid, const unsigned int* block,
                    int schedule, uint64_t seed, bool cooperative)
{
    const int blocks = (int)(grid[0] * grid[1] * grid[2]), threads = (int)(block[0] * block[1] * block[2]);
    random_state = seed * 2654435769u + 88172645463325252ull;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    std::vector<int> block_order((size_t)blocks), thread_order((size_t)threads);
    arrange(block_order, schedule);
    for (int b : block_order) {
        blockIdx = place(b, grid);
        if (cooperative) {
            if (!run_block(body, args, block, schedule))
                return 1;
            continue;
        }
        arrange(thread_order, schedule);
        for (int t : thread_order) {
            threadIdx = place(t, block);
            body(args);
        }
    }
    return 0;
}

template <typename N> N shuffle(unsigned int mask, N value, int lane)
{
    if (mask != 0xffffffffu) {
        std::fprintf(stderr, "runtime error: shuffle of a part of a warp\n");
        std::abort();
    }
    Fiber& fiber = fibers[current];
    const int first = current / WARP * WARP, from = first + lane;
    std::memcpy(&fiber.value, &value, sizeof value);
    wait(SHUFFLE);
    if (lane >= 0 && lane < WARP && from < (int)fibers.size())
        std::memcpy(&value, &offered[from], sizeof value);
    return value;
}

}  // namespace shim

inline void __syncthreads() { shim::wait(shim::BARRIER); }
template <typename N> N __shfl_sync(unsigned int mask, N value, int lane) { return shim::shuffle(mask, value, lane); }
template <typename N> N __shfl_down_sync(unsigned int mask, N value, int by)
{
    return shim::shuffle(mask, value, shim::current % shim::WARP + by);
}
template <typename N> N __shfl_xor_sync(unsigned int mask, N value, int by)
{
    return shim::shuffle(mask, value, shim::current % shim::WARP ^ by);
}

// Operations rounded once each (compile with -ffp-contract=off).
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __uint2float_rn(unsigned int x) { return (float)x; }
inline float __int2float_rn(int x) { return (float)x; }
inline unsigned int __float_as_uint(float x)
{
    unsigned int bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float __uint_as_float(unsigned int bits)
{
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// A tensor core's product of TF32 ------------------------------------------------------------------------------

// cvt.rna.tf32: to 10 bits of mantissa, to nearest, ties away from zero.
inline float stand_in_tf32(float x)
{
    const unsigned int bits = __float_as_uint(x);
    return (bits & 0x7f800000u) == 0x7f800000u ? x : __uint_as_float((bits + 0x1000u) & ~0x1fffu);
}

// The number each lane of the warp offers.
inline void stand_in_gather(float value, float (&all)[32])
{
    const int first = shim::current / shim::WARP * shim::WARP;
    if (__float_as_uint(value) & 0x1fffu) {
        std::fprintf(stderr, "runtime error: a tensor core was given a number with more than 10 bits of mantissa\n");
        std::abort();
    }
    __shfl_sync(0xffffffffu, value, 0);
    for (int lane = 0; lane < shim::WARP; lane++)
        std::memcpy(&all[lane], &shim::offered[first + lane], sizeof value);
}

// mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32, fragments as in the PTX documentation: with g = lane / 4 and
// t = lane % 4, a (16 x 8, row by row) at (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4); b (8 x 8) at (t, g), (t + 4, g);
// c (16 x 8) at (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1).
inline void stand_in_mma(float* c, const float* a, const float* b)
{
    float all_a[4][32], all_b[2][32];
    for (int i = 0; i < 4; i++)
        stand_in_gather(a[i], all_a[i]);
    for (int i = 0; i < 2; i++)
        stand_in_gather(b[i], all_b[i]);
    const int lane = shim::current % shim::WARP, g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) {
        const int row = g + i / 2 * 8, column = 2 * t + i % 2;
        for (int k = 0; k < 8; k++) {
            const float x = all_a[row / 8 + k / 4 * 2][row % 8 * 4 + k % 4];
            const float y = all_b[k / 4][column * 4 + k % 4];
            c[i] += x * y;
        }
    }
}
