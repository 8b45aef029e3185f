#include "cmocka.h"

#include <string>

#include "core/digest.h"

using namespace idempotency;

namespace {

std::string hex(const Digest &digest)
{
    char out[kHexLength];

    write_hex(digest, out);
    return std::string(out, sizeof(out));
}

UNIT_TEST(sha256_matches_the_standard)
{
    Digester digester;
    Sha256 sha(digester.method());
    Digest digest;

    assert_true(digester.usable());
    assert_true(sha.restart() && sha.update("a") && sha.update("bc") && sha.finish(digest));
    // FIPS 180-4's example
    assert_string_equal(hex(digest).c_str(),
                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_false(sha.update("more"));
    assert_false(sha.finish(digest));
}

UNIT_TEST(scopes_keep_equal_keys_apart)
{
    Digester digester;
    KeyId ab_c, a_bc, global, empty_owner, again;

    assert_true(digester.key_id({false, "ab"}, "c", ab_c));
    assert_true(digester.key_id({false, "a"}, "bc", a_bc));
    assert_true(digester.key_id({true, ""}, "abc", global));
    assert_true(digester.key_id({false, ""}, "abc", empty_owner));
    assert_true(digester.key_id({false, "ab"}, "c", again));

    assert_true(ab_c == again);
    assert_true(ab_c != a_bc);
    assert_true(global != empty_owner);
}

// The fingerprint of `value` and `body`; without a body it is not included.
Fingerprint fingerprint(std::string_view value, const char *body)
{
    Digester digester;
    Sha256 sha(digester.method());
    Fingerprint out;

    if (body != nullptr) {
        assert_true(sha.restart() && sha.update(body));
    }

    assert_true(digester.fingerprint(value, body != nullptr ? &sha : nullptr, out));
    return out;
}

UNIT_TEST(fingerprints_differ_by_value_and_body)
{
    Fingerprint with = fingerprint("POST /a", "body");

    assert_true(with == fingerprint("POST /a", "body"));
    assert_true(with != fingerprint("POST /a", nullptr));
    assert_true(with != fingerprint("POST /a", ""));
    assert_true(with != fingerprint("POST /a", "bodY"));
    assert_true(with != fingerprint("POST /b", "body"));

    // the value and the body are separated
    assert_true(fingerprint("ab", "c") != fingerprint("b", "ca"));
    assert_true(fingerprint("", "ab") != fingerprint("ab", ""));
    assert_true(fingerprint("ab", "") != fingerprint("ab", nullptr));
}

}  // namespace
