// Sum over the threadIdx.x of each row of a block (blockDim.x: a multiple of 32; all threads of the block take part),
// in an order fixed by blockDim.x alone; the thread with threadIdx.x = 0 has it. Lanes of a warp by halves, then warps
// from the first to the last.
template <typename N> __device__ N row_sum(N value)
{
    __shared__ N part[32];
    for (int step = 16; step > 0; step /= 2)
        value += __shfl_down_sync(0xffffffffu, value, step);
    if (blockDim.x == 32)
        return value;
    const int warps = blockDim.x / 32;
    __syncthreads();  // the sum before this one has been read
    if (threadIdx.x % 32 == 0)
        part[threadIdx.y * warps + threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int i = 1; i < warps; i++)
            value += part[threadIdx.y * warps + i];
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

// Sum over the threadIdx.y of each column of a block of 32 x 32, from the first to the last; threadIdx.y = 0 has it.
template <typename N> __device__ N column_sum(N value)
{
    __shared__ N part[32][32];
    __syncthreads();  // the sum before this one has been read
    part[threadIdx.y][threadIdx.x] = value;
    __syncthreads();
    if (threadIdx.y == 0)
        for (int i = 1; i < 32; i++)
            value += part[i][threadIdx.x];
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
