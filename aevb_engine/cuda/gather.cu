// x = scale * data[index]; an index outside the data is moved to its edge.
extern "C" __global__ void __launch_bounds__(256) aevb_gather(
    const T* data_, int data_n, int data_c, const long long* index_, int index_r, T scale, T* x_, int x_r, int x_c,
    int size_n, int size_r, int size_c)
{
    for (int r = blockIdx.y * blockDim.y + threadIdx.y; r < size_r; r += gridDim.y * blockDim.y) {
        const long long wanted = index_[(long long)r * index_r];
        const long long n = wanted < 0 ? 0 : wanted < size_n ? wanted : size_n - 1;
        for (int c = blockIdx.x * blockDim.x + threadIdx.x; c < size_c; c += gridDim.x * blockDim.x)
            x_[(long long)r * x_r + (long long)c * x_c] = scale * data_[n * data_n + (long long)c * data_c];
    }
}

// The same from bytes.
extern "C" __global__ void __launch_bounds__(256) aevb_gather_bytes(
    const unsigned char* data_, int data_n, int data_c, const long long* index_, int index_r, T scale, T* x_, int x_r,
    int x_c, int size_n, int size_r, int size_c)
{
    for (int r = blockIdx.y * blockDim.y + threadIdx.y; r < size_r; r += gridDim.y * blockDim.y) {
        const long long wanted = index_[(long long)r * index_r];
        const long long n = wanted < 0 ? 0 : wanted < size_n ? wanted : size_n - 1;
        for (int c = blockIdx.x * blockDim.x + threadIdx.x; c < size_c; c += gridDim.x * blockDim.x)
            x_[(long long)r * x_r + (long long)c * x_c] = scale * (T)data_[n * data_n + (long long)c * data_c];
    }
}

// x ~ Bernoulli(data[index] / 255): x = 1 where 255 k < 65536 p, k the 16-bit halves of the words at (step, row + r), low
// half first. A thread takes the eight columns of one counter.
extern "C" __global__ void __launch_bounds__(256) aevb_gather_bernoulli(
    const unsigned char* data_, int data_n, int data_c, const long long* index_, int index_r, const long long* step_,
    const long long* row_, unsigned int stream, unsigned int key0, unsigned int key1, T* x_, int x_r, int x_c,
    int size_n, int size_r, int size_c)
{
    const unsigned int step = (unsigned int)step_[0];
    for (int r = blockIdx.y * blockDim.y + threadIdx.y; r < size_r; r += gridDim.y * blockDim.y) {
        const long long wanted = index_[(long long)r * index_r];
        const long long n = wanted < 0 ? 0 : wanted < size_n ? wanted : size_n - 1;
        for (int g = blockIdx.x * blockDim.x + threadIdx.x; g < (size_c + 7) / 8; g += gridDim.x * blockDim.x) {
            const Words w = philox(g, (unsigned int)(row_[0] + r), step, stream, key0, key1);
            for (int j = 0; j < 8; j++) {
                const int c = 8 * g + j;
                const unsigned int k = w.at[j / 2] >> 16 * (j % 2) & 0xffffu;
                if (c < size_c) {
                    const unsigned int p = data_[n * data_n + (long long)c * data_c];
                    x_[(long long)r * x_r + (long long)c * x_c] = 255 * k >> 16 < p ? (T)1 : (T)0;
                }
            }
        }
    }
}
