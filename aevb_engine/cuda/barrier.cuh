// A barrier for all blocks of a group. ``state`` in device memory: [0] arrivals so far, modulo 2^32; [1] arrivals when the
// launch began; [2] whether a block gave up.
enum { ARRIVED, BEGAN, LATE };

#ifdef __CUDA_ARCH__
// What the block wrote before is seen by whoever looks at the count afterwards.
__device__ inline void arrive(unsigned int* count)
{
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(__cvta_generic_to_global(count)) : "memory");
}
__device__ inline unsigned int look(const unsigned int* count)
{
    unsigned int value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(__cvta_generic_to_global(count)) : "memory");
    return value;
}
#else  // where memory is always in order
inline void arrive(unsigned int* count) { *count += 1; }
inline unsigned int look(const unsigned int* count) { return *(const volatile unsigned int*)count; }
#endif

// Every block of the group calls this with the same goal: the arrivals when all are there. Nobody leaves before that, and
// what any thread wrote before is seen by all behind. False: a block looked ``limit`` times in vain; then all leave.
__device__ inline bool meet(unsigned int* state, unsigned int goal, int limit)
{
    __shared__ int late;
    __syncthreads();
    if (threadIdx.x == 0) {
        arrive(state + ARRIVED);
        late = 0;
        // by difference, so that the count may wrap around
        for (int looks = 1; (int)(look(state + ARRIVED) - goal) < 0 && !late; looks++) {
            if (looks >= limit)
                *(volatile unsigned int*)(state + LATE) = 1;
            if (looks % 64 == 0 || looks >= limit)
                late = *(volatile unsigned int*)(state + LATE) != 0;
            __nanosleep(20);
        }
    }
    __syncthreads();
    return !late;
}
