// Products on the processor's matrix unit (Intel AMX): tiles of 16 rows by 64 bytes, loaded from and stored to memory.
#pragma once
#include "gemm.h"

#if defined(__AMX_INT8__) && defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#define HAS_AMX 1

namespace {

constexpr int TILE = 16;  // every tile has 16 rows of 64 bytes

// The kernel keeps the unit's state only for processes that ask. Returns whether it may be used.
inline bool allow_tiles() {
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

// Sets up the tile registers of the calling thread as long as it lives.
class TileShapes {
public:
    TileShapes() {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } shapes;
        asm volatile("" ::"r"(&shapes) : "memory");  // gcc 12 thinks that only the first bytes are read
        _tile_loadconfig(&shapes);
    }
    ~TileShapes() { _tile_release(); }
};

// The integer product of 16 rows with panel p over one block of columns, into sums. Tile registers are named by
// constants: 0 and 1 hold the sums, 4 the rows, 6 and 7 the panels.
inline void multiply_tile(int p, const int8_t* left, const int8_t* right, int32_t* sums) {
    if (p == 0) {
        _tile_loadd(4, left, UNIT);
        _tile_loadd(6, right, 4 * PANEL);
        _tile_zero(0);
        _tile_dpbssd(0, 4, 6);
        _tile_stored(0, sums, 4 * PANEL);
    } else {
        _tile_loadd(7, right, 4 * PANEL);
        _tile_zero(1);
        _tile_dpbssd(1, 4, 7);
        _tile_stored(1, sums, 4 * PANEL);
    }
}

// 16 rows times P panels, the same sums as dot_blocks, into out; COUNT: blocks_per_scale. data: int8 weights; INT4:
// unpacked, each block filled up to 64 columns with zeros. The integers pass through memory: vectors scale those of COUNT
// blocks while the matrix unit is at the next ones, a tile of these and one of those in turn. Two panels and not more
// rows, so that all of it stays in the nearest cache.
template <Format FORMAT, int P, int COUNT>
void dot_tiles(const Linear& w, const Activations& a, int64_t row, int64_t panel, const int8_t* data, float (*out)[TILE][PANEL]) {
    constexpr int TILE_BYTES = UNIT * PANEL;
    alignas(64) int32_t whole[2][COUNT][P][TILE][PANEL];
    int64_t blocks = w.columns / block_of(FORMAT), scales = blocks / COUNT;
    for (int64_t s = 0; s <= scales; s++) {
        F parts[TILE];
#pragma GCC unroll 8
        for (int n = 0; n < COUNT * P; n++) {
            if (s < scales) {
                int64_t b = s * COUNT + n / P;
                multiply_tile(n % P, &a.bytes[a.place(row, b * block_of(FORMAT) / UNIT * UNIT)], data + (n % P * blocks + b) * TILE_BYTES, whole[s % 2][n / P][n % P][0]);
            }
            if (s == 0) continue;
            int p = n / COUNT, i = n % COUNT;
            const float* scale_of_rows = &a.scales[a.scale_place(row, (s - 1) * COUNT + i)];
#pragma GCC unroll 16
            for (int m = 0; m < TILE; m++)
                parts[m] = fma(end8(_mm512_load_si512(whole[(s - 1) % 2][i][p][m])), all(scale_of_rows[m]), i == 0 ? zero() : parts[m]);
            if (i < COUNT - 1) continue;
            int64_t scale_at = ((panel + p) * scales + s - 1) * PANEL;
            F scale = load_half(w.scales + scale_at);
            [[maybe_unused]] F minimum = FORMAT == INT4 ? load_half(w.minima + scale_at) : zero();
            [[maybe_unused]] const float* totals = &a.totals[a.scale_place(row, s - 1)];
#pragma GCC unroll 16
            for (int m = 0; m < TILE; m++) {
                F kept = fma(parts[m], scale, load(out[p][m]));
                if constexpr (FORMAT == INT4) kept = fma(minimum, all(totals[m]), kept);
                store(out[p][m], kept);
            }
        }
    }
}

// A panel of INT4 weights as bytes, block by block of 64 columns, of which every second one has its 32 in the first half
// and the others in the second: so that either meets its own activations in a tile of 64.
inline void unpack_panel(const uint8_t* packed, int64_t columns, int8_t* out) {
    for (int64_t b = 0; b < columns / 32; b++) {
        int8_t* tile = out + b * UNIT * PANEL;
        std::memset(tile, 0, UNIT * PANEL);
        tile += b % 2 * 32 * PANEL;
        for (int64_t g = 0; g < 4; g++) {
            W low, high;
            weights4(packed + (b * 4 + g) * 64, low, high);
            _mm512_storeu_si512(tile + g * 64, low), _mm512_storeu_si512(tile + (g + 4) * 64, high);
        }
    }
}

template <Format FORMAT, int P>
void tiles_of(const Linear& w, const Activations& a, Rows rows, int64_t row, int64_t panel, const int8_t* data, const Output& out, int64_t column) {
    alignas(64) float sums[P][TILE][PANEL];
    for (int p = 0; p < P; p++)
        for (int m = 0; m < TILE; m++) store(sums[p][m], w.bias ? load(w.bias + (panel + p) * PANEL) : zero());
    switch (blocks_per_scale(FORMAT, w.columns)) {
        case 1: dot_tiles<FORMAT, P, 1>(w, a, row, panel, data, sums); break;
        case 2: dot_tiles<FORMAT, P, 2>(w, a, row, panel, data, sums); break;
        case 3: dot_tiles<FORMAT, P, 3>(w, a, row, panel, data, sums); break;
        default: dot_tiles<FORMAT, P, 4>(w, a, row, panel, data, sums);
    }
    for (int64_t m = 0; m < std::min<int64_t>(TILE, rows.end - row); m++)
        for (int p = 0; p < P; p++) {
            float* at = out.values + (row - rows.begin + m) * out.stride + column + p * PANEL;
            store(at, out.accumulate ? add(load(at), load(sums[p][m])) : load(sums[p][m]));
        }
}

// As multiply_as, for many rows; reads, and throws away, up to 15 rows behind the last.
template <Format FORMAT>
void multiply_tiles(const Linear& w, const Activations& a, Rows rows, int64_t first, int64_t last, const Output& out) {
    thread_local Lines<int8_t> unpacked;
    for (int64_t panel = first; panel < last; panel += 2) {
        int count = panel + 2 <= last ? 2 : 1;
        const int8_t* data = static_cast<const int8_t*>(w.data) + panel * w.columns * PANEL;
        if constexpr (FORMAT == INT4) {
            Activations::grow(unpacked, 4 * w.columns * PANEL);
            for (int p = 0; p < count; p++)
                unpack_panel(static_cast<const uint8_t*>(w.data) + (panel + p) * w.columns * PANEL / 2, w.columns, &unpacked[p * 2 * w.columns * PANEL]);
            data = unpacked.data();
        }
        for (int64_t row = rows.begin; row < rows.end; row += TILE) {
            if (count == 2) tiles_of<FORMAT, 2>(w, a, rows, row, panel, data, out, (panel - first) * PANEL);
            else tiles_of<FORMAT, 1>(w, a, rows, row, panel, data, out, (panel - first) * PANEL);
        }
    }
}

// One product of bfloat16 tiles, added to sum tile 0 (rows in tile 4) and, if there is a second tile of rows in 5, to 1.
inline void add_halves(const uint16_t* left, int64_t left_bytes, bool both, const void* right, int64_t right_bytes) {
    _tile_loadd(6, right, right_bytes);
    _tile_loadd(4, left, left_bytes);
    _tile_dpbf16ps(0, 4, 6);
    if (!both) return;
    _tile_loadd(5, reinterpret_cast<const char*>(left) + TILE * left_bytes, left_bytes);
    _tile_dpbf16ps(1, 5, 6);
}

inline void begin_halves() {
    _tile_zero(0);
    _tile_zero(1);
}

inline void end_halves(float* out, int64_t stride, bool both) {
    _tile_stored(0, out, stride * sizeof(float));
    if (both) _tile_stored(1, out + TILE * stride, stride * sizeof(float));
}

inline void store_bfloat(uint16_t* p, F x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(x)); }

}  // namespace

#else
namespace {
inline bool allow_tiles() { return true; }
struct TileShapes {
    TileShapes() {}
};
}  // namespace
#endif
