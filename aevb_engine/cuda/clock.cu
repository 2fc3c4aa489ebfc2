// This step's rows and coefficients from the block's tables, at the cursor.
extern "C" __global__ void __launch_bounds__(256) aevb_advance(
    const long long* cursor_, const long long* orders_, int orders_n, int orders_b, const T* rates_, int rates_n,
    int rates_m, long long* index_, int index_b, T* coef_, int coef_m, int size_n, int size_b, int size_m)
{
    const long long n = cursor_[0] < 0 ? 0 : cursor_[0] < size_n ? cursor_[0] : size_n - 1;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < size_b; i += gridDim.x * blockDim.x)
        index_[(long long)i * index_b] = orders_[n * orders_n + (long long)i * orders_b];
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < size_m; i += gridDim.x * blockDim.x)
        coef_[(long long)i * coef_m] = rates_[n * rates_n + (long long)i * rates_m];
}

// Batch means of bound, reconstruction and kl in double into row "cursor" of the metrics; then cursor and step move on.
// One block.
extern "C" __global__ void __launch_bounds__(256) aevb_record(
    const T* bound_, int bound_b, const T* reconstruction_, int reconstruction_b, const T* kl_, int kl_b,
    double* metrics_, int metrics_n, int metrics_j, long long* cursor_, long long* step_, int size_b, int size_n,
    int size_j)
{
    double bound = 0, reconstruction = 0, kl = 0;
    for (int b = threadIdx.x; b < size_b; b += blockDim.x) {
        bound += bound_[(long long)b * bound_b];
        reconstruction += reconstruction_[(long long)b * reconstruction_b];
        kl += kl_[(long long)b * kl_b];
    }
    bound = row_sum(bound);
    reconstruction = row_sum(reconstruction);
    kl = row_sum(kl);
    if (threadIdx.x == 0) {
        const long long n = cursor_[0];
        if (n >= 0 && n < size_n) {  // a step beyond the block is not recorded, and never written elsewhere
            double* const row = metrics_ + n * metrics_n;
            row[0] = bound / size_b;
            row[metrics_j] = reconstruction / size_b;
            row[2 * metrics_j] = kl / size_b;
        }
        cursor_[0] = n + 1;
        step_[0] += 1;
    }
}
