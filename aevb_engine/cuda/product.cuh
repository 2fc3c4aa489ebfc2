// A tile of y = a b, by 256 threads, in an order of sums fixed by the shapes alone.
//
// A thread holds 4 x 4 sums; as many groups of threads as the tile leaves room for share k: of every chunk of DEPTH along
// k each takes its part, and their sums are added from the first group to the last. A chunk lies in shared memory as
// [k][row] and [k][column], so that a thread reads four rows or columns at once; the next one is on its way in registers
// meanwhile. Everything else about a place comes in as an argument: the text may be one member of a larger kernel.

struct __align__(16) Quad {
    T at[4];
};

// One for all products of a module: chunks of a and b, then the groups' sums, then what an epilogue needs.
__shared__ __align__(16) T product_scratch[sizeof(T) == 4 ? 8192 : 4224];

// Where the elements of a factor lie: w is a row of a or a column of b.
template <typename N> struct Dense {
    const N* p;
    int w, k;  // strides
};

// Rows of the data as they are stored, times a scale: w is the row that number[w * step] picks, moved to an edge where it
// is outside. As aevb_gather makes them, to the bit.
template <typename Stored> struct Picked {
    const Stored* data;
    int row, k;  // strides
    const long long* number;
    int step, count;
    T scale;
};

// Where a thread's elements of a chunk of DEPTH x WIDE lie: the i-th at (k + ks(i), w + ws(i)), with ks and ws the same for
// all threads; ws(i) is of_line(line(i)). Where k is next to k in memory a warp takes 8 of them from 4 places w: whole
// sectors, and no two of its stores in one bank.
template <int WIDE, int DEPTH, bool ALONG_K> struct Share {
    static constexpr int UNITS = DEPTH / 8, WARPS = UNITS < 8 ? UNITS : 8, TURNS = UNITS / WARPS;
    static __device__ __forceinline__ int k(int thread)
    {
        return ALONG_K ? thread / 32 % WARPS * 8 + thread % 8 : thread / WIDE;
    }
    static __device__ __forceinline__ int w(int thread)
    {
        return ALONG_K ? thread / 32 / WARPS * 4 + thread % 32 / 8 : thread % WIDE;
    }
    static __device__ __forceinline__ constexpr int ks(int i)
    {
        return ALONG_K ? i % TURNS * WARPS * 8 : i * (256 / WIDE);
    }
    static __device__ __forceinline__ constexpr int line(int i) { return ALONG_K ? i / TURNS : 0; }
    static __device__ __forceinline__ constexpr int of_line(int j) { return j * (8 / WARPS) * 4; }
    static __device__ __forceinline__ constexpr int ws(int i) { return of_line(line(i)); }
};

// A thread's share of the chunk at hand, of which "first_w", "first_k" is the first element.
template <typename S, int COUNT, typename From> struct Reader;

template <typename S, int COUNT, typename N> struct Reader<S, COUNT, Dense<N>> {
    const N* p;
    int w, k;
    __device__ __forceinline__ Reader(const Dense<N>& from, int first_w, int first_k, int)
        : p(from.p + (long long)first_w * from.w + (long long)first_k * from.k), w(from.w), k(from.k)
    {
    }
    __device__ __forceinline__ N at(int i) const { return p[S::ws(i) * w + S::ks(i) * k]; }
    __device__ __forceinline__ void move(int by) { p += (long long)by * k; }
};

template <typename S, int COUNT, typename Stored> struct Reader<S, COUNT, Picked<Stored>> {
    static constexpr int LINES = S::line(COUNT - 1) + 1;
    const Stored* line[LINES];
    int k;
    T scale;
    __device__ __forceinline__ Reader(const Picked<Stored>& from, int first_w, int first_k, int left_w)
        : k(from.k), scale(from.scale)
    {
#pragma unroll
        for (int j = 0; j < LINES; j++) {
            long long n = 0;
            if (S::of_line(j) < left_w) {
                const long long wanted = from.number[(long long)(first_w + S::of_line(j)) * from.step];
                n = wanted < 0 ? 0 : wanted < from.count ? wanted : from.count - 1;
            }
            line[j] = from.data + n * from.row + (long long)first_k * from.k;
        }
    }
    __device__ __forceinline__ T at(int i) const { return scale * (T)line[S::line(i)][S::ks(i) * k]; }
    __device__ __forceinline__ void move(int by)
    {
#pragma unroll
        for (int j = 0; j < LINES; j++)
            line[j] += (long long)by * k;
    }
};

