// Enough of CUDA to execute kernel texts with a C++ compiler on the CPU.
//
// A thread of a block is a fiber, run until it ends or waits. Text without any barrier or shuffle runs as plain calls. A
// warp runs as far as it can before the next one does. The blocks of a grid run one after the other; those of a
// cooperative grid take turns: a block runs until all its threads have ended, wait for it, or look again and again
// (__nanosleep) at what another block must do. Three schedules order blocks, warps and lanes: forward, reverse, and
// shuffled anew at every pass; a result that depends on the schedule shows a race. A barrier that part of a block never
// reaches, a shuffle that part of a warp never reaches, or a grid in which all that runs looks in vain is reported as a
// deadlock, never a hang.
//
// Shared variables are the only ones in the section .bss (SHIM keeps all others out of it): it is filled anew for every
// block with what would be noticed, and exchanged as blocks take turns.
//
// A tensor core's product has a stand-in after the documented layout of fragments. Not modelled: asynchronous copies,
// clusters, coalescing, weak memory.
#pragma once

#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__
#define __shared__ static
#define SHIM static __attribute__((section("shim_state")))
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

SHIM dim3 threadIdx, blockIdx, blockDim, gridDim;

// The linker's names for the ends of .bss.
extern char __bss_start[] __attribute__((visibility("hidden")));
extern char _end[] __attribute__((visibility("hidden")));

namespace shim {

constexpr int WARP = 32;
constexpr size_t STACK = 64 * 1024;
constexpr int VAIN = 20000;  // rounds of all blocks in which every thread only looked again

enum State { READY, BARRIER, SHUFFLE, LOOKING, DONE };

// Made once, then given one thread after the other.
struct Fiber {
    ucontext_t context;
    jmp_buf place;
    std::unique_ptr<char[]> stack;
    bool begun;
    State state;
    bool looked;  // its last turn began with looking again
    dim3 index;
    uint64_t value;    // offered to the warp's shuffle
    uint64_t offered;  // its value of the last complete shuffle
};

struct Block {
    dim3 index;
    int from, to;  // fibers
    bool done;
    std::vector<char> shared;
};

SHIM std::vector<std::unique_ptr<Fiber>> fibers;
SHIM std::vector<int> lanes, warps;  // orders of the running block
SHIM bool on_fibers;
SHIM jmp_buf scheduler;
SHIM int current, current_to;  // the running fiber, and the end of its block
SHIM uint64_t random_state;
SHIM void (*kernel)(void**);
SHIM void** arguments;

static inline uint64_t random_word()
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

enum Schedule { FORWARD, REVERSE, SHUFFLED };

static inline void arrange(std::vector<int>& order, int schedule)
{
    const int n = (int)order.size();
    for (int i = 0; i < n; i++)
        order[i] = schedule == REVERSE ? n - 1 - i : i;
    if (schedule == SHUFFLED)
        for (int i = n - 1; i > 0; i--)
            std::swap(order[i], order[random_word() % (uint64_t)(i + 1)]);
}

// Back to the scheduler. Jumps, unlike swapcontext, make no system call.
__attribute__((noinline)) static void wait(State why)
{
    if (!on_fibers) {
        std::fprintf(stderr, "runtime error: a barrier in text that was run without fibers\n");
        std::abort();
    }
    Fiber& fiber = *fibers[current];
    fiber.state = why;
    if (_setjmp(fiber.place) == 0)
        _longjmp(scheduler, 1);
}

static inline void start()
{
    for (;;) {
        kernel(arguments);
        wait(DONE);
    }
}

// One thread until it waits or ends.
__attribute__((noinline)) static void resume(int i)
{
    Fiber& fiber = *fibers[i];
    current = i;
    threadIdx = fiber.index;
    if (_setjmp(scheduler) != 0)
        return;
    if (fiber.begun)
        _longjmp(fiber.place, 1);
    fiber.begun = true;
    setcontext(&fiber.context);
}

static inline void need_fibers(int count)
{
    while ((int)fibers.size() < count) {
        fibers.emplace_back(new Fiber);
        Fiber& fiber = *fibers.back();
        fiber.stack.reset(new char[STACK]);
        fiber.begun = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, start, 0);
    }
}

// Every thread of the group [from, to) waits for the same thing: let them go on.
static inline bool release(int from, int to, State why)
{
    for (int i = from; i < to; i++)
        if (fibers[i]->state != why)
            return false;
    for (int i = from; i < to; i++) {
        if (why == SHUFFLE)
            fibers[i]->offered = fibers[i]->value;
        fibers[i]->state = READY;
        fibers[i]->looked = false;
    }
    return true;
}

static inline dim3 place(int i, const unsigned int* n)
{
    return {(unsigned int)i % n[0], (unsigned int)i / n[0] % n[1], (unsigned int)i / n[0] / n[1]};
}

// One warp as far as it gets without the others, so that warps drift apart as far as barriers allow. Whether any thread
// did more than look in vain.
static inline bool run_warp(int from, int to, int schedule)
{
    lanes.resize((size_t)(to - from));
    bool ran = false;
    do {
        arrange(lanes, schedule);
        for (int i : lanes) {
            Fiber& fiber = *fibers[from + i];
            if (fiber.state != READY)
                continue;
            resume(from + i);
            ran = ran || !(fiber.looked && fiber.state == LOOKING);
        }
    } while (release(from, to, SHUFFLE));
    return ran;
}

