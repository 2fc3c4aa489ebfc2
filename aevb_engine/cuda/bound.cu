// Bounds of a data point from its samples; a warp (32 x 8 threads a block) a data point.

// bound = log 1/k sum_l e^logw_l, shifted by the largest so that nothing overflows.
extern "C" __global__ void __launch_bounds__(256) aevb_log_mean_exp(
    const T* logw_, int logw_r, int logw_c, T* bound_, int bound_r, int size_r, int size_c)
{
    for (int base = blockIdx.x * blockDim.y; base < size_r; base += gridDim.x * blockDim.y) {
        const int r = base + threadIdx.y;
        const T* const logw = logw_ + (long long)(r < size_r ? r : 0) * logw_r;
        T largest = logw[0];
        for (int l = threadIdx.x; l < size_c; l += 32)
            largest = logw[(long long)l * logw_c] > largest ? logw[(long long)l * logw_c] : largest;
        largest = warp_max(largest);
        T total = 0;
        for (int l = threadIdx.x; l < size_c; l += 32)
            total += exp(logw[(long long)l * logw_c] - largest);
        total = row_sum(total);
        if (r < size_r && threadIdx.x == 0)
            bound_[(long long)r * bound_r] = largest + log(total / (T)size_c);
    }
}

// L^B: reconstruction = mean over samples of logp, bound = reconstruction - kl (LX 9).
extern "C" __global__ void __launch_bounds__(256) aevb_elbo_bound(
    const T* logp_, int logp_b, int logp_l, const T* kl_, int kl_b, T* reconstruction_, int reconstruction_b, T* bound_,
    int bound_b, int size_b, int size_l)
{
    for (int base = blockIdx.x * blockDim.y; base < size_b; base += gridDim.x * blockDim.y) {
        const int b = base + threadIdx.y;
        T sum = 0;
        if (b < size_b)
            for (int l = threadIdx.x; l < size_l; l += 32)
                sum += logp_[(long long)b * logp_b + (long long)l * logp_l];
        sum = row_sum(sum);
        if (b < size_b && threadIdx.x == 0) {
            const T reconstruction = sum / (T)size_l;
            reconstruction_[(long long)b * reconstruction_b] = reconstruction;
            bound_[(long long)b * bound_b] = reconstruction - kl_[(long long)b * kl_b];
        }
    }
}

// L^A: bound = mean of log w = logp + prior - posterior over samples, kl = reconstruction - bound (LX 7).
extern "C" __global__ void __launch_bounds__(256) aevb_elbo_mc_bound(
    const T* logp_, int logp_b, int logp_l, const T* prior_, int prior_b, int prior_l, const T* posterior_,
    int posterior_b, int posterior_l, T* reconstruction_, int reconstruction_b, T* kl_, int kl_b, T* bound_,
    int bound_b, int size_b, int size_l)
{
    for (int base = blockIdx.x * blockDim.y; base < size_b; base += gridDim.x * blockDim.y) {
        const int b = base + threadIdx.y;
        T data = 0, latent = 0;
        if (b < size_b)
            for (int l = threadIdx.x; l < size_l; l += 32) {
                data += logp_[(long long)b * logp_b + (long long)l * logp_l];
                latent += posterior_[(long long)b * posterior_b + (long long)l * posterior_l]
                          - prior_[(long long)b * prior_b + (long long)l * prior_l];
            }
        data = row_sum(data);
        latent = row_sum(latent);
        if (b < size_b && threadIdx.x == 0) {
            reconstruction_[(long long)b * reconstruction_b] = data / (T)size_l;
            kl_[(long long)b * kl_b] = latent / (T)size_l;
            bound_[(long long)b * bound_b] = (data - latent) / (T)size_l;
        }
    }
}

// L_k: bound = log 1/k sum_l w_l, w = e^(logp + prior - posterior), and the row weights factor * w_l / mean w (Burda,
// Grosse & Salakhutdinov 2015, eq. 8 and 14); reconstruction and kl as for L^A.
extern "C" __global__ void __launch_bounds__(256, 2) aevb_iwae_bound(
    const T* logp_, int logp_b, int logp_l, const T* prior_, int prior_b, int prior_l, const T* posterior_,
    int posterior_b, int posterior_l, T factor, T* weight_, int weight_b, int weight_l, T* reconstruction_,
    int reconstruction_b, T* kl_, int kl_b, T* bound_, int bound_b, int size_b, int size_l)
{
    for (int base = blockIdx.x * blockDim.y; base < size_b; base += gridDim.x * blockDim.y) {
        const int b = base + threadIdx.y;
        T data = 0, latent = 0, largest = 0;
        if (b < size_b)
            for (int l = threadIdx.x; l < size_l; l += 32) {
                const T p = logp_[(long long)b * logp_b + (long long)l * logp_l];
                const T q = posterior_[(long long)b * posterior_b + (long long)l * posterior_l]
                            - prior_[(long long)b * prior_b + (long long)l * prior_l];
                data += p;
                latent += q;
                largest = l == (int)threadIdx.x || p - q > largest ? p - q : largest;
                weight_[(long long)b * weight_b + (long long)l * weight_l] = p - q;  // read back by this very thread
            }
        // a lane without a sample knows no largest: it takes that of lane 0
        const T known = __shfl_sync(0xffffffffu, largest, 0);
        largest = warp_max((int)threadIdx.x < size_l ? largest : known);
        T total = 0;
        if (b < size_b)
            for (int l = threadIdx.x; l < size_l; l += 32)
                total += exp(weight_[(long long)b * weight_b + (long long)l * weight_l] - largest);
        total = row_sum(total);
        data = row_sum(data);
        latent = row_sum(latent);
        const T bound = __shfl_sync(0xffffffffu, largest + log(total / (T)size_l), 0);
        if (b < size_b) {
            for (int l = threadIdx.x; l < size_l; l += 32) {
                T* const weight = weight_ + (long long)b * weight_b + (long long)l * weight_l;
                *weight = factor * exp(*weight - bound);
            }
            if (threadIdx.x == 0) {
                reconstruction_[(long long)b * reconstruction_b] = data / (T)size_l;
                kl_[(long long)b * kl_b] = latent / (T)size_l;
                bound_[(long long)b * bound_b] = bound;
            }
        }
    }
}
