// Half and bfloat16 arithmetic against exact sums rounded once; integer intrinsics.
#pragma once

// The nearest number of the format to an exact value, ties to even, by search. `bits` counts from zero upward.
template <typename T>
T nearest(__float128 exact) {
    const bool negative = exact < 0;
    const __float128 size = negative ? -exact : exact;
    const uint16_t infinity = std::is_same_v<T, __half> ? 0x7c00 : 0x7f80;
    // Infinity stands where the next number would, which is where rounding to it starts.
    const auto value = [&](uint16_t bits) -> __float128 {
        if (bits != infinity) return static_cast<float>(emulation::from_bits<T>(bits));
        return std::is_same_v<T, __half> ? 65536.0 : 0x1p128;
    };
    uint16_t low = 0, high = infinity;
    while (high - low > 1) {
        const uint16_t middle = (low + high) / 2;
        (value(middle) <= size ? low : high) = middle;
    }
    const __float128 below = size - value(low), above = value(high) - size;
    const uint16_t bits = above < below || (above == below && low % 2) ? high : low;
    return emulation::from_bits<T>(bits | (negative ? 0x8000 : 0));
}

// a + b for `nearest`: where 113 bits hold nothing of one of them, a little is added to the side on which it lies.
static __float128 exact_sum(__float128 a, __float128 b) {
    const __float128 sum = a + b, part = sum - a, error = (a - (sum - part)) + (b - part);
    const __float128 little = (sum < 0 ? -sum : sum) * 0x1p-100;
    return error == 0 || (sum != a && sum != b) ? sum : error > 0 ? sum + little : sum - little;
}

template <typename T>
static void test_format(uint16_t exponent_bits) {
    std::mt19937 random(5);
    const auto draw = [&] {
        for (;;) {
            const uint16_t bits = random();
            if ((bits & exponent_bits) != exponent_bits) return emulation::from_bits<T>(bits);
        }
    };
    for (int i = 0; i < 300000; i++) {
        T a = draw(), b = draw(), c = draw();
        // Exponents near each other and near ties, where double rounding would show.
        if (i % 3 == 1) c.bits = emulation::from_bits<T>(T(static_cast<float>(a) * static_cast<float>(b)).bits).bits;
        if (i % 3 == 2) b.bits = (a.bits & 0xff80) | (b.bits & 0x7f), c.bits = (c.bits & 0x807f) | (a.bits & 0x7f80);
        if ((c.bits & exponent_bits) == exponent_bits) c.bits &= 0x83ff;
        if ((b.bits & exponent_bits) == exponent_bits) b.bits &= 0x83ff;
        const __float128 x = static_cast<float>(a), y = static_cast<float>(b), z = static_cast<float>(c);
        const auto same = [](T got, T expected) {
            return got.bits == expected.bits || ((got.bits | expected.bits) & 0x7fff) == 0;
        };
        CHECK(same(__hfma(a, b, c), nearest<T>(exact_sum(x * y, z))));
        CHECK(same(__hadd(a, b), nearest<T>(exact_sum(x, y))));
        CHECK(same(__hsub(a, b), nearest<T>(exact_sum(x, -y))));
        CHECK(same(__hmul(a, b), nearest<T>(x * y)));
        if (failures > 10) return;
    }
}

static void test_small_floats() {
    test_format<__half>(0x7c00);
    test_format<__nv_bfloat16>(0x7f80);
    CHECK(__half_as_ushort(__float2half_rn(65519.0f)) == 0x7bff);
    CHECK(__half_as_ushort(__float2half_rn(65520.0f)) == 0x7c00);
    CHECK(__half_as_ushort(__float2half_rn(NAN)) == 0x7fff);
    CHECK(__half_as_ushort(__float2half_rn(0x1p-24f)) == 1 && __half2float(__ushort_as_half(1)) == 0x1p-24f);
    CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(1.00390625f)) == 0x3f80);
    CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(3.4028235e38f)) == 0x7f80);
    const __half2 pair = __hmax2(__floats2half2_rn(NAN, 1.0f), __floats2half2_rn(2.0f, -3.0f));
    CHECK(__low2float(pair) == 2.0f && __high2float(pair) == 1.0f);
    const __nv_bfloat162 fused = __hfma2(__floats2bfloat162_rn(2.0f, 3.0f), __float2bfloat162_rn(4.0f),
                                         __floats2bfloat162_rn(1.0f, -1.0f));
    CHECK(__low2float(fused) == 9.0f && __high2float(fused) == 11.0f);
    volatile float a = 1.0f + 0x1p-12f, b = a, c = -1.0f;
    CHECK(__fadd_rn(__fmul_rn(a, b), c) == 0x1p-11f);
    CHECK(__fmaf_rn(a, b, c) == 0x1p-11f + 0x1p-24f);
}

static void test_integers() {
    CHECK(__byte_perm(0x33221100u, 0x77665544u, 0x7250u) == 0x77225500u);
    CHECK(__byte_perm(0x80007f00u, 0, 0x00b9u) == 0x0000ff00u);
    CHECK(__funnelshift_r(0x12345678u, 0x9abcdef0u, 8) == 0xf0123456u);
    CHECK(__funnelshift_l(0x12345678u, 0x9abcdef0u, 8) == 0xbcdef012u);
    CHECK(__dp4a(static_cast<int>(0x80ff0102u), 0x7f010203, 10) == -128 * 127 - 1 + 2 + 6 + 10);
    CHECK(__dp4a(0x80ff0102u, 0x7f010203u, 10u) == 128 * 127 + 255 + 2 + 6 + 10);
    CHECK(__brev(0x00000013u) == 0xc8000000u && __clz(1) == 31 && __clz(0) == 32 && __ffs(8) == 4 && __popc(0xf0) == 4);
    CHECK(__vsub4(0x00ff8001u, 0x01010101u) == 0xfffe7f00u && __vadd4(0xff01807fu, 0x01017f01u) == 0x0002ff80u);
    CHECK(__vsubss4(0x807f0005u, 0x01ff0003u) == 0x807f0002u);
    CHECK(__float2int_rn(2.5f) == 2 && __float2int_rz(-2.9f) == -2 && __float2int_rn(NAN) == 0);
    CHECK(__float2int_rn(1e20f) == 0x7fffffff && __float2uint_rn(-3.0f) == 0);
    CHECK(min(3, 5) == 3 && max(3u, 5u) == 5u && min(-1, 5u) == 5u && max(2.0f, NAN) == 2.0f);
    CHECK(__umulhi(0x80000000u, 6u) == 3 && __saturatef(NAN) == 0.0f && __frcp_rn(4.0f) == 0.25f);
    CHECK(rsqrtf(4.0f) == 0.5f && __expf(0.0f) == 1.0f && exp2f(3.0f) == 8.0f);
}
