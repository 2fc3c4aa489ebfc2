// Sums over the threads of a block, at the threadIdx and blockDim in scope: a member of a fused kernel has its own.
#define row_sum(value) row_sum_at(value, threadIdx, blockDim)
#define column_sum(value) column_sum_at(value, threadIdx, blockDim)

// Sum over the thread.x of each row of a block (block.x: a multiple of 32; all threads of the block take part), in an
// order fixed by block.x alone; the thread with thread.x = 0 has it. Lanes of a warp by halves, then warps from the
// first to the last.
template <typename N, typename Thread, typename Block> __device__ N row_sum_at(N value, Thread thread, Block block)
{
    __shared__ N part[32];
    for (int step = 16; step > 0; step /= 2)
        value += __shfl_down_sync(0xffffffffu, value, step);
    if (block.x == 32)
        return value;
    const int warps = block.x / 32;
    __syncthreads();  // the sum before this one has been read
    if (thread.x % 32 == 0)
        part[thread.y * warps + thread.x / 32] = value;
    __syncthreads();
    if (thread.x == 0)
        for (int i = 1; i < warps; i++)
            value += part[thread.y * warps + i];
    return value;
}

// The largest value over the 32 lanes of a warp, in every lane.
template <typename N> __device__ N warp_max(N value)
{
    for (int step = 16; step > 0; step /= 2) {
        const N other = __shfl_xor_sync(0xffffffffu, value, step);
        value = other > value ? other : value;
    }
    return value;
}

// Sum over the thread.y of each column of a block of 32 x 8, from the first to the last; thread.y = 0 has it.
template <typename N, typename Thread, typename Block> __device__ N column_sum_at(N value, Thread thread, Block block)
{
    __shared__ N part[8][32];
    __syncthreads();  // the sum before this one has been read
    part[thread.y][thread.x] = value;
    __syncthreads();
    if (thread.y == 0)
        for (int i = 1; i < (int)block.y; i++)
            value += part[i][thread.x];
    return value;
}

// Sum of numbers that lie apart, from the first to the last: what the tiles of a product left of a row.
template <typename N> __device__ N sum_apart(const N* first, int apart, int count)
{
    N total = 0;
#pragma unroll 16
    for (int i = 0; i < count; i++)
        total += first[(long long)i * apart];
    return total;
}
