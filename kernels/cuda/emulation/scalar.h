// CUDA's intrinsics on single numbers: bits, integers, float arithmetic of one rounding, approximations, conversions.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <math.h>
#include <type_traits>

#include "language.h"

// Bits.
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
    x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
    x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
    x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
    return __builtin_bswap32(x);
}
inline unsigned long long __brevll(unsigned long long x) {
    return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 |
           __brev(static_cast<unsigned>(x >> 32));
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    const unsigned long long bytes = static_cast<unsigned long long>(high) << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned choice = selector >> 4 * i;
        unsigned byte = bytes >> 8 * (choice & 7) & 0xff;
        if (choice & 8) byte = byte & 0x80 ? 0xff : 0;
        result |= byte << 8 * i;
    }
    return result;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return (static_cast<unsigned long long>(high) << 32 | low) >> (shift & 31);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return (static_cast<unsigned long long>(high) << 32 | low) << (shift & 31) >> 32;
}
inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned shift) {
    return (static_cast<unsigned long long>(high) << 32 | low) >> (shift < 32 ? shift : 32);
}
inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned shift) {
    return shift < 32 ? __funnelshift_l(low, high, shift) : low;
}

// Integers.
inline int __dp4a(int a, int b, int c) {
    unsigned sum = c;
    for (int i = 0; i < 4; i++) sum += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
    return sum;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 4; i++) c += (a >> 8 * i & 0xff) * (b >> 8 * i & 0xff);
    return c;
}
inline int __mulhi(int a, int b) { return static_cast<long long>(a) * b >> 32; }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned long long>(a) * b >> 32; }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned __int128>(a) * b >> 64;
}
inline unsigned __vadd4(unsigned a, unsigned b) {
    return ((a & 0x7f7f7f7fu) + (b & 0x7f7f7f7fu)) ^ ((a ^ b) & 0x80808080u);
}
inline unsigned __vsub4(unsigned a, unsigned b) {
    return ((a | 0x80808080u) - (b & 0x7f7f7f7fu)) ^ ((a ^ ~b) & 0x80808080u);
}
inline unsigned __vsubss4(unsigned a, unsigned b) {
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        int difference = static_cast<int8_t>(a >> 8 * i) - static_cast<int8_t>(b >> 8 * i);
        difference = difference < -128 ? -128 : difference > 127 ? 127 : difference;
        result |= static_cast<unsigned>(difference & 0xff) << 8 * i;
    }
    return result;
}

#define EMULATED_MIN_MAX(result, left, right)                                                                        \
    inline result min(left a, right b) {                                                                             \
        return static_cast<result>(a) < static_cast<result>(b) ? static_cast<result>(a) : static_cast<result>(b);   \
    }                                                                                                                \
    inline result max(left a, right b) {                                                                             \
        return static_cast<result>(a) > static_cast<result>(b) ? static_cast<result>(a) : static_cast<result>(b);   \
    }
EMULATED_MIN_MAX(int, int, int)
EMULATED_MIN_MAX(unsigned, unsigned, unsigned)
EMULATED_MIN_MAX(unsigned, int, unsigned)
EMULATED_MIN_MAX(unsigned, unsigned, int)
EMULATED_MIN_MAX(long, long, long)
EMULATED_MIN_MAX(unsigned long, unsigned long, unsigned long)
EMULATED_MIN_MAX(unsigned long, long, unsigned long)
EMULATED_MIN_MAX(unsigned long, unsigned long, long)
EMULATED_MIN_MAX(long long, long long, long long)
EMULATED_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
EMULATED_MIN_MAX(unsigned long long, long long, unsigned long long)
EMULATED_MIN_MAX(unsigned long long, unsigned long long, long long)
#undef EMULATED_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

// Bit patterns of floats.
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

// One rounding each; the build needs -ffp-contract=off so that g++ does not merge them.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }

// Approximations of the card are computed as exactly as the C library does.
#if !defined(__GLIBC_PREREQ) || !__GLIBC_PREREQ(2, 42)
inline float rsqrtf(float x) { return __frsqrt_rn(x); }
#endif
// glibc owns names such as __expf, so these are macros over the public names.
#define __expf(x) expf(x)
#define __exp2f(x) exp2f(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __powf(x, y) powf(x, y)
#define __tanhf(x) tanhf(x)
inline float __fdividef(float a, float b) { return a / b; }
// The card's saturation makes 0 of a NaN.
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

// Conversions saturate and make 0 of a NaN, as the card's do.
namespace emulation {
template <typename Integer>
Integer saturate(double x) {
    if (x != x) return 0;
    if (x <= static_cast<double>(std::numeric_limits<Integer>::min())) return std::numeric_limits<Integer>::min();
    if (x >= static_cast<double>(std::numeric_limits<Integer>::max())) return std::numeric_limits<Integer>::max();
    return static_cast<Integer>(x);
}
} // namespace emulation
inline int __float2int_rn(float x) { return emulation::saturate<int>(nearbyintf(x)); }
inline int __float2int_rz(float x) { return emulation::saturate<int>(truncf(x)); }
inline int __float2int_rd(float x) { return emulation::saturate<int>(floorf(x)); }
inline int __float2int_ru(float x) { return emulation::saturate<int>(ceilf(x)); }
inline unsigned __float2uint_rn(float x) { return emulation::saturate<unsigned>(nearbyintf(x)); }
inline unsigned __float2uint_rz(float x) { return emulation::saturate<unsigned>(truncf(x)); }
inline unsigned __float2uint_rd(float x) { return emulation::saturate<unsigned>(floorf(x)); }
inline unsigned __float2uint_ru(float x) { return emulation::saturate<unsigned>(ceilf(x)); }
inline long long __float2ll_rn(float x) { return emulation::saturate<long long>(nearbyintf(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __ull2float_rn(unsigned long long x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }
