// A barrier for all blocks of a group. ``state`` in device memory: [0] arrivals so far, modulo 2^32; [1] arrivals when the
// launch began; [2] whether a block gave up.
enum { ARRIVED, BEGAN, LATE };

// Every block of the group calls this with the same goal: the arrivals when all are there. Nobody leaves before that, and
// what any thread wrote before is seen by all behind. False: a block looked ``limit`` times in vain; then all leave.
__device__ inline bool meet(unsigned int* state, unsigned int goal, int limit)
{
    __shared__ int late;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(state + ARRIVED, 1u);
        late = 0;
        // by difference, so that the count may wrap around
        for (int looks = 1; (int)(*(volatile unsigned int*)(state + ARRIVED) - goal) < 0 && !late; looks++) {
            if (looks >= limit)
                *(volatile unsigned int*)(state + LATE) = 1;
            if (looks % 64 == 0 || looks >= limit)
                late = *(volatile unsigned int*)(state + LATE) != 0;
            __nanosleep(20);
        }
        __threadfence();
    }
    __syncthreads();
    return !late;
}
