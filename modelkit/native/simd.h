// Vectors of one instruction set under one set of names; a source file that includes this picks the set by its target.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

inline float half_to_float(uint16_t half) {
    uint32_t sign = (half & 0x8000u) << 16, magnitude = half & 0x7fffu, bits;
    if (magnitude >= 0x7c00u) bits = sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13);
    else if (magnitude >= 0x0400u) bits = sign | ((magnitude << 13) + (112u << 23));
    else {  // subnormal: a multiple of 2^-24
        float value = static_cast<float>(magnitude) * 0x1p-24f;
        return sign ? -value : value;
    }
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint16_t float_to_half(float value) {  // rounds to nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        float scaled;
        std::memcpy(&scaled, &magnitude, 4);
        return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(scaled * 0x1p24f)));
    }
    return static_cast<uint16_t>(sign | ((magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13));
}

// F: LANES floats; swap<N> exchanges those that lie N apart. I: as many int32. W: 4 * LANES weight bytes, made ready once for many dot products.
// fast_div is a quotient within 2 units in the last place.
// dot8 and dot4 add the products of each lane's four weights with the same four activations; a sum that starts with
// begin8(sum of the block's activations) ends, by end8, in the exact integer, whatever trick lies between.
#if defined(__AVX512VNNI__)
constexpr int LANES = 16, TILE_ROWS = 6;
using F = __m512;
using I = __m512i;
using W = __m512i;
inline F zero() { return _mm512_setzero_ps(); }
inline F all(float x) { return _mm512_set1_ps(x); }
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F fast_div(F a, F b) {
    F inverse = _mm512_rcp14_ps(b);
    return _mm512_mul_ps(a, _mm512_mul_ps(inverse, _mm512_fnmadd_ps(b, inverse, _mm512_set1_ps(2))));
}
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F abs(F x) { return _mm512_abs_ps(x); }
inline F round(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
template <int N> inline F swap(F x) {
    if constexpr (N == 1) return _mm512_permute_ps(x, 0xb1);
    if constexpr (N == 2) return _mm512_permute_ps(x, 0x4e);
    return _mm512_shuffle_f32x4(x, x, N == 4 ? 0xb1 : 0x4e);
}
inline F exp2_int(F n) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtps_epi32(add(n, all(127))), 23)); }
inline float sum(F x) { return _mm512_reduce_add_ps(x); }
inline float highest(F x) { return _mm512_reduce_max_ps(x); }
inline F load_half(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline void store_half(uint16_t* p, F x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, 0)); }
inline F load_bfloat(const uint16_t* p) {
    __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline void store_bytes(int8_t* p, F x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x))); }
inline I four(const int8_t* a) { int32_t x; std::memcpy(&x, a, 4); return _mm512_set1_epi32(x); }
// vpdpbusd wants one side unsigned: weights move up by 128, and the sum starts at -128 times the activations' sum
inline W weights8(const int8_t* p) { return _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-128)); }
inline I begin8(int32_t activation_sum) { return _mm512_set1_epi32(-128 * activation_sum); }
inline I dot8(I acc, W w, const int8_t* a) { return _mm512_dpbusd_epi32(acc, w, four(a)); }
inline F end8(I acc) { return _mm512_cvtepi32_ps(acc); }
inline void weights4(const uint8_t* p, W& low, W& high) {
    __m512i both = _mm512_loadu_si512(p);
    low = _mm512_and_si512(both, _mm512_set1_epi8(15));
    high = _mm512_and_si512(_mm512_srli_epi16(both, 4), _mm512_set1_epi8(15));
}
inline I begin4() { return _mm512_setzero_si512(); }
inline I dot4(I acc, W w, const int8_t* a) { return _mm512_dpbusd_epi32(acc, w, four(a)); }
inline F end4(I acc) { return _mm512_cvtepi32_ps(acc); }

#elif defined(__AVX2__)
constexpr int LANES = 8, TILE_ROWS = 4;
using F = __m256;
using I = __m256i;
struct W { __m256i signs, sizes; };
inline F zero() { return _mm256_setzero_ps(); }
inline F all(float x) { return _mm256_set1_ps(x); }
inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, F x) { _mm256_storeu_ps(p, x); }
inline F add(F a, F b) { return _mm256_add_ps(a, b); }
inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
inline F div(F a, F b) { return _mm256_div_ps(a, b); }
inline F fast_div(F a, F b) { return div(a, b); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm256_max_ps(a, b); }
inline F min(F a, F b) { return _mm256_min_ps(a, b); }
inline F abs(F x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
inline F round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
template <int N> inline F swap(F x) {
    if constexpr (N == 1) return _mm256_permute_ps(x, 0xb1);
    if constexpr (N == 2) return _mm256_permute_ps(x, 0x4e);
    return _mm256_permute2f128_ps(x, x, 1);
}
inline F exp2_int(F n) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtps_epi32(add(n, all(127))), 23)); }
inline float sum(F x) {
    __m128 v = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}
