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
