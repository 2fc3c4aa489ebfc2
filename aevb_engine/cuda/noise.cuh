// The noise of aevb_engine/kernels/philox.py and noise.py, bit for bit. Every float operation is rounded once on its
// own (__fmul_rn and its kin are never contracted), and no mathematics library is called.

struct Words {
    unsigned int at[4];
};

// Philox4x32-10: counter (column group, row, step, stream), key = the two words of the seed.
__device__ inline Words philox(unsigned int group, unsigned int row, unsigned int step, unsigned int stream,
                               unsigned int key0, unsigned int key1)
{
    unsigned int a = group, b = row, c = step, d = stream;
    for (int round = 0; round < 10; round++) {
        const unsigned long long p = 0xD2511F53ull * a, q = 0xCD9E8D57ull * c;
        a = (unsigned int)(q >> 32) ^ b ^ key0;
        b = (unsigned int)q;
        c = (unsigned int)(p >> 32) ^ d ^ key1;
        d = (unsigned int)p;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return Words{{a, b, c, d}};
}

__device__ inline float multiply_add(float x, float y, float z) { return __fadd_rn(__fmul_rn(x, y), z); }

// Two words to two independent standard normal numbers: r cos(angle), r sin(angle), with r^2 = -2 log u.
__device__ inline void box_muller(unsigned int first, unsigned int second, float& x, float& y)
{
    // u in (0, 1] as mantissa m in [sqrt(1/2), sqrt(2)) and exponent e
    const float u = __fmul_rn(__fadd_rn(__uint2float_rn(first), 0.5f), 2.3283064365386963e-10f);
    const unsigned int bits = __float_as_uint(u);
    const int e = (int)(bits - 0x3F3504F3u) >> 23;
    const float m = __uint_as_float(bits - ((unsigned int)e << 23));
    // log m = 2 atanh(s), s = (m - 1) / (m + 1), |s| <= 0.172
    const float s = __fdiv_rn(__fadd_rn(m, -1.0f), __fadd_rn(m, 1.0f));
    float t = __fmul_rn(s, s);
    float p = multiply_add(t, 0.111111112f, 0.142857149f);
    p = multiply_add(p, t, 0.200000003f);
    p = multiply_add(p, t, 0.333333343f);
    p = __fmul_rn(multiply_add(p, t, 1.0f), s);
    float r = __fadd_rn(__fmul_rn((float)e, -1.38629436f), __fmul_rn(p, -4.0f));
    r = __fsqrt_rn(r > 0.0f ? r : 0.0f);
    // sine and cosine of a quarter of the angle, then doubled twice
    const float angle = __fmul_rn(__int2float_rn((int)second), 3.6572953e-10f);
    t = __fmul_rn(angle, angle);
    float sine = multiply_add(t, 2.75573188e-06f, -0.000198412701f);
    sine = multiply_add(sine, t, 0.00833333377f);
    sine = multiply_add(sine, t, -0.166666672f);
    sine = __fmul_rn(multiply_add(sine, t, 1.0f), angle);
    float cosine = multiply_add(t, 2.48015876e-05f, -0.00138888892f);
    cosine = multiply_add(cosine, t, 0.0416666679f);
    cosine = multiply_add(cosine, t, -0.5f);
    cosine = multiply_add(cosine, t, 1.0f);
    for (int i = 0; i < 2; i++) {
        const float product = __fmul_rn(sine, cosine);
        cosine = multiply_add(__fmul_rn(sine, sine), -2.0f, 1.0f);
        sine = __fmul_rn(product, 2.0f);
    }
    x = __fmul_rn(r, cosine);
    y = __fmul_rn(r, sine);
}

// The standard normal number of one column.
__device__ inline float normal_at(int column, unsigned int row, unsigned int step, unsigned int stream,
                                  unsigned int key0, unsigned int key1)
{
    const Words w = philox((unsigned int)column / 4, row, step, stream, key0, key1);
    const bool upper = column & 2;
    float x, y;
    box_muller(upper ? w.at[2] : w.at[0], upper ? w.at[3] : w.at[1], x, y);
    return column & 1 ? y : x;
}
