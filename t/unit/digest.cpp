#include "cmocka.h"

#include <map>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/coverage.h"
#include "core/digest.h"

using namespace idempotency;

namespace {

std::string hex(const Digest &digest)
{
    char out[kHexLength];

    write_hex(digest, out);
    return std::string(out, sizeof(out));
}

UNIT_TEST(sha256_is_the_standard_s)
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

using Parts = std::vector<std::string_view>;

Scope scope_of(const Parts &parts)
{
    return {parts.empty() ? ScopeKind::global : ScopeKind::parts, parts.data(), parts.size()};
}

// Without parts: of a global key.
std::string key_id(Digester &digester, const Parts &parts, std::string_view key)
{
    KeyId out;

    assert_true(digester.key_id(scope_of(parts), key, out));
    return hex(out);
}

// computed by another implementation (Python's hashlib) from what docs/format.md says
UNIT_TEST(key_ids_are_those_of_the_format)
{
    Digester digester;

    assert_string_equal(key_id(digester, {"YOUR_API_KEY"}, "uuid-abc-123").c_str(),
                        "71a2943078f46b5a3c089e8cbc04a62999aa12f4a00cd149414f1bce2340b72d");
    assert_string_equal(key_id(digester, {"", "YOUR_API_KEY"}, "uuid-abc-123").c_str(),
                        "13bc4c28abd8e064c8528fb8de53bc932c4fd5c6140aaa49056b06dc767c07a6");
    assert_string_equal(key_id(digester, {}, "uuid-abc-123").c_str(),
                        "5b26947c4bcfee2a6799835302fbf5cd724b8bbe2b2c86df4345c4f952ed1353");
}

UNIT_TEST(parts_at_other_positions_give_other_key_ids)
{
    Digester digester;

    assert_string_equal(key_id(digester, {"1", "11"}, "k").c_str(),
                        key_id(digester, {"1", "11"}, "k").c_str());
    assert_string_not_equal(key_id(digester, {"1", "11"}, "k").c_str(),
                            key_id(digester, {"11", "1"}, "k").c_str());
    assert_string_not_equal(key_id(digester, {"a", ""}, "k").c_str(),
                            key_id(digester, {"", "a"}, "k").c_str());
    assert_string_not_equal(key_id(digester, {"a", ""}, "k").c_str(),
                            key_id(digester, {"a"}, "k").c_str());
    assert_string_not_equal(key_id(digester, {""}, "k").c_str(), key_id(digester, {}, "k").c_str());
}

// Collects key ids; fails if two different inputs have the same.
class Inputs {
public:
    void add(const Parts &parts, std::string_view key)
    {
        std::vector<std::string> input(parts.begin(), parts.end());

        input.emplace_back(key);

        auto [known, added] = inputs_.emplace(key_id(digester_, parts, key), input);

        assert_true(added || known->second == input);
    }

    std::size_t size() const { return inputs_.size(); }

private:
    Digester digester_;
    std::map<std::string, std::vector<std::string>> inputs_;
};

// All lists of up to three parts that can be made of these values, with each key.  The values are
// pieces of each other and of the bytes that the format puts between parts.
UNIT_TEST(different_scopes_and_keys_have_different_key_ids)
{
    using namespace std::string_view_literals;

    const std::string_view values[] = {
        "",   "1",    "11",        "111",
        "a",  "ab",   "b",         "K",
        "Kk", "S",    "G",         "\1\0\0\0\0\0\0\0\1"sv,
        "\2", "\0"sv, "a\2\0\0"sv, "\2\0\0\0\0\0\0\0\1b"sv,
    };
    const std::string_view keys[] = {"k", "1", "11", "K", "Kk", "b"};
    Inputs inputs;
    std::size_t added = 0;

    for (std::string_view key : keys) {
        inputs.add({}, key);
        added++;

        for (std::string_view first : values) {
            inputs.add({first}, key);
            added++;

            for (std::string_view second : values) {
                inputs.add({first, second}, key);
                added++;

                for (std::string_view third : values) {
                    inputs.add({first, second, third}, key);
                    added++;
                }
            }
        }
    }

    assert_int_equal(inputs.size(), added);
}

// Random texts, cut into parts and a key at random places: the same bytes in many ways.
UNIT_TEST(one_text_cut_in_different_ways_has_different_key_ids)
{
    std::mt19937 random(20261127);
    Inputs inputs;

    for (int i = 0; i < 20000; i++) {
        std::string text(1 + random() % 12, 'a');

        for (char &c : text) {
            c = "aK1\1"[random() % 4];
        }

        Parts parts;
        std::string_view left = text;

        for (unsigned n = random() % 8; n > 0; n--) {
            std::size_t size = random() % (left.size() + 1);

            parts.push_back(left.substr(0, size));
            left.remove_prefix(size);
        }

        inputs.add(parts, left);
    }

    assert_true(inputs.size() > 5000);
}

// The number of part 75 is the byte 'K', which also stands before the key.
UNIT_TEST(all_parts_have_a_number)
{
    Digester digester;
    Parts parts;
    std::set<std::string> ids{key_id(digester, parts, "k")};

    for (std::size_t i = 1; i <= kMaxScopeParts; i++) {
        parts.push_back("v");
        ids.insert(key_id(digester, parts, "k"));
        parts.back() = "";
        ids.insert(key_id(digester, parts, "k"));
    }

    assert_int_equal(ids.size(), 1 + 2 * kMaxScopeParts);
}

bool is_empty(const Parts &parts, bool any) { return is_scope_empty(scope_of(parts), any); }

UNIT_TEST(a_scope_needs_all_parts_or_any)
{
    assert_false(is_empty({"a", "b"}, false));
    assert_true(is_empty({"a", ""}, false));
    assert_true(is_empty({"", "b"}, false));
    assert_true(is_empty({""}, false));
    assert_false(is_empty({"a"}, false));

    assert_false(is_empty({"a", ""}, true));
    assert_false(is_empty({"", "b"}, true));
    assert_true(is_empty({"", ""}, true));
    assert_true(is_empty({""}, true));
}

UNIT_TEST(a_media_type_has_no_parameters)
{
    assert_true(media_type("application/json") == "application/json");
    assert_true(media_type("application/json;charset=utf-8") == "application/json");
    assert_true(media_type("text/plain; a=b; c=\";\"") == "text/plain");
    assert_true(media_type("") == "");
    assert_true(media_type(";charset=utf-8") == "");
}

struct Body {
    std::string_view media_type;
    std::string_view content_encoding;
    std::string_view bytes;
};

// Null: the fingerprint does not include the body.
std::string fingerprint(std::string_view value, const Body *body)
{
    Digester digester;
    Sha256 sha(digester.method());
    Fingerprint out;

    if (body != nullptr) {
        assert_true(start_body_digest(sha, body->media_type, body->content_encoding)
                    && sha.update(body->bytes));
    }

    assert_true(digester.fingerprint(value, body != nullptr ? &sha : nullptr, out));
    return hex(out);
}

std::string fingerprint(std::string_view value, const Body &body)
{
    return fingerprint(value, &body);
}

constexpr std::string_view kValue = "POST api.realm.ai/v1/marketplace/listings";
constexpr std::string_view kBody = "{ \"assetId\": \"model-123\" }";

// computed by another implementation (Python's hashlib) from what docs/format.md says
UNIT_TEST(fingerprints_are_those_of_the_format)
{
    assert_string_equal(fingerprint(kValue, {"application/json", "", kBody}).c_str(),
                        "c4d23a5e31e96d3772d76c0bb1b4ef7acf1a052bc88e371b2ed18ae3e34c3d7b");
    assert_string_equal(fingerprint(kValue, {"application/json", "gzip", kBody}).c_str(),
                        "3c935b7fa48b62fd046da910ab445b0d8bade2f609cb5d97473d2f275be0e87a");
    assert_string_equal(fingerprint(kValue, nullptr).c_str(),
                        "f5409380ee08bd27e99d24cead7250f66d4659cafa0575a42e9a962027a495f3");
}

UNIT_TEST(fingerprints_ignore_case_and_spaces_of_types_and_codings)
{
    std::string plain = fingerprint(kValue, {"application/json", "gzip,br", kBody});

    assert_string_equal(fingerprint(kValue, {"Application/JSON", "GZip , BR", kBody}).c_str(),
                        plain.c_str());
    // longer than the buffer in which letters become small; computed by Python's hashlib too
    assert_string_equal(fingerprint(kValue, {std::string(200, 'X'), "", kBody}).c_str(),
                        "b5a457f5bea4668fdfd7880870ba06ba3402708e0bba4a5aa671197b20b85525");
    assert_string_not_equal(fingerprint(kValue, {std::string(200, 'X'), "", kBody}).c_str(),
                            fingerprint(kValue, {std::string(199, 'x') + "y", "", kBody}).c_str());
}

// All combinations of these values: each differs from all others.
UNIT_TEST(different_requests_have_different_fingerprints)
{
    using namespace std::string_view_literals;

    const std::string_view values[] = {"",     "a", "ab",   "b",    "B",
                                       "\0"sv, "c", "gzip", "text", "a\0\0\0\0\0\0\0\1B"sv};
    std::set<std::string> prints;
    std::size_t added = 0;

    for (std::string_view value : values) {
        prints.insert(fingerprint(value, nullptr));
        added++;

        for (std::string_view type : {"", "a", "ab", "b", "text"}) {
            for (std::string_view encoding : {"", "a", "ab", "gzip", "text"}) {
                for (std::string_view bytes : values) {
                    prints.insert(fingerprint(value, {type, encoding, bytes}));
                    added++;
                }
            }
        }
    }

    assert_int_equal(prints.size(), added);
}

}  // namespace
