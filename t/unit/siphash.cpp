// SipHash-2-4 against the vectors of its authors.

#include "cmocka.h"

#include <string>

#include "core/siphash.h"

using namespace idempotency;

namespace {

// The key of the vectors is 00 01 ... 0f, the input of length n is 00 01 ... n-1.
UNIT_TEST(the_authors_vectors_are_met)
{
    constexpr SipKey key{0x0706050403020100, 0x0f0e0d0c0b0a0908};
    constexpr struct {
        std::size_t length;
        std::uint64_t hash;
    } vectors[] = {
        {0, 0x726fdb47dd0e0e31}, {1, 0x74f839c593dc67fd},  {7, 0xab0200f58b01d137},
        {8, 0x93f5f5799a932462}, {15, 0xa129ca6149be45e5},
    };

    for (const auto &vector : vectors) {
        std::string input;

        for (std::size_t i = 0; i < vector.length; i++) {
            input += static_cast<char>(i);
        }

        assert_true(siphash(key, input) == vector.hash);
    }
}

UNIT_TEST(each_key_is_another_one)
{
    SipKey a, b;

    assert_true(make_sip_key(a) && make_sip_key(b));
    assert_true(a.k0 != b.k0 && a.k1 != b.k1);
    assert_true(siphash(a, "x") != siphash(b, "x"));
}

}  // namespace
