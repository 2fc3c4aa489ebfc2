// The line of memory at an address into the second-level cache, for somebody who comes later.
__device__ __forceinline__ void prefetch_line(const void* address)
{
#ifdef __CUDA_ARCH__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(address)));
#endif
}
