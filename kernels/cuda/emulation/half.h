// __half and __nv_bfloat16, alone and in pairs, with the card's arithmetic: operations round once, denormals stay.
#pragma once

#include "scalar.h"

namespace emulation {

// Rounds to odd, so that a second rounding to fewer bits gives what one rounding would have given.
inline float to_odd_float(double x) {
    const float nearest = static_cast<float>(x);
    if (static_cast<double>(nearest) == x || x != x) return nearest;
    uint32_t bits = std::bit_cast<uint32_t>(nearest);
    if (fabs(static_cast<double>(nearest)) > fabs(x)) bits -= 1;
    return std::bit_cast<float>(bits | 1);
}

// a * b + c to odd; a * b must be exact in double, as products of both small formats are.
inline double fused_to_odd(double a, double b, double c) {
    const double product = a * b;
    const double sum = product + c;
    const double part = sum - product;
    const double error = (product - (sum - part)) + (c - part);
    if (!(error < 0 || error > 0)) return sum;
    const uint64_t bits = std::bit_cast<uint64_t>(sum);
    if (bits & 1) return sum;
    return std::bit_cast<double>((error > 0) == (sum > 0) ? bits + 1 : bits - 1);
}

inline uint16_t half_bits(float x) {
    return x != x ? 0x7fff : std::bit_cast<uint16_t>(static_cast<_Float16>(x));
}
inline uint16_t bfloat16_bits(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    return x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline float half_value(uint16_t bits) { return static_cast<float>(std::bit_cast<_Float16>(bits)); }
inline float bfloat16_value(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

} // namespace emulation

struct alignas(2) __half {
    uint16_t bits;
    __half() = default;
    __half(float x) : bits(emulation::half_bits(x)) {}
    operator float() const { return emulation::half_value(bits); }
};
struct alignas(2) __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float x) : bits(emulation::bfloat16_bits(x)) {}
    operator float() const { return emulation::bfloat16_value(bits); }
};
struct alignas(4) __half2 {
    __half x, y;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
using half = __half;
using half2 = __half2;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

namespace emulation {
template <typename T>
concept SmallFloat = std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>;
template <typename T>
concept SmallPair = std::is_same_v<T, __half2> || std::is_same_v<T, __nv_bfloat162>;

template <SmallFloat T>
T fused(T a, T b, T c) {
    const double x = static_cast<float>(a), y = static_cast<float>(b), z = static_cast<float>(c);
    // No half product and half lie so far apart that their sum in double, rounded again, would differ.
    return T(to_odd_float(std::is_same_v<T, __half> ? x * y + z : fused_to_odd(x, y, z)));
}
template <SmallFloat T>
T from_bits(uint16_t bits) {
    return std::bit_cast<T>(bits);
}
} // namespace emulation

// Arithmetic of both formats.
template <emulation::SmallFloat T> T __hfma(T a, T b, T c) { return emulation::fused(a, b, c); }
// Float has more than twice the bits of both formats, so sums in float are rounded as if once. Its products are exact,
// except those of bfloat16 below its smallest number.
template <emulation::SmallFloat T> T __hadd(T a, T b) { return T(static_cast<float>(a) + static_cast<float>(b)); }
template <emulation::SmallFloat T> T __hsub(T a, T b) { return T(static_cast<float>(a) - static_cast<float>(b)); }
template <emulation::SmallFloat T> T __hmul(T a, T b) {
    if constexpr (std::is_same_v<T, __half>) return T(static_cast<float>(a) * static_cast<float>(b));
    else return T(emulation::to_odd_float(static_cast<double>(static_cast<float>(a)) * static_cast<float>(b)));
}
template <emulation::SmallFloat T> T __hdiv(T a, T b) { return T(static_cast<float>(a) / static_cast<float>(b)); }
template <emulation::SmallFloat T> T __hneg(T a) { return emulation::from_bits<T>(a.bits ^ 0x8000); }
template <emulation::SmallFloat T> T __habs(T a) { return emulation::from_bits<T>(a.bits & 0x7fff); }
template <emulation::SmallFloat T> bool __hisnan(T a) { return std::isnan(static_cast<float>(a)); }
template <emulation::SmallFloat T> int __hisinf(T a) {
    return std::isinf(static_cast<float>(a)) ? (static_cast<float>(a) > 0 ? 1 : -1) : 0;
}
template <emulation::SmallFloat T> T __hmax(T a, T b) {
    if (__hisnan(a)) return __hisnan(b) ? emulation::from_bits<T>(0x7fff) : b;
    if (__hisnan(b)) return a;
    if (static_cast<float>(a) == static_cast<float>(b)) return a.bits & 0x8000 ? b : a;
    return static_cast<float>(a) > static_cast<float>(b) ? a : b;
}
template <emulation::SmallFloat T> T __hmin(T a, T b) {
    if (__hisnan(a)) return __hisnan(b) ? emulation::from_bits<T>(0x7fff) : b;
    if (__hisnan(b)) return a;
    if (static_cast<float>(a) == static_cast<float>(b)) return a.bits & 0x8000 ? a : b;
    return static_cast<float>(a) < static_cast<float>(b) ? a : b;
}
template <emulation::SmallFloat T> bool __hgt(T a, T b) { return static_cast<float>(a) > static_cast<float>(b); }
template <emulation::SmallFloat T> bool __hge(T a, T b) { return static_cast<float>(a) >= static_cast<float>(b); }
template <emulation::SmallFloat T> bool __hlt(T a, T b) { return static_cast<float>(a) < static_cast<float>(b); }
template <emulation::SmallFloat T> bool __hle(T a, T b) { return static_cast<float>(a) <= static_cast<float>(b); }
template <emulation::SmallFloat T> bool __heq(T a, T b) { return static_cast<float>(a) == static_cast<float>(b); }
template <emulation::SmallFloat T> T operator+(T a, T b) { return __hadd(a, b); }
template <emulation::SmallFloat T> T operator-(T a, T b) { return __hsub(a, b); }
template <emulation::SmallFloat T> T operator*(T a, T b) { return __hmul(a, b); }
template <emulation::SmallFloat T> T operator/(T a, T b) { return __hdiv(a, b); }
template <emulation::SmallFloat T> T operator-(T a) { return __hneg(a); }

template <emulation::SmallPair T> T __hfma2(T a, T b, T c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
template <emulation::SmallPair T> T __hadd2(T a, T b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
template <emulation::SmallPair T> T __hsub2(T a, T b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }
template <emulation::SmallPair T> T __hmul2(T a, T b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
template <emulation::SmallPair T> T __h2div(T a, T b) { return {__hdiv(a.x, b.x), __hdiv(a.y, b.y)}; }
template <emulation::SmallPair T> T __hmax2(T a, T b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }
template <emulation::SmallPair T> T __hmin2(T a, T b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }
template <emulation::SmallPair T> T __hneg2(T a) { return {__hneg(a.x), __hneg(a.y)}; }
template <emulation::SmallPair T> T __habs2(T a) { return {__habs(a.x), __habs(a.y)}; }
template <emulation::SmallPair T> T operator+(T a, T b) { return __hadd2(a, b); }
template <emulation::SmallPair T> T operator-(T a, T b) { return __hsub2(a, b); }
template <emulation::SmallPair T> T operator*(T a, T b) { return __hmul2(a, b); }

// Conversions of __half.
inline __half __float2half_rn(float x) { return __half(x); }
inline __half __float2half(float x) { return __half(x); }
inline __half __double2half(double x) { return __half(emulation::to_odd_float(x)); }
inline __half __int2half_rn(int x) { return __double2half(x); }
inline __half __uint2half_rn(unsigned x) { return __double2half(x); }
inline __half __short2half_rn(short x) { return __double2half(x); }
inline __half __ushort2half_rn(unsigned short x) { return __double2half(x); }
inline float __half2float(__half x) { return x; }
inline int __half2int_rn(__half x) { return __float2int_rn(x); }
inline __half __ushort_as_half(unsigned short x) { return emulation::from_bits<__half>(x); }
inline __half __short_as_half(short x) { return emulation::from_bits<__half>(x); }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline short __half_as_short(__half x) { return static_cast<short>(x.bits); }
inline __half2 __floats2half2_rn(float low, float high) { return {__half(low), __half(high)}; }
inline __half2 __float2half2_rn(float x) { return {__half(x), __half(x)}; }
inline __half2 __float22half2_rn(float2 x) { return {__half(x.x), __half(x.y)}; }
inline float2 __half22float2(__half2 x) { return {x.x, x.y}; }
inline __half2 __halves2half2(__half low, __half high) { return {low, high}; }
inline __half2 make_half2(__half low, __half high) { return {low, high}; }
inline __half2 __half2half2(__half x) { return {x, x}; }
inline __half __low2half(__half2 x) { return x.x; }
inline __half __high2half(__half2 x) { return x.y; }
inline float __low2float(__half2 x) { return x.x; }
inline float __high2float(__half2 x) { return x.y; }
inline __half2 __low2half2(__half2 x) { return {x.x, x.x}; }
inline __half2 __high2half2(__half2 x) { return {x.y, x.y}; }
inline __half2 __lows2half2(__half2 a, __half2 b) { return {a.x, b.x}; }
inline __half2 __highs2half2(__half2 a, __half2 b) { return {a.y, b.y}; }
inline __half2 __lowhigh2highlow(__half2 x) { return {x.y, x.x}; }

// Conversions of __nv_bfloat16.
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return emulation::from_bits<__nv_bfloat16>(x); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) { return {low, high}; }
inline __nv_bfloat162 __float2bfloat162_rn(float x) { return {x, x}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 x) { return {x.x, x.y}; }
inline float2 __bfloat1622float2(__nv_bfloat162 x) { return {x.x, x.y}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) { return {low, high}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) { return {x, x}; }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 x) { return x.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 x) { return x.y; }
inline float __low2float(__nv_bfloat162 x) { return x.x; }
inline float __high2float(__nv_bfloat162 x) { return x.y; }