// A thread's share of a chunk into registers, zero outside: from its first element "left_k" and "left_w" are left to the
// edges. With EXTRA "last" is one more w.
template <typename S, bool EXTRA, typename From, typename N, int COUNT>
__device__ __forceinline__ void product_fetch(
    const Reader<S, COUNT, From>& from, const N* last, int last_k, int left_w, int left_k, N (&held)[COUNT])
{
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        held[i] = 0;
        if (S::ks(i) < left_k && S::ws(i) < left_w)
            held[i] = from.at(i);
        if (EXTRA && S::ks(i) < left_k && S::ws(i) == left_w)
            held[i] = last[S::ks(i) * last_k];
    }
}

// To the 10 bits of mantissa that a tensor core reads, to nearest; ties away from zero.
__device__ __forceinline__ float product_rounded(float value)
{
#ifdef TENSOR_CORE_STAND_IN
    return stand_in_tf32(value);
#else
    unsigned int bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return __uint_as_float(bits);
#endif
}
__device__ __forceinline__ double product_rounded(double value) { return value; }

template <typename S, int STRIDE, bool TF32, typename N, int COUNT>
__device__ __forceinline__ void product_store(N* chunk, const N (&held)[COUNT])
{
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        chunk[S::ks(i) * STRIDE + S::ws(i)] = TF32 ? product_rounded(held[i]) : held[i];
}

// c (16, 8) += a (16, 8) b (8, 8) by a warp. With g = lane / 4, t = lane % 4: a at (g, t), (g + 8, t), (g, t + 4),
// (g + 8, t + 4); b at (t, g), (t + 4, g); c at (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1).
__device__ __forceinline__ void product_mma(float* c, const float* a, const float* b)
{
#ifdef TENSOR_CORE_STAND_IN
    stand_in_mma(c, a, b);
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
          "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
#endif
}
__device__ __forceinline__ void product_mma(double*, const double*, const double*) {}

// value[i]: the element e = thread + 256 i of the tile at (base_r, base_c), row e / COLUMNS, column e % COLUMNS; zero
// outside. Every thread of the block takes part.
template <int ROWS, int COLUMNS, int FLOATS, bool A_ALONG_K, bool B_ALONG_K, bool EXTRA, bool TF32,
          typename FromA, typename N, int COUNT>
__device__ __forceinline__ void product(
    int thread, int base_r, int base_c, const FromA& a, const N* last, int last_k, const Dense<N>& b, int size_m,
    int size_c, int size_k, N (&value)[COUNT])
{
    constexpr int DEPTH = sizeof(N) == 4 ? FLOATS : FLOATS / 2;  // k of a chunk
    constexpr int PAD = TF32 ? 8 : 4;
    constexpr int A = ROWS + PAD, B = COLUMNS + PAD;
    constexpr int THREADS = ROWS * COLUMNS / 16, GROUPS = 256 / THREADS, SHARE = DEPTH / GROUPS;
    constexpr int DOWN = ROWS < 32 ? ROWS / 4 : 8;  // threads of a patch: DOWN x 4, of 4 DOWN rows and 16 columns
    static_assert(COUNT == ROWS * COLUMNS / 256 && DEPTH * (A + B) <= sizeof(product_scratch) / sizeof(N), "scratch");
    static_assert(!TF32 || (sizeof(N) == 4 && ROWS >= 32 && SHARE % 8 == 0), "shape of a tensor core's tile");
    N* const chunk_a = product_scratch;
    N* const chunk_b = chunk_a + DEPTH * A;
    const int group = thread / THREADS, patch = thread % THREADS / (DOWN * 4), lane = thread % (DOWN * 4);
    const int patch_r = patch / (COLUMNS / 16) * (4 * DOWN), patch_c = patch % (COLUMNS / 16) * 16;
    N sum[16] = {};
    constexpr int COUNT_A = ROWS * DEPTH / 256, COUNT_B = COLUMNS * DEPTH / 256;
    N held_a[COUNT_A], held_b[COUNT_B];
    typedef Share<ROWS, DEPTH, A_ALONG_K> OfA;
    typedef Share<COLUMNS, DEPTH, B_ALONG_K> OfB;
    const int ka = OfA::k(thread), wa = OfA::w(thread), kb = OfB::k(thread), wb = OfB::w(thread);
    const int left_r = size_m - base_r - wa, left_c = size_c - base_c - wb;
    Reader<OfA, COUNT_A, FromA> from_a(a, base_r + wa, ka, left_r);
    Reader<OfB, COUNT_B, Dense<N>> from_b(b, base_c + wb, kb, left_c);
    last += (long long)ka * last_k;
    product_fetch<OfA, EXTRA>(from_a, last, last_k, left_r, size_k - ka, held_a);
    product_fetch<OfB, false>(from_b, last, 0, left_c, size_k - kb, held_b);
    for (int base_k = 0; base_k < size_k; base_k += DEPTH) {
        __syncthreads();  // what lay in the scratch has been read
        product_store<OfA, A, TF32>(chunk_a + ka * A + wa, held_a);
        product_store<OfB, B, TF32>(chunk_b + kb * B + wb, held_b);
        __syncthreads();  // the chunk is complete
        const int next = base_k + DEPTH;
        if (next < size_k) {
            from_a.move(DEPTH);
            from_b.move(DEPTH);
            last += DEPTH * last_k;
            product_fetch<OfA, EXTRA>(from_a, last, last_k, left_r, size_k - next - ka, held_a);
            product_fetch<OfB, false>(from_b, last, 0, left_c, size_k - next - kb, held_b);
        }
        const int left = size_k - base_k - group * SHARE;
        if constexpr (TF32) {
            const N* const at = chunk_a + (group * SHARE + lane % 4) * A + patch_r + lane / 4;
            const N* const bt = chunk_b + (group * SHARE + lane % 4) * B + patch_c + lane / 4;
#pragma unroll
            for (int k = 0; k < SHARE; k += 8) {
                if (k < left) {  // the same for a whole warp
                    N fa[8], fb[4];
#pragma unroll
                    for (int j = 0; j < 8; j++)
                        fa[j] = at[(k + j % 4 / 2 * 4) * A + j / 4 * 16 + j % 2 * 8];
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        fb[j] = bt[(k + j % 2 * 4) * B + j / 2 * 8];
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        product_mma(sum + 4 * j, fa + j / 2 * 4, fb + j % 2 * 2);
                }
            }
        } else {
            const N* const at = chunk_a + group * SHARE * A + patch_r + lane / 4 * 4;
            const N* const bt = chunk_b + group * SHARE * B + patch_c + lane % 4 * 4;
#pragma unroll
            for (int some = 0; some < SHARE; some += 4) {
                if (some < left) {
#pragma unroll
                    for (int k = some; k < some + 4; k++) {
                        const Quad qa = *(const Quad*)(at + k * A), qb = *(const Quad*)(bt + k * B);
#pragma unroll
                        for (int j = 0; j < 16; j++)
                            sum[j] += qa.at[j / 4] * qb.at[j % 4];
                    }
                }
            }
        }
    }
    __syncthreads();  // the last chunk has been read
    N* const part = product_scratch + group * ROWS * COLUMNS;
#pragma unroll
    for (int j = 0; j < 16; j++) {
        int r, c;
        if (TF32) {
            r = patch_r + j / 8 * 16 + j % 4 / 2 * 8 + lane / 4;
            c = patch_c + j % 8 / 4 * 8 + lane % 4 * 2 + j % 2;
        } else {
            r = patch_r + lane / 4 * 4 + j / 4;
            c = patch_c + lane % 4 * 4 + j % 4;
        }
        part[r * COLUMNS + c] = sum[j];
    }
    __syncthreads();  // the groups' sums are there
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        value[i] = product_scratch[thread + 256 * i];
#pragma unroll
        for (int g = 1; g < GROUPS; g++)
            value[i] += product_scratch[g * ROWS * COLUMNS + thread + 256 * i];
    }
}
