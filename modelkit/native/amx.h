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

// Tile registers are named by constants: 0 to 3 hold sums, 4 and 5 the rows, 6 and 7 the panels.
template <int R, int P>
inline void zero_sums() {
    _tile_zero(0);
    if constexpr (P == 2) _tile_zero(1);
    if constexpr (R == 2) _tile_zero(2);
    if constexpr (R == 2 && P == 2) _tile_zero(3);
}

template <int R, int P>
inline void add_bytes(const int8_t* left, int64_t next_rows, const int8_t* right, int64_t next_panel) {
    _tile_loadd(6, right, UNIT);
    if constexpr (P == 2) _tile_loadd(7, right + next_panel, UNIT);
    _tile_loadd(4, left, UNIT);
    _tile_dpbssd(0, 4, 6);
    if constexpr (P == 2) _tile_dpbssd(1, 4, 7);
    if constexpr (R == 1) return;
    _tile_loadd(5, left + next_rows, UNIT);
    _tile_dpbssd(2, 5, 6);
    if constexpr (P == 2) _tile_dpbssd(3, 5, 7);
}

// out: where the first sum goes, its rows row_bytes apart; the others lie next_panel and next_rows bytes on.
template <int R, int P>
inline void store_sums(void* out, int64_t row_bytes, int64_t next_panel, int64_t next_rows) {
    char* at = static_cast<char*>(out);
    _tile_stored(0, at, row_bytes);
    if constexpr (P == 2) _tile_stored(1, at + next_panel, row_bytes);
    if constexpr (R == 2) _tile_stored(2, at + next_rows, row_bytes);
    if constexpr (R == 2 && P == 2) _tile_stored(3, at + next_rows + next_panel, row_bytes);
}

// Lines of every tile of the panels that come next, to be fetched meanwhile.
struct Ahead {
    const int8_t* data;
    int lines;
};

