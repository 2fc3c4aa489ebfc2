// The latent stage, a warp (or block) a data point, the noise drawn in place: head = product + bias (the product may lie
// in the head itself), (mu | logvar) = head,
// sigma = e^(logvar / 2), eps ~ N(0, 1) at (step, row * samples + b * L + l, z), z = mu + sigma * eps (LX 4), and
// kl = 1/2 sum (mu^2 + sigma^2 - 1 - logvar) (LX 25).
extern "C" __global__ void __launch_bounds__(256) aevb_latent(
    const T* product_, int product_b, int product_h, const T* bias_, int bias_h, T* head_, int head_b, int head_h,
    const long long* step_, const long long* row_,
    unsigned int stream, unsigned int key0, unsigned int key1, T* sigma_, int sigma_b, int sigma_z, T* eps_, int eps_b,
    int eps_l, int eps_z, T* z_, int z_b, int z_l, int z_z, T* kl_, int kl_b, int size_b, int size_l, int size_z)
{
    const unsigned int step = (unsigned int)step_[0];
    const long long first = row_[0] * size_l;
    for (int base = blockIdx.x * blockDim.y; base < size_b; base += gridDim.x * blockDim.y) {
        const int b = base + threadIdx.y;
        T kl = 0;
        if (b < size_b)
            for (int j = threadIdx.x; j < size_z; j += blockDim.x) {
                T* const head = head_ + (long long)b * head_b;
                const T mu = product_[(long long)b * product_b + j * product_h] + bias_[j * bias_h];
                const T logvar =
                    product_[(long long)b * product_b + (size_z + j) * product_h] + bias_[(size_z + j) * bias_h];
                const T sigma = exp((T)0.5 * logvar);
                head[j * head_h] = mu;
                head[(size_z + j) * head_h] = logvar;
                sigma_[(long long)b * sigma_b + j * sigma_z] = sigma;
                const T excess = expm1(logvar) - logvar;  // sigma^2 - 1 - logvar, which of sigma would cancel
                kl += (T)0.5 * (mu * mu + (excess < (T)0 ? (T)0 : excess));
                for (int l = 0; l < size_l; l++) {
                    const unsigned int row = (unsigned int)(first + (long long)b * size_l + l);
                    const T eps = normal_at(j, row, step, stream, key0, key1);
                    eps_[(long long)b * eps_b + (long long)l * eps_l + j * eps_z] = eps;
                    z_[(long long)b * z_b + (long long)l * z_l + j * z_z] = mu + sigma * eps;
                }
            }
        kl = row_sum(kl);
        if (b < size_b && threadIdx.x == 0)
            kl_[(long long)b * kl_b] = kl;
    }
}

// The same without kl, and for every sample its log-densities: prior = log N(z; 0, I), posterior = log q(z | x) at
// z = mu + sigma * eps, -1/2 sum (eps^2 + logvar + log 2 pi).
extern "C" __global__ void __launch_bounds__(256) aevb_latent_mc(
    const T* product_, int product_b, int product_h, const T* bias_, int bias_h, T* head_, int head_b, int head_h,
    const long long* step_, const long long* row_,
    unsigned int stream, unsigned int key0, unsigned int key1, T* sigma_, int sigma_b, int sigma_z, T* eps_, int eps_b,
    int eps_l, int eps_z, T* z_, int z_b, int z_l, int z_z, T* prior_, int prior_b, int prior_l, T* posterior_,
    int posterior_b, int posterior_l, int size_b, int size_l, int size_z)
{
    const T log_2_pi = (T)1.8378770664093453;
    const unsigned int step = (unsigned int)step_[0];
    const long long first = row_[0] * size_l;
    for (int base = blockIdx.x * blockDim.y; base < size_b; base += gridDim.x * blockDim.y) {
        const int b = base + threadIdx.y;
        T* const head = head_ + (long long)b * head_b;
        if (b < size_b)
            for (int j = threadIdx.x; j < size_z; j += blockDim.x) {
                head[j * head_h] = product_[(long long)b * product_b + j * product_h] + bias_[j * bias_h];
                const T logvar =
                    product_[(long long)b * product_b + (size_z + j) * product_h] + bias_[(size_z + j) * bias_h];
                head[(size_z + j) * head_h] = logvar;
                sigma_[(long long)b * sigma_b + j * sigma_z] = exp((T)0.5 * logvar);
            }
        for (int l = 0; l < size_l; l++) {
            const unsigned int row = (unsigned int)(first + (long long)b * size_l + l);
            T prior = 0, posterior = 0;
            if (b < size_b)
                for (int j = threadIdx.x; j < size_z; j += blockDim.x) {  // what this thread itself has written
                    const T logvar = head[(size_z + j) * head_h];
                    const T eps = normal_at(j, row, step, stream, key0, key1);
                    const T z = head[j * head_h] + sigma_[(long long)b * sigma_b + j * sigma_z] * eps;
                    eps_[(long long)b * eps_b + (long long)l * eps_l + j * eps_z] = eps;
                    z_[(long long)b * z_b + (long long)l * z_l + j * z_z] = z;
                    prior += (T)-0.5 * (z * z + log_2_pi);
                    posterior += (T)-0.5 * (eps * eps + logvar + log_2_pi);
                }
            prior = row_sum(prior);
            posterior = row_sum(posterior);
            if (b < size_b && threadIdx.x == 0) {
                prior_[(long long)b * prior_b + (long long)l * prior_l] = prior;
                posterior_[(long long)b * posterior_b + (long long)l * posterior_l] = posterior;
            }
        }
    }
}
