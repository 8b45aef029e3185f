#include "core/siphash.h"

#include <cstring>

#include <openssl/rand.h>

#include "core/openssl.h"

namespace idempotency {

namespace {

struct State {
    std::uint64_t v0, v1, v2, v3;

    static std::uint64_t rotate(std::uint64_t x, int bits) { return x << bits | x >> (64 - bits); }

    void round()
    {
        v0 += v1;
        v2 += v3;
        v1 = rotate(v1, 13) ^ v0;
        v3 = rotate(v3, 16) ^ v2;
        v0 = rotate(v0, 32);
        v2 += v1;
        v0 += v3;
        v1 = rotate(v1, 17) ^ v2;
        v3 = rotate(v3, 21) ^ v0;
        v2 = rotate(v2, 32);
    }

    void add(std::uint64_t word)
    {
        v3 ^= word;
        round();
        round();
        v0 ^= word;
    }
};

// `size` bytes of a little-endian word.
std::uint64_t word_at(const char *bytes, std::size_t size)
{
    std::uint64_t word = 0;

    std::memcpy(&word, bytes, size);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

}  // namespace

bool make_sip_key(SipKey &key)
{
    return checked(RAND_bytes(reinterpret_cast<unsigned char *>(&key), sizeof(key)) == 1);
}

std::uint64_t siphash(const SipKey &key, std::string_view bytes)
{
    State state{key.k0 ^ 0x736f6d6570736575, key.k1 ^ 0x646f72616e646f6d,
                key.k0 ^ 0x6c7967656e657261, key.k1 ^ 0x7465646279746573};
    std::size_t whole = bytes.size() / 8 * 8;

    for (std::size_t i = 0; i < whole; i += 8) {
        state.add(word_at(bytes.data() + i, 8));
    }

    state.add(word_at(bytes.data() + whole, bytes.size() - whole)
              | std::uint64_t(bytes.size()) << 56);
    state.v2 ^= 0xff;

    for (int i = 0; i < 4; i++) {
        state.round();
    }

    return state.v0 ^ state.v1 ^ state.v2 ^ state.v3;
}

}  // namespace idempotency