// R tiles of 16 rows times P panels, the same sums as dot_blocks, into out; STEPS: tiles of a block's columns. data:
// int8 weights; INT4: unpacked, each block filled up to 64 columns with zeros. The integers pass through memory: vectors
// scale those of a block while the matrix unit is at the next one.
template <Format FORMAT, int R, int P, int STEPS>
void dot_tiles(const Linear& w, const Activations& a, int64_t row, int64_t panel, const int8_t* data, float (*out)[TILE][PANEL], Ahead ahead) {
    constexpr int TILE_BYTES = UNIT * PANEL;
    alignas(64) int32_t whole[2][R * P][TILE][PANEL];
    const int64_t panel_bytes = a.blocks * STEPS * TILE_BYTES, rows_bytes = TILE * a.columns, scale_rows = TILE * a.blocks;
    const int8_t* left = &a.bytes[a.place(row, 0)];
    for (int64_t b = 0; b <= a.blocks; b++) {
        F scale[P], minimum[P];
        const int64_t done = b - 1, at = b == 0 ? 0 : a.scale_place(row, done);
        if (b > 0)
            for (int p = 0; p < P; p++) {
                scale[p] = load_half(w.scales + ((panel + p) * a.blocks + done) * PANEL);
                if constexpr (FORMAT == INT4) minimum[p] = load_half(w.minima + ((panel + p) * a.blocks + done) * PANEL);
            }
        if (b < a.blocks) zero_sums<R, P>();
#pragma GCC unroll 4
        for (int step = 0; step < STEPS; step++) {
            int64_t n = b * STEPS + step;
            for (int i = 0; b < a.blocks && i < P * ahead.lines; i++)
                _mm_prefetch(ahead.data + i % P * panel_bytes + n * TILE_BYTES + i / P * UNIT, _MM_HINT_T1);
            if (b < a.blocks) add_bytes<R, P>(left + (FORMAT == INT4 ? n / 2 : n) * TILE_BYTES, rows_bytes, data + n * TILE_BYTES, panel_bytes);
            if (b == 0) continue;
#pragma GCC unroll 16
            for (int m = TILE * step / STEPS; m < TILE * (step + 1) / STEPS; m++)
                for (int r = 0; r < R; r++)
                    for (int p = 0; p < P; p++) {
                        F part = mul(end8(_mm512_load_si512(whole[done % 2][r * P + p][m])), all(a.scales[at + r * scale_rows + m]));
                        F kept = fma(part, scale[p], load(out[r * P + p][m]));
                        if constexpr (FORMAT == INT4) kept = fma(minimum[p], all(a.totals[at + r * scale_rows + m]), kept);
                        store(out[r * P + p][m], kept);
                    }
        }
        if (b < a.blocks) store_sums<R, P>(whole[b % 2], UNIT, TILE_BYTES, P * TILE_BYTES);
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
void tiles_of(const Linear& w, const Activations& a, Rows rows, int64_t row, int64_t panel, const int8_t* data, const Output& out, int64_t column, Ahead ahead) {
    alignas(64) float sums[R * P][TILE][PANEL];
    for (int i = 0; i < R * P; i++)
        for (int m = 0; m < TILE; m++) store(sums[i][m], w.bias ? load(w.bias + (panel + i % P) * PANEL) : zero());
    switch (a.block / UNIT) {
        case 2: dot_tiles<FORMAT, R, P, 2>(w, a, row, panel, data, sums, ahead); break;
        case 3: dot_tiles<FORMAT, R, P, 3>(w, a, row, panel, data, sums, ahead); break;
        case 4: dot_tiles<FORMAT, R, P, 4>(w, a, row, panel, data, sums, ahead); break;
        default: dot_tiles<FORMAT, R, P, 1>(w, a, row, panel, data, sums, ahead);
    }
    for (int64_t m = 0; m < std::min<int64_t>(R * TILE, rows.end - row); m++)
        for (int p = 0; p < P; p++) {
            float* at = out.values + (row - rows.begin + m) * out.stride + column + p * PANEL;
            F sum = load(sums[m / TILE * P + p][m % TILE]);
            store(at, out.accumulate ? add(load(at), sum) : sum);
        }
}

// As multiply_as, for many rows; reads, and throws away, up to 15 rows behind the last.
template <Format FORMAT>
void multiply_tiles(const Linear& w, const Activations& a, Rows rows, int64_t first, int64_t last, const Output& out) {
    thread_local Lines<int8_t> unpacked;
    const int64_t row_blocks = (rows.end - rows.begin + 2 * TILE - 1) / (2 * TILE);
    for (int64_t panel = first; panel < last; panel += 2) {
        int count = panel + 2 <= last ? 2 : 1;
        const int8_t* data = static_cast<const int8_t*>(w.data) + panel * w.columns * PANEL;
        if constexpr (FORMAT == INT4) {
            Activations::grow(unpacked, 4 * w.columns * PANEL);
            for (int p = 0; p < count; p++)
                unpack_panel(static_cast<const uint8_t*>(w.data) + (panel + p) * w.columns * PANEL / 2, w.columns, &unpacked[p * 2 * w.columns * PANEL]);
            data = unpacked.data();
        }
        // the next panels come from memory while few rows are computed with these; for later rows they are near already
        bool fetches = FORMAT == INT8 && rows.begin == 0 && row_blocks <= 4 && panel + 4 <= last;
        Ahead ahead{data + 2 * w.columns * PANEL, fetches ? static_cast<int>((TILE + row_blocks - 1) / row_blocks) : 0};
        for (int64_t row = rows.begin; row < rows.end; row += 2 * TILE, ahead.data += ahead.lines * UNIT) {
            bool both = rows.end - row > TILE;
            int64_t column = (panel - first) * PANEL;
            if (both && count == 2) tiles_of<FORMAT, 2, 2>(w, a, rows, row, panel, data, out, column, ahead);
            else if (both) tiles_of<FORMAT, 2, 1>(w, a, rows, row, panel, data, out, column, ahead);
            else if (count == 2) tiles_of<FORMAT, 1, 2>(w, a, rows, row, panel, data, out, column, ahead);
            else tiles_of<FORMAT, 1, 1>(w, a, rows, row, panel, data, out, column, ahead);
        }
    }
}

// The same for bfloat16, with R tiles of rows and two tiles of 16 columns side by side.
template <int R>
inline void add_halves(const uint16_t* left, int64_t left_bytes, const uint16_t* right, int64_t right_bytes) {
    _tile_loadd(6, right, right_bytes);
    _tile_loadd(7, right + 2 * TILE, right_bytes);
    _tile_loadd(4, left, left_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (R == 1) return;
    _tile_loadd(5, reinterpret_cast<const char*>(left) + TILE * left_bytes, left_bytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

// 2^x within 1e-4, a twentieth of what bfloat16 rounds; 0 at minus infinity.
inline F power_of_2(F x) {
    F r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC), p = all(0.0780245f);
    for (float c : {0.2260672f, 0.6958335f, 0.9999252f}) p = fma(p, r, all(c));
    return _mm512_scalef_ps(p, x);
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
