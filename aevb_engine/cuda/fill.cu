// Noise into y (steps, rows, columns): step[0] + ahead + t, row[0] * per_point + offset + r, column c. A thread fills the
// four columns of one counter.
extern "C" __global__ void __launch_bounds__(256) aevb_normal(
    const long long* step_, const long long* row_, long long ahead, long long per_point, long long offset,
    unsigned int stream, unsigned int key0, unsigned int key1, T* y_, int y_t, int y_r, int y_c, int size_t, int size_r,
    int size_c)
{
    for (int t = blockIdx.z; t < size_t; t += gridDim.z)
        for (int r = blockIdx.y * blockDim.y + threadIdx.y; r < size_r; r += gridDim.y * blockDim.y)
            for (int g = blockIdx.x * blockDim.x + threadIdx.x; g < (size_c + 3) / 4; g += gridDim.x * blockDim.x) {
                const unsigned int step = (unsigned int)(step_[0] + ahead + t);
                const unsigned int row = (unsigned int)(row_[0] * per_point + offset + r);
                const Words w = philox(g, row, step, stream, key0, key1);
                T* const y = y_ + (long long)t * y_t + (long long)r * y_r;
                for (int half = 0; half < 4; half += 2) {
                    float even, odd;
                    box_muller(w.at[half], w.at[half + 1], even, odd);
                    if (4 * g + half < size_c)
                        y[(long long)(4 * g + half) * y_c] = even;
                    if (4 * g + half + 1 < size_c)
                        y[(long long)(4 * g + half + 1) * y_c] = odd;
                }
            }
}

// Uniform numbers k / 2^24 in [0, 1).
extern "C" __global__ void __launch_bounds__(256) aevb_uniform(
    const long long* step_, const long long* row_, long long ahead, long long per_point, long long offset,
    unsigned int stream, unsigned int key0, unsigned int key1, T* y_, int y_t, int y_r, int y_c, int size_t, int size_r,
    int size_c)
{
    for (int t = blockIdx.z; t < size_t; t += gridDim.z)
        for (int r = blockIdx.y * blockDim.y + threadIdx.y; r < size_r; r += gridDim.y * blockDim.y)
            for (int g = blockIdx.x * blockDim.x + threadIdx.x; g < (size_c + 3) / 4; g += gridDim.x * blockDim.x) {
                const unsigned int step = (unsigned int)(step_[0] + ahead + t);
                const unsigned int row = (unsigned int)(row_[0] * per_point + offset + r);
                const Words w = philox(g, row, step, stream, key0, key1);
                T* const y = y_ + (long long)t * y_t + (long long)r * y_r;
                for (int j = 0; j < 4; j++)
                    if (4 * g + j < size_c)
                        y[(long long)(4 * g + j) * y_c] = (float)(w.at[j] >> 8) * 5.9604644775390625e-08f;
            }
}

// Random 32-bit words.
extern "C" __global__ void __launch_bounds__(256) aevb_words(
    const long long* step_, const long long* row_, long long ahead, long long per_point, long long offset,
    unsigned int stream, unsigned int key0, unsigned int key1, unsigned int* y_, int y_t, int y_r, int y_c, int size_t,
    int size_r, int size_c)
{
    for (int t = blockIdx.z; t < size_t; t += gridDim.z)
        for (int r = blockIdx.y * blockDim.y + threadIdx.y; r < size_r; r += gridDim.y * blockDim.y)
            for (int g = blockIdx.x * blockDim.x + threadIdx.x; g < (size_c + 3) / 4; g += gridDim.x * blockDim.x) {
                const unsigned int step = (unsigned int)(step_[0] + ahead + t);
                const unsigned int row = (unsigned int)(row_[0] * per_point + offset + r);
                const Words w = philox(g, row, step, stream, key0, key1);
                unsigned int* const y = y_ + (long long)t * y_t + (long long)r * y_r;
                for (int j = 0; j < 4; j++)
                    if (4 * g + j < size_c)
                        y[(long long)(4 * g + j) * y_c] = w.at[j];
            }
}
