/* The byte searches under the JSON and the event-stream readers.

   SSE2 (every x86-64 has it) looks at 16 bytes a step, 64 in long plain runs; elsewhere, or
   with -DLLMGW_PORTABLE, a loop over bytes does the same. No function reads outside of
   [at, end), except that scan_string reads at[-1], the opening quote or the end of an escape.
*/
#ifndef LLMGW_SCAN_H
#define LLMGW_SCAN_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A hexadecimal digit's value with IS_HEX set; 0 for every other byte. */
#define IS_HEX 0x10
static const uint8_t hex_digits[256] = {
    ['0'] = 0x10, ['1'] = 0x11, ['2'] = 0x12, ['3'] = 0x13, ['4'] = 0x14, ['5'] = 0x15, ['6'] = 0x16,
    ['7'] = 0x17, ['8'] = 0x18, ['9'] = 0x19, ['a'] = 0x1A, ['b'] = 0x1B, ['c'] = 0x1C, ['d'] = 0x1D,
    ['e'] = 0x1E, ['f'] = 0x1F, ['A'] = 0x1A, ['B'] = 0x1B, ['C'] = 0x1C, ['D'] = 0x1D, ['E'] = 0x1E,
    ['F'] = 0x1F,
};

/* The value of the four digits at `at`, all readable; -1 where one of them is none. */
static inline int hex4(const uint8_t *at)
{
    int a = hex_digits[at[0]], b = hex_digits[at[1]], c = hex_digits[at[2]], d = hex_digits[at[3]];
    if (!(a & b & c & d & IS_HEX))
        return -1;
    return (a & 15) << 12 | (b & 15) << 8 | (c & 15) << 4 | (d & 15);
}

#if defined(__SSE2__) && !defined(LLMGW_PORTABLE)
#include <emmintrin.h>

static inline __m128i load16(const uint8_t *at)
{
    return _mm_loadu_si128((const __m128i *)at);
}

static inline unsigned bits(__m128i bytes)
{
    return (unsigned)_mm_movemask_epi8(bytes);
}

static inline __m128i is_byte(__m128i bytes, int byte)
{
    return _mm_cmpeq_epi8(bytes, _mm_set1_epi8((char)byte));
}

/* Signed compares: they order 0x80..0xFF among themselves, and below every ASCII byte. */
static inline __m128i is_below(__m128i bytes, int byte)
{
    return _mm_cmplt_epi8(bytes, _mm_set1_epi8((char)byte));
}

/* Quote, backslash, control character, or the first or later byte of a multi-byte character. */
static inline __m128i is_special(__m128i bytes)
{
    return _mm_or_si128(is_below(bytes, 0x20), _mm_or_si128(is_byte(bytes, '"'), is_byte(bytes, '\\')));
}

/* The first special byte, or a place with fewer than 16 bytes left and none before it. */
static inline const uint8_t *skip_plain(const uint8_t *at, const uint8_t *end)
{
    while (end - at >= 16) {
        unsigned first = bits(is_special(load16(at)));
        if (first)
            return at + __builtin_ctz(first);
        at += 16;
        while (end - at >= 64) {
            __m128i a = is_special(load16(at)), b = is_special(load16(at + 16));
            __m128i c = is_special(load16(at + 32)), d = is_special(load16(at + 48));
            if (bits(_mm_or_si128(_mm_or_si128(a, b), _mm_or_si128(c, d)))) {
                uint64_t low = bits(a) | (uint64_t)bits(b) << 16;
                uint64_t high = bits(c) | (uint64_t)bits(d) << 16;
                return at + __builtin_ctzll(low | high << 32);
            }
            at += 64;
        }
    }
    return at;
}

/* Bytes that no UTF-8 has (C0, C1, F5..FF), and second bytes out of their lead's range, which
   are overlong forms, surrogates, and characters above U+10FFFF (Unicode 15, table 3-7). */
static inline unsigned bad_utf8_pairs(__m128i before, __m128i here)
{
    __m128i below_90 = is_below(here, 0x90), below_a0 = is_below(here, 0xA0);
    __m128i small = _mm_or_si128(_mm_and_si128(is_byte(before, 0xE0), below_a0),
                                 _mm_and_si128(is_byte(before, 0xF0), below_90));
    __m128i large = _mm_or_si128(_mm_andnot_si128(below_a0, is_byte(before, 0xED)),
                                 _mm_andnot_si128(below_90, is_byte(before, 0xF4)));
    __m128i c0_c1 = is_byte(_mm_and_si128(here, _mm_set1_epi8((char)0xFE)), 0xC0);
    __m128i f5_up = _mm_andnot_si128(is_below(here, 0xF5), is_below(here, 0));
    return bits(_mm_or_si128(_mm_or_si128(small, large), _mm_or_si128(c0_c1, f5_up)));
}

/* Walks multi-byte text, 16 bytes a step with ASCII between, until a step holds ASCII alone
   (*is_done stays 0) or a quote, backslash or control character, or bad UTF-8 (NULL).
   Each lead byte sets the bits of the bytes that must be, and alone may be, 80..BF. */
