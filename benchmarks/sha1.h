/* SHA-1 (FIPS 180-4) and base64, as far as RFC 6455 §4.2.2 needs them: the floor must not need OpenSSL.
 *
 * Rules. One block at a time, plain C: what a server that does nothing else would spend. */
#pragma once
#include <stdint.h>
#include <string.h>

enum { SHA1_BYTES = 20, SHA1_BLOCK_BYTES = 64, ACCEPT_BYTES = 28 };

static inline uint32_t sha1_rotate(uint32_t value, int bits) { return value << bits | value >> (32 - bits); }

static void sha1_block(uint32_t state[5], const uint8_t *block) {
    uint32_t w[80];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (int i = 16; i < 80; i++) w[i] = sha1_rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 80; i++) {
        uint32_t f, k;
        if (i < 20) f = (b & c) | (~b & d), k = 0x5A827999;
        else if (i < 40) f = b ^ c ^ d, k = 0x6ED9EBA1;
        else if (i < 60) f = (b & c) | (b & d) | (c & d), k = 0x8F1BBCDC;
        else f = b ^ c ^ d, k = 0xCA62C1D6;
        uint32_t next = sha1_rotate(a, 5) + f + e + k + w[i];
        e = d, d = c, c = sha1_rotate(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

static void sha1(const uint8_t *data, size_t size, uint8_t digest[SHA1_BYTES]) {
    uint32_t state[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    uint8_t tail[2 * SHA1_BLOCK_BYTES] = {0};
    size_t whole = size / SHA1_BLOCK_BYTES * SHA1_BLOCK_BYTES, left = size - whole;
    for (size_t i = 0; i < whole; i += SHA1_BLOCK_BYTES) sha1_block(state, data + i);
    memcpy(tail, data + whole, left);
    tail[left] = 0x80;
    size_t tail_bytes = left + 9 <= SHA1_BLOCK_BYTES ? SHA1_BLOCK_BYTES : 2 * SHA1_BLOCK_BYTES;
    for (int i = 0; i < 8; i++) tail[tail_bytes - 1 - i] = (uint8_t)((uint64_t)size * 8 >> 8 * i);
    for (size_t i = 0; i < tail_bytes; i += SHA1_BLOCK_BYTES) sha1_block(state, tail + i);
    for (int i = 0; i < SHA1_BYTES; i++) digest[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
}

/* Sec-WebSocket-Accept of a Sec-WebSocket-Key of 24 characters. */
static void websocket_accept(const char key[24], char accept[ACCEPT_BYTES]) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t text[60], digest[SHA1_BYTES + 1] = {0};
    memcpy(text, key, 24);
    memcpy(text + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    sha1(text, sizeof text, digest);
    for (int i = 0; i < 7; i++) {
        uint32_t three = (uint32_t)digest[3 * i] << 16 | (uint32_t)digest[3 * i + 1] << 8 | digest[3 * i + 2];
        for (int j = 0; j < 4; j++) accept[4 * i + j] = alphabet[three >> (18 - 6 * j) & 63];
    }
    accept[ACCEPT_BYTES - 1] = '='; /* 20 bytes are 6 groups of three and one of two */
}
