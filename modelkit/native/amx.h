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

// The integer products of R times P tiles over one block of columns, into sums. Tile registers are named by constants:
// 0 to 3 hold the sums, 4 and 5 rows of activations, 6 and 7 panels of weights.
template <int R, int P>
inline void multiply_block(const int8_t* left, int64_t next_rows, const int8_t* const (&right)[P], int32_t (*sums)[TILE][PANEL]) {
    _tile_loadd(4, left, UNIT);
    _tile_loadd(6, right[0], 4 * PANEL);
    _tile_zero(0);
    _tile_dpbssd(0, 4, 6);
    _tile_stored(0, sums[0], 4 * PANEL);
    if constexpr (P == 2) {
        _tile_loadd(7, right[1], 4 * PANEL);
        _tile_zero(1);
        _tile_dpbssd(1, 4, 7);
        _tile_stored(1, sums[1], 4 * PANEL);
    }
    if constexpr (R == 2) {
        _tile_loadd(5, left + next_rows, UNIT);
        _tile_zero(2);
        _tile_dpbssd(2, 5, 6);
        _tile_stored(2, sums[P], 4 * PANEL);
    }
    if constexpr (R == 2 && P == 2) {
        _tile_zero(3);
        _tile_dpbssd(3, 5, 7);
        _tile_stored(3, sums[3], 4 * PANEL);
    }
}

// What T tiles pass through: the integers of two blocks, and the scaled sums. Each begins elsewhere within a page, for a
// load waits on an unfinished store 4 KiB before it.
template <int T>
struct Passage {
    alignas(64) int32_t even[T][TILE][PANEL];
    char gap[1344];
    alignas(64) int32_t odd[T][TILE][PANEL];
    char another_gap[1344];
    alignas(64) float out[T][TILE][PANEL];
};

// R times 16 rows times P panels, the same sums as dot_blocks. data: int8 weights; INT4: unpacked, each block filled up
// to 64 columns with zeros. The integers of a block pass through memory: vectors scale those of one block while the
// matrix unit is at the next.
template <Format FORMAT, int R, int P>
inline void dot_tiles(const Linear& w, const Activations& a, int64_t row, int64_t panel, const int8_t* data, Passage<R * P>& through) {
    auto* out = through.out;
    int64_t blocks = w.columns / block_of(FORMAT);
    for (int64_t next = 0; next <= blocks; next++) {
        if (next < blocks) {
            const int8_t* right[P];
            for (int p = 0; p < P; p++) right[p] = data + (p * blocks + next) * UNIT * PANEL;
            multiply_block<R, P>(&a.bytes[a.place(row, next * block_of(FORMAT) / UNIT * UNIT)], TILE * a.columns, right, next % 2 ? through.odd : through.even);
        }
        int64_t b = next - 1;
        auto* sums = b % 2 ? through.odd : through.even;
        for (int t = 0; t < R * P && b >= 0; t++) {
            const float* scales = &a.scales[(row + t / P * TILE) * blocks + b];
            [[maybe_unused]] const float* totals = &a.totals[(row + t / P * TILE) * blocks + b];
            int64_t scale_at = ((panel + t % P) * blocks + b) * PANEL;
            F scale = load_half(w.scales + scale_at);
            [[maybe_unused]] F minimum = FORMAT == INT4 ? load_half(w.minima + scale_at) : zero();
#pragma GCC unroll 16
            for (int m = 0; m < TILE; m++) {
                F kept = fma(end8(_mm512_load_si512(sums[t][m])), mul(scale, all(scales[m * blocks])), load(out[t][m]));
                if constexpr (FORMAT == INT4) kept = fma(minimum, all(totals[m * blocks]), kept);
                store(out[t][m], kept);
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

template <Format FORMAT, int R, int P>
void tiles_of(const Linear& w, const Activations& a, int64_t rows, int64_t row, int64_t panel, const int8_t* data, const Output& out, int64_t column) {
    Passage<R * P> through;
    auto* sums = through.out;
    for (int t = 0; t < R * P; t++)
        for (int m = 0; m < TILE; m++) store(sums[t][m], w.bias ? load(w.bias + (panel + t % P) * PANEL) : zero());
    dot_tiles<FORMAT, R, P>(w, a, row, panel, data, through);
    for (int t = 0; t < R * P; t++)
        for (int64_t m = 0; m < std::min<int64_t>(TILE, rows - row - t / P * TILE); m++) {
            float* p = out.values + (row + t / P * TILE + m) * out.stride + column + t % P * PANEL;
            store(p, out.accumulate ? add(load(p), load(sums[t][m])) : load(sums[t][m]));
        }
}

// As multiply_as, for many rows; reads, and throws away, up to 31 rows behind the last.
template <Format FORMAT>
void multiply_tiles(const Linear& w, const Activations& a, int64_t rows, int64_t first, int64_t last, const Output& out) {
    thread_local std::vector<int8_t> unpacked;
    for (int64_t panel = first; panel < last; panel += 2) {
        bool pair = panel + 2 <= last;
        const int8_t* data = static_cast<const int8_t*>(w.data) + panel * w.columns * PANEL;
        if constexpr (FORMAT == INT4) {
            Activations::grow(unpacked, 4 * w.columns * PANEL);
            for (int p = 0; p < 1 + pair; p++)
                unpack_panel(static_cast<const uint8_t*>(w.data) + (panel + p) * w.columns * PANEL / 2, w.columns, &unpacked[p * 2 * w.columns * PANEL]);
            data = unpacked.data();
        }
        for (int64_t row = 0; row < rows; row += 2 * TILE) {
            bool both = rows - row > TILE;
            int64_t column = (panel - first) * PANEL;
            if (both && pair) tiles_of<FORMAT, 2, 2>(w, a, rows, row, panel, data, out, column);
            else if (both) tiles_of<FORMAT, 2, 1>(w, a, rows, row, panel, data, out, column);
            else if (pair) tiles_of<FORMAT, 1, 2>(w, a, rows, row, panel, data, out, column);
            else tiles_of<FORMAT, 1, 1>(w, a, rows, row, panel, data, out, column);
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