// One block as far as it gets without the others; whether anything happened.
static inline bool run_block(Block& block, int schedule)
{
    blockIdx = block.index;
    current_to = block.to;
    for (int i = block.from; i < block.to; i++) {
        Fiber& fiber = *fibers[i];
        fiber.looked = fiber.state == LOOKING;
        if (fiber.looked)
            fiber.state = READY;
    }
    warps.resize((size_t)((block.to - block.from + WARP - 1) / WARP));
    bool any = false;
    for (;;) {
        bool ran = false;
        arrange(warps, schedule);
        for (int w : warps) {
            const int from = block.from + w * WARP;
            ran = run_warp(from, from + WARP < block.to ? from + WARP : block.to, schedule) || ran;
        }
        // strict: a thread that has ended never reaches the barrier
        const bool released = release(block.from, block.to, BARRIER);
        any = any || ran || released;
        if (released)
            continue;
        if (!ran)
            break;
    }
    block.done = true;
    for (int i = block.from; i < block.to; i++)
        block.done = block.done && fibers[i]->state == DONE;
    return any;
}

// Blocks that are alive together; false: deadlock.
static inline bool run_blocks(std::vector<Block>& blocks, const unsigned int* size, int schedule)
{
    const int count = (int)(size[0] * size[1] * size[2]), room = (count + WARP - 1) / WARP * WARP;
    const size_t bytes = (size_t)(_end - __bss_start);
    need_fibers(room * (int)blocks.size());
    for (size_t b = 0; b < blocks.size(); b++) {
        Block& block = blocks[b];
        block.from = (int)b * room;
        block.to = block.from + count;
        block.done = false;
        if (blocks.size() > 1)
            block.shared.assign(bytes, (char)0xff);
        else
            std::memset(__bss_start, 0xff, bytes);
        for (int i = 0; i < count; i++) {
            fibers[block.from + i]->state = READY;
            fibers[block.from + i]->looked = false;
            fibers[block.from + i]->index = place(i, size);
        }
    }
    std::vector<int> order(blocks.size());
    for (int vain = 0; vain < VAIN;) {
        bool any = false, done = true, looking = false;
        arrange(order, schedule);
        for (int b : order) {
            Block& block = blocks[b];
            if (block.done)
                continue;
            if (!block.shared.empty())
                std::memcpy(__bss_start, block.shared.data(), bytes);
            any = run_block(block, schedule) || any;
            if (!block.shared.empty())
                std::memcpy(block.shared.data(), __bss_start, bytes);
            done = done && block.done;
            for (int i = block.from; i < block.to; i++)
                looking = looking || fibers[i]->state == LOOKING;
        }
        if (done)
            return true;
        if (!any && !looking)
            break;
        vain = any ? 0 : vain + 1;
    }
    fibers.clear();  // they wait in the middle of a thread
    return false;
}

// A whole grid. Returns 0, or 1 for a deadlock. ``waits``: the text has barriers or shuffles; ``cooperative``: all
// blocks are alive together.
static inline int run_grid(void (*body)(void**), void** args, const unsigned int* grid, const unsigned int* block,
                    int schedule, uint64_t seed, bool waits, bool cooperative)
{
    const int blocks = (int)(grid[0] * grid[1] * grid[2]), threads = (int)(block[0] * block[1] * block[2]);
    random_state = seed * 2654435769u + 88172645463325252ull;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    kernel = body;
    arguments = args;
    on_fibers = waits;
    if (waits && cooperative) {
        std::vector<Block> all((size_t)blocks);
        for (int b = 0; b < blocks; b++)
            all[b].index = place(b, grid);
        return run_blocks(all, block, schedule) ? 0 : 1;
    }
    std::vector<int> block_order((size_t)blocks), thread_order((size_t)threads);
    std::vector<Block> one(1);
    arrange(block_order, schedule);
    for (int b : block_order) {
        blockIdx = place(b, grid);
        if (waits) {
            one[0].index = blockIdx;
            if (!run_blocks(one, block, schedule))
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
    if (!on_fibers)
        wait(SHUFFLE);  // reports
    Fiber& fiber = *fibers[current];
    const int first = current / WARP * WARP, from = first + lane;
    std::memcpy(&fiber.value, &value, sizeof value);
    wait(SHUFFLE);
    if (lane >= 0 && lane < WARP && from < current_to)
        std::memcpy(&value, &fibers[from]->offered, sizeof value);
    return value;
}

}  // namespace shim

inline void __syncthreads() { shim::wait(shim::BARRIER); }
inline void __syncwarp(unsigned int mask = 0xffffffffu) { shim::shuffle(mask, 0, 0); }
template <typename N> N __shfl_sync(unsigned int mask, N value, int lane) { return shim::shuffle(mask, value, lane); }
template <typename N> N __shfl_down_sync(unsigned int mask, N value, int by)
{
    return shim::shuffle(mask, value, shim::current % shim::WARP + by);
}
template <typename N> N __shfl_xor_sync(unsigned int mask, N value, int by)
{
    return shim::shuffle(mask, value, shim::current % shim::WARP ^ by);
}

// Between blocks. All threads run in one thread of the CPU, so that memory is always in order.
inline void __threadfence() {}
inline void __nanosleep(unsigned int) { shim::wait(shim::LOOKING); }
inline unsigned int atomicAdd(unsigned int* at, unsigned int value)
{
    const unsigned int before = *at;
    *at += value;
    return before;
}
inline void* __cvta_global_to_generic(size_t address) { return (void*)address; }
inline long long clock64()  // nanoseconds
{
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
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
        std::memcpy(&all[lane], &shim::fibers[first + lane]->offered, sizeof value);
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
