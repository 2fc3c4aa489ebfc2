// Narrow layers for a few rows of the batch by one block of 256 threads: what stands in shared memory goes in and out.
// The order of every sum is fixed by the shapes alone. Rows behind the last are computed and never stored.

struct RowsPlace {
    unsigned int x, y, z;
};

// y (rows, c) = x (rows, k) w (k, c), w dense along c. Neighbouring threads take neighbouring columns; PARTS shares of k
// lie side by side and are added from the first to the last. GROUP rows a pass over w, so that each of its numbers is
// used as often as there are registers for sums. "part": GROUP * PARTS * c numbers, not needed where PARTS is 1.
template <int GROUPS, int GROUP, int PARTS>
__device__ __forceinline__ void rows_by_columns(
    int thread, const T* x, int size_k, const T* w, int w_k, int w_c, int size_c, T* part, T* y)
{
#pragma unroll 1
    for (int group = 0; group < GROUPS; group++) {
        const T* const of_x = x + group * GROUP * size_k;
        T* const of_y = y + group * GROUP * size_c;
        T* const to = PARTS > 1 ? part : of_y;
#pragma unroll 2
        for (int e = thread; e < PARTS * size_c; e += 256) {
            const int c = e % size_c, first = e / size_c;
            T sum[GROUP] = {};
            const T* at = w + (long long)first * w_k + (long long)c * w_c;
#pragma unroll 16
            for (int k = first; k < size_k; k += PARTS) {
                const T weight = *at;
                at += PARTS * w_k;
#pragma unroll
                for (int g = 0; g < GROUP; g++)
                    sum[g] += of_x[g * size_k + k] * weight;
            }
#pragma unroll
            for (int g = 0; g < GROUP; g++)
                to[(g * PARTS + first) * size_c + c] = sum[g];
        }
        if (PARTS > 1) {
            __syncthreads();  // the shares of k are there
            for (int e = thread; e < GROUP * size_c; e += 256) {
                T total = part[e / size_c * PARTS * size_c + e % size_c];
#pragma unroll
                for (int p = 1; p < PARTS; p++)
                    total += part[(e / size_c * PARTS + p) * size_c + e % size_c];
                of_y[e] = total;
            }
            if (group + 1 < GROUPS)
                __syncthreads();  // the shares of this group have been read
        }
    }
}

// y (rows, c) = x (rows, k) w (c, k)^T, w dense along k. LANES neighbours share the sum of a column, and read whole
// sectors; a thread has AHEAD columns under way.
template <int GROUPS, int GROUP, int LANES>
__device__ __forceinline__ void rows_by_dots(
    int thread, const T* x, int size_k, const T* w, int w_k, int w_c, int size_c, T* y)
{
    constexpr int STEP = 256 / LANES, AHEAD = 4;
    const int lane = thread % LANES;
#pragma unroll 1
    for (int group = 0; group < GROUPS; group++) {
        const T* const of_x = x + group * GROUP * size_k;
#pragma unroll 1
        for (int base = 0; base < size_c; base += STEP * AHEAD) {  // the same for the whole block
            const int c = base + thread / LANES;
            T sum[AHEAD][GROUP] = {};
            const T* const at = w + (long long)c * w_c;
#pragma unroll 4
            for (int k = lane; k < size_k; k += LANES) {
                T weight[AHEAD];
#pragma unroll
                for (int a = 0; a < AHEAD; a++)
                    weight[a] = c + a * STEP < size_c ? at[(long long)(a * STEP) * w_c + (long long)k * w_k] : (T)0;
#pragma unroll
                for (int g = 0; g < GROUP; g++) {
                    const T value = of_x[g * size_k + k];
#pragma unroll
                    for (int a = 0; a < AHEAD; a++)
                        sum[a][g] += value * weight[a];
                }
            }
#pragma unroll
            for (int a = 0; a < AHEAD; a++)
#pragma unroll
                for (int g = 0; g < GROUP; g++) {
#pragma unroll
                    for (int step = LANES / 2; step > 0; step /= 2)
                        sum[a][g] += __shfl_xor_sync(0xffffffffu, sum[a][g], step);
                    if (lane == 0 && c + a * STEP < size_c)
                        y[(group * GROUP + g) * size_c + c + a * STEP] = sum[a][g];
                }
        }
    }
}
