// Small kernels that time the device itself.

// Keeps the stream busy for some nanoseconds, so that what is enqueued behind it starts without waiting for the host.
extern "C" __global__ void spin(long long nanoseconds)
{
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    do {
        __nanosleep(500);
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - start < (unsigned long long)nanoseconds);
}

extern "C" __global__ void empty() {}

// As many arguments as a wide launch of the engine has.
extern "C" __global__ void wide(
    float* a, int a0, int a1, float* b, int b0, int b1, float* c, int c0, int c1, float* d, int d0, int d1, float e,
    int size_r, int size_c, long long size)
{
    if (size < 0)
        a[a0] = e;
}

// Every block adds one to a counter and waits for all of them, ``rounds`` times. A block that polls ``limit`` times in
// vain gives up and says so in ``late``; then all leave.
extern "C" __global__ void __launch_bounds__(256) barrier(unsigned int* arrived, int* late, int rounds, int limit)
{
    __shared__ int leave;
    for (int round = 1; round <= rounds; round++) {
        __syncthreads();
        if (threadIdx.x == 0) {
            const unsigned int wanted = (unsigned int)round * gridDim.x;
            __threadfence();
            atomicAdd(arrived, 1u);
            int polls = 0;
            while (*(volatile unsigned int*)arrived < wanted && !*(volatile int*)late)
                if (++polls > limit)
                    *(volatile int*)late = 1;
            __threadfence();
            leave = *(volatile int*)late;
        }
        __syncthreads();
        if (leave)
            return;
    }
}
