// y (m, n) = a b in float32, a simple tiled product without the library: what a first kernel of our own would reach.
// A block of 256 threads makes a tile of 32 x 32, each thread 2 x 2 of it, over steps of 32 along k.
template <bool A_TURNED, bool B_TURNED>
__device__ void product(const float* a, const float* b, float* y, int m, int n, int k)
{
    __shared__ float part_a[32][33];
    __shared__ float part_b[32][33];
    const int row = blockIdx.y * 32, column = blockIdx.x * 32;
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    float y00 = 0, y01 = 0, y10 = 0, y11 = 0;
    for (int base = 0; base < k; base += 32) {
        for (int slow = threadIdx.x / 32; slow < 32; slow += 8) {
            const int fast = threadIdx.x % 32;  // neighbours in memory are neighbours in a warp
            const int ai = row + (A_TURNED ? fast : slow), ak = base + (A_TURNED ? slow : fast);
            const int bj = column + (B_TURNED ? slow : fast), bk = base + (B_TURNED ? fast : slow);
            const float va = ai < m && ak < k ? (A_TURNED ? a[ak * m + ai] : a[ai * k + ak]) : 0.0f;
            const float vb = bj < n && bk < k ? (B_TURNED ? b[bj * k + bk] : b[bk * n + bj]) : 0.0f;
            part_a[ak - base][ai - row] = va;
            part_b[bk - base][bj - column] = vb;
        }
        __syncthreads();
        for (int d = 0; d < 32; d++) {
            const float a0 = part_a[d][ty], a1 = part_a[d][ty + 16];
            const float b0 = part_b[d][tx], b1 = part_b[d][tx + 16];
            y00 += a0 * b0;
            y01 += a0 * b1;
            y10 += a1 * b0;
            y11 += a1 * b1;
        }
        __syncthreads();
    }
    const int i = row + ty, j = column + tx;
    if (i < m && j < n)
        y[i * n + j] = y00;
    if (i < m && j + 16 < n)
        y[i * n + j + 16] = y01;
    if (i + 16 < m && j < n)
        y[(i + 16) * n + j] = y10;
    if (i + 16 < m && j + 16 < n)
        y[(i + 16) * n + j + 16] = y11;
}

extern "C" __global__ void __launch_bounds__(256) product_forward(
    const float* a_, const float* b_, float* y_, int m, int n, int k)
{
    product<false, false>(a_, b_, y_, m, n, k);
}

extern "C" __global__ void __launch_bounds__(256) product_data(
    const float* a_, const float* b_, float* y_, int m, int n, int k)
{
    product<false, true>(a_, b_, y_, m, n, k);
}

extern "C" __global__ void __launch_bounds__(256) product_weight(
    const float* a_, const float* b_, float* y_, int m, int n, int k)
{
    product<true, false>(a_, b_, y_, m, n, k);
}