inline float highest(F x) {
    __m128 v = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    v = _mm_max_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)));
}
inline F load_half(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline void store_half(uint16_t* p, F x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, 0)); }
inline F load_bfloat(const uint16_t* p) {
    __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline void store_bytes(int8_t* p, F x) {
    __m256i wide = _mm256_cvtps_epi32(x);
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}
inline I four(const int8_t* a) { int32_t x; std::memcpy(&x, a, 4); return _mm256_set1_epi32(x); }
// vpmaddubsw wants one side unsigned: the weight's size stays, its sign moves to the activation; 2 * 127 * 127 fits int16
inline W weights8(const int8_t* p) {
    __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {w, _mm256_abs_epi8(w)};
}
inline I begin8(int32_t) { return _mm256_setzero_si256(); }
inline I dot8(I acc, W w, const int8_t* a) {
    __m256i pairs = _mm256_maddubs_epi16(w.sizes, _mm256_sign_epi8(four(a), w.signs));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline F end8(I acc) { return _mm256_cvtepi32_ps(acc); }
inline void weights4(const uint8_t* p, W& low, W& high) {
    __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), mask = _mm256_set1_epi8(15);
    low.sizes = _mm256_and_si256(both, mask);
    high.sizes = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
}
// a block's sums stay in int16 until its end: 8 * 2 * 15 * 127 fits
inline I begin4() { return _mm256_setzero_si256(); }
inline I dot4(I acc, W w, const int8_t* a) { return _mm256_add_epi16(acc, _mm256_maddubs_epi16(w.sizes, four(a))); }
inline F end4(I acc) { return _mm256_cvtepi32_ps(_mm256_madd_epi16(acc, _mm256_set1_epi16(1))); }

#else
constexpr int LANES = 4, TILE_ROWS = 4;
struct F { float x[LANES]; };
struct I { int32_t x[LANES]; };
struct W { int8_t x[4 * LANES]; };
template <class Function> inline F each(Function f) { F r; for (int i = 0; i < LANES; i++) r.x[i] = f(i); return r; }
inline F all(float x) { return each([=](int) { return x; }); }
inline F zero() { return all(0); }
inline F load(const float* p) { return each([=](int i) { return p[i]; }); }
inline void store(float* p, F x) { std::memcpy(p, x.x, sizeof x.x); }
inline F add(F a, F b) { return each([&](int i) { return a.x[i] + b.x[i]; }); }
inline F sub(F a, F b) { return each([&](int i) { return a.x[i] - b.x[i]; }); }
inline F mul(F a, F b) { return each([&](int i) { return a.x[i] * b.x[i]; }); }
inline F div(F a, F b) { return each([&](int i) { return a.x[i] / b.x[i]; }); }
inline F fast_div(F a, F b) { return div(a, b); }
inline F fma(F a, F b, F c) { return each([&](int i) { return a.x[i] * b.x[i] + c.x[i]; }); }
inline F max(F a, F b) { return each([&](int i) { return a.x[i] > b.x[i] ? a.x[i] : b.x[i]; }); }
inline F min(F a, F b) { return each([&](int i) { return a.x[i] < b.x[i] ? a.x[i] : b.x[i]; }); }
inline F abs(F x) { return each([&](int i) { return std::fabs(x.x[i]); }); }
inline F round(F x) { return each([&](int i) { return std::nearbyint(x.x[i]); }); }
template <int N> inline F swap(F x) { return each([&](int i) { return x.x[i ^ N]; }); }
inline F exp2_int(F n) { return each([&](int i) { return std::ldexp(1.0f, static_cast<int>(n.x[i])); }); }
inline float sum(F x) { return (x.x[0] + x.x[2]) + (x.x[1] + x.x[3]); }
inline float highest(F x) { return std::fmax(std::fmax(x.x[0], x.x[1]), std::fmax(x.x[2], x.x[3])); }
inline F load_half(const uint16_t* p) { return each([=](int i) { return half_to_float(p[i]); }); }
inline void store_half(uint16_t* p, F x) { for (int i = 0; i < LANES; i++) p[i] = float_to_half(x.x[i]); }
inline F load_bfloat(const uint16_t* p) {
    return each([=](int i) { uint32_t bits = uint32_t(p[i]) << 16; float x; std::memcpy(&x, &bits, 4); return x; });
}
inline void store_bytes(int8_t* p, F x) { for (int i = 0; i < LANES; i++) p[i] = static_cast<int8_t>(std::nearbyint(x.x[i])); }
inline W weights8(const int8_t* p) { W w; std::memcpy(w.x, p, sizeof w.x); return w; }
inline I begin8(int32_t) { return {}; }
inline I dot8(I acc, const W& w, const int8_t* a) {
    for (int i = 0; i < 4 * LANES; i++) acc.x[i / 4] += int32_t(w.x[i]) * a[i % 4];
    return acc;
}
inline F end8(I acc) { return each([&](int i) { return static_cast<float>(acc.x[i]); }); }
inline void weights4(const uint8_t* p, W& low, W& high) {
    for (int i = 0; i < 4 * LANES; i++) low.x[i] = p[i] & 15, high.x[i] = p[i] >> 4;
}
inline I begin4() { return {}; }
inline I dot4(I acc, const W& w, const int8_t* a) { return dot8(acc, w, a); }
inline F end4(I acc) { return end8(acc); }
#endif

inline float first(F x) {
    float lanes[LANES];
    store(lanes, x);
    return lanes[0];
}

// e^x by Cephes' polynomial, within 2 units in the last place; what would be subnormal becomes about 1e-38.
inline F exp(F x) {
    x = min(max(x, all(-87.3f)), all(88.0f));
    F n = round(mul(x, all(1.44269504f)));
    F r = fma(n, all(2.12194440e-4f), fma(n, all(-0.693359375f), x));
    F p = all(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) p = fma(p, r, all(c));
    return mul(add(fma(p, mul(r, r), r), all(1)), exp2_int(n));
}

}  // namespace