static const uint8_t *skip_multibyte(const uint8_t *at, const uint8_t *end, int *is_done)
{
    unsigned owed = 0;
    for (;;) {
        uint8_t tail[32] = {0};             /* zeros behind the end: a control character stops */
        const uint8_t *block = at;
        if (end - at < 16) {
            tail[15] = at[-1];
            memcpy(tail + 16, at, (size_t)(end - at));
            block = tail + 16;
        }
        __m128i here = load16(block);
        unsigned high = bits(here), later = bits(is_below(here, 0xC0));
        unsigned lead3 = high & ~bits(is_below(here, 0xE0)), lead4 = high & ~bits(is_below(here, 0xF0));
        unsigned stop = bits(is_special(here)) & ~high;
        owed |= (high & ~later) << 1 | lead3 << 2 | lead4 << 3;
        unsigned bad = ((owed ^ later) & 0xFFFF) | bad_utf8_pairs(load16(block - 1), here);
        unsigned reached = stop ? stop ^ (stop - 1) : 0xFFFF;
        *is_done = stop != 0 || (bad & reached) != 0;
        if (bad & reached)
            return NULL;
        if (stop)
            return at + __builtin_ctz(stop);
        at += 16;
        owed >>= 16;
        if (!(high | owed))
            return at;
    }
}

/* Out of line: keeps the registers and constants of the long way off the short strings' way. */
static __attribute__((noinline)) const uint8_t *scan_long_string(const uint8_t *at, const uint8_t *end)
{
    int is_done = 0;
    for (;;) {
        at = skip_plain(at, end);
        if (end - at >= 16 && *at < 0x80)
            return at;
        at = skip_multibyte(at, end, &is_done);
        if (is_done)
            return at;
    }
}

/* From inside a JSON string: the first quote, backslash or control character, or `end`;
   NULL where the bytes before it are not UTF-8. */
static inline const uint8_t *scan_string(const uint8_t *at, const uint8_t *end)
{
    assert(at <= end);
    if (end - at >= 16) {
        unsigned first = bits(is_special(load16(at)));
        if (first && at[__builtin_ctz(first)] < 0x80)
            return at + __builtin_ctz(first);
    }
    return scan_long_string(at, end);
}

/* The first byte that is no decimal digit, or `end`. */
static inline const uint8_t *skip_digits(const uint8_t *at, const uint8_t *end)
{
    assert(at <= end);
    for (; end - at >= 16; at += 16) {
        __m128i here = load16(at);
        unsigned other = bits(_mm_or_si128(is_below(here, '0'), _mm_cmpgt_epi8(here, _mm_set1_epi8('9'))));
        if (other)
            return at + __builtin_ctz(other);
    }
    while (at < end && *at >= '0' && *at <= '9')
        at++;
    return at;
}

/* The first LF or CR, or `end`. */
static inline const uint8_t *find_line_end(const uint8_t *at, const uint8_t *end)
{
    assert(at <= end);
    for (; end - at >= 16; at += 16) {
        __m128i here = load16(at);
        unsigned found = bits(_mm_or_si128(is_byte(here, '\n'), is_byte(here, '\r')));
        if (found)
            return at + __builtin_ctz(found);
    }
    while (at < end && *at != '\n' && *at != '\r')
        at++;
    return at;
}

#else

/* The size of the multi-byte character at `at`, 0 where it is not UTF-8 (table 3-7). */
static inline int utf8_bytes(const uint8_t *at, const uint8_t *end)
{
    int size = *at < 0xC2 ? 0 : *at < 0xE0 ? 2 : *at < 0xF0 ? 3 : *at < 0xF5 ? 4 : 0;
    uint8_t least = *at == 0xE0 ? 0xA0 : *at == 0xF0 ? 0x90 : 0x80;
    uint8_t most = *at == 0xED ? 0x9F : *at == 0xF4 ? 0x8F : 0xBF;
    if (size == 0 || end - at < size || at[1] < least || at[1] > most)
        return 0;
    for (int i = 2; i < size; i++)
        if ((at[i] & 0xC0) != 0x80)
            return 0;
    return size;
}

static inline const uint8_t *scan_string(const uint8_t *at, const uint8_t *end)
{
    assert(at <= end);
    while (at < end && *at != '"' && *at != '\\' && *at >= 0x20) {
        int size = *at < 0x80 ? 1 : utf8_bytes(at, end);
        if (size == 0)
            return NULL;
        at += size;
    }
    return at;
}

static inline const uint8_t *skip_digits(const uint8_t *at, const uint8_t *end)
{
    assert(at <= end);
    while (at < end && *at >= '0' && *at <= '9')
        at++;
    return at;
}

static inline const uint8_t *find_line_end(const uint8_t *at, const uint8_t *end)
{
    assert(at <= end);
    while (at < end && *at != '\n' && *at != '\r')
        at++;
    return at;
}

#endif
#endif
