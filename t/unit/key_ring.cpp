#include "cmocka.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string>

#include "core/key_ring.h"
#include "core/record.h"

using namespace idempotency;

namespace {

std::string bytes_of(std::string_view hex)
{
    std::string out;

    for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
        out += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
    }

    return out;
}

template <class Array>
std::string hex_of(const Array &bytes)
{
    static constexpr char digits[] = "0123456789abcdef";
    std::string out;

    for (char c : bytes) {
        out += digits[static_cast<unsigned char>(c) >> 4];
        out += digits[c & 0xf];
    }

    return out;
}

std::string counting(std::size_t size, int from = 0)
{
    std::string out;

    for (std::size_t i = 0; i < size; i++) {
        out += static_cast<char>(from + static_cast<int>(i));
    }

    return out;
}

void add(KeyRing &keys, int from)
{
    Secret secret;

    std::memcpy(secret.bytes.data(), counting(kSecretSize, from).data(), kSecretSize);
    assert_int_equal(int(keys.add(secret)), int(KeyRing::AddResult::added));
}

const KeyId kRaw = {{1, 2, 3}};

std::string record(State state, Token token, const std::string &body = "")
{
    unsigned char out[kRecordHeadSize + 2];
    RecordHead head;

    head.state = state;
    head.token = token;
    head.fingerprint.bytes.fill(0xab);

    RecordWriter writer(out, head);

    if (state == State::kept) {
        writer.start_result(200, "");
        writer.add_body(body);
    }

    writer.finish(kRaw);
    return std::string(reinterpret_cast<char *>(out), writer.size()) + body;
}

std::string seal(KeyRing &keys, const KeyId &id, const std::string &plain)
{
    // a piece that is empty may have no address
    std::string_view pieces[] = {std::string_view(plain).substr(0, kRecordHeadSize),
                                 {},
                                 std::string_view(plain).substr(kRecordHeadSize)};
    std::string out(plain.size() + kSealOverhead, '\xcc');

    assert_true(keys.seal(id, pieces, 3, reinterpret_cast<unsigned char *>(&out[0])));
    return out;
}

SealFault open(KeyRing &keys, const KeyId &id, std::string sealed, std::string *plain = nullptr)
{
    std::string_view record;
    SealFault fault =
        keys.open(id, reinterpret_cast<unsigned char *>(&sealed[0]), sealed.size(), record);

    if (fault == SealFault::none && plain != nullptr) {
        *plain = record;
    }

    return fault;
}

void expect(SealFault seen, SealFault expected) { assert_int_equal(int(seen), int(expected)); }

// t/unit/seal_vectors.py made them.
UNIT_TEST(a_record_that_another_implementation_sealed_opens)
{
    KeyRing keys;
    KeyId raw, stored_id;
    std::string plain;

    add(keys, 0);
    std::memcpy(raw.bytes.data(),
                bytes_of("71a2943078f46b5a3c089e8cbc04a62999aa12f4a00cd149414f1bce2340b72d").data(),
                32);
    assert_true(keys.derive_stored_id(0, raw, stored_id));
    assert_string_equal(hex_of(stored_id.bytes).c_str(),
                        "674d3fa550cd06d5139d6d72108180d7941e189a4ccb8eaebffc0b03992efaa2");

    std::string sealed =
        bytes_of("49444d020000004b00060a24181e4001f1b6138b437217bca0a1a2a3a4a5a6a7a8a9aaabe14e0a09"
                 "4bd8e69ab34e4499d3770c8cfa156bb5aa1bbbdce6ec56c37e9ea3fe6c50318c095d40c7c4aaf6d7"
                 "88d6b382f0669dd6e0eaff47ea966da22f04bcaf6397716751d1b4bd7ee8fa5661cf9bedb3603969"
                 "2f198f26474e7c50ae83a5a9ad46126970d0cb1569a7aea603911e8bd00e47ef165779c560988eda"
                 "92e0997114afd2f1bd81a3848a62d01d99");

    expect(open(keys, stored_id, sealed, &plain), SealFault::none);

    Record record;

    assert_int_equal(int(read_record(plain, raw, record)), int(RecordFault::none));
    assert_true(record.head.token == 1700000000000001);
    assert_int_equal(record.status, 201);
    assert_true(record.body == "{\"id\":1}");

    // what this one seals has the same key's tag
    assert_true(seal(keys, stored_id, plain).substr(16, 8) == sealed.substr(16, 8));
}

UNIT_TEST(what_is_sealed_opens_and_tells_nothing)
{
    KeyRing keys;

    add(keys, 1);

    for (std::size_t size : {0, 1, 15, 16, 17, 1000, 100000}) {
        std::string plain = record(State::kept, 0x0102030405060708, counting(size, 7));
        std::string sealed = seal(keys, kRaw, plain);
        std::string opened;

        assert_int_equal(sealed.size(), plain.size() + kSealOverhead);
        assert_true(sealed.substr(0, 16) == "IDM\2" + plain.substr(4, 12));
        assert_true(sealed.find("\xab\xab\xab\xab") == std::string::npos);
        assert_true(size < 15 || sealed.find(counting(15, 7)) == std::string::npos);
        expect(open(keys, kRaw, sealed, &opened), SealFault::none);
        assert_true(opened == plain);
    }
}

UNIT_TEST(a_claim_has_the_token_that_the_store_gave)
{
    KeyRing keys;
    std::string sealed, opened;
    Record read;

    add(keys, 1);
    sealed = seal(keys, kRaw, record(State::running, 0));
    sealed.replace(kTokenOffset, kTokenSize, "\0\0\0\0\0\0\1\2", kTokenSize);
    expect(open(keys, kRaw, sealed, &opened), SealFault::none);
    assert_int_equal(int(read_record(opened, kRaw, read)), int(RecordFault::none));
    assert_true(read.head.token == 0x102);
    assert_int_equal(int(read.head.state), int(State::running));
}

UNIT_TEST(each_byte_of_it_counts)
{
    KeyRing keys;

    add(keys, 1);

    for (State state : {State::running, State::unknown, State::kept, State::not_kept}) {
        std::string sealed =
            seal(keys, kRaw, record(state, 99, state == State::kept ? "body" : ""));

        for (std::size_t i = 0; i < sealed.size(); i++) {
            bool is_given =
                state == State::running && i >= kTokenOffset && i < kTokenOffset + kTokenSize;

            for (int bit = 0; bit < 8; bit++) {
                std::string broken = sealed;

                broken[i] = static_cast<char>(broken[i] ^ (1 << bit));
                assert_true((open(keys, kRaw, broken) == SealFault::none) == is_given);
            }
        }

        for (std::size_t n = 0; n < sealed.size(); n++) {
            assert_true(open(keys, kRaw, sealed.substr(0, n)) != SealFault::none);
        }
        assert_true(open(keys, kRaw, sealed + "x") != SealFault::none);
    }
}

UNIT_TEST(faults_are_told_apart)
{
    KeyRing keys, others;
    KeyId stranger = kRaw;

    add(keys, 1);
    add(others, 2);
    stranger.bytes[31] ^= 1;

    std::string plain = record(State::not_kept, 99);
    std::string sealed = seal(keys, kRaw, plain);
    std::string newer = sealed, older = sealed, broken = sealed;

    newer[3] = 3;
    older[3] = 0;
    broken.back() = static_cast<char>(broken.back() ^ 1);

    expect(open(keys, kRaw, ""), SealFault::foreign);
    expect(open(keys, kRaw, "hello, world"), SealFault::foreign);
    expect(open(keys, kRaw, plain), SealFault::plain);
    expect(open(keys, kRaw, newer), SealFault::newer);
    expect(open(keys, kRaw, older), SealFault::broken);
    expect(open(keys, kRaw, sealed.substr(0, 131)), SealFault::truncated);
    expect(open(others, kRaw, sealed), SealFault::unknown_key);
    expect(open(keys, stranger, sealed), SealFault::broken);
    expect(open(keys, kRaw, broken), SealFault::broken);
    expect(open(keys, kRaw, sealed), SealFault::none);

    for (int i = 0; i <= int(SealFault::failed); i++) {
        assert_true(std::strlen(describe(SealFault(i))) > 0);
    }
}

UNIT_TEST(no_nonce_comes_twice)
{
    KeyRing keys, others;
    std::set<std::string> nonces;

    add(keys, 1);
    add(others, 1);

    for (int i = 0; i < 100; i++) {
        assert_true(
            nonces.insert(seal(keys, kRaw, record(State::running, 0)).substr(24, 12)).second);
        assert_true(
            nonces.insert(seal(others, kRaw, record(State::running, 0)).substr(24, 12)).second);
    }
}

UNIT_TEST(the_first_key_seals_and_each_opens)
{
    for (int first : {1, 2, 3}) {
        KeyRing alone, several;

        add(alone, first);
        add(several, first);
        for (int other : {1, 2, 3}) {
            if (other != first) {
                add(several, other);
            }
        }

        std::string plain = record(State::kept, 5, "body");

        expect(open(alone, kRaw, seal(several, kRaw, plain)), SealFault::none);
        expect(open(several, kRaw, seal(alone, kRaw, plain)), SealFault::none);

        KeyId by_alone, by_several;

        assert_true(alone.derive_stored_id(0, kRaw, by_alone));
        assert_true(several.derive_stored_id(several.sealing_index(), kRaw, by_several));
        assert_true(by_alone == by_several);
    }
}

UNIT_TEST(keys_have_one_order_however_they_are_listed)
{
    KeyId expected[3];
    int order[] = {1, 2, 3};

    do {
        KeyRing keys;

        for (int each : order) {
            add(keys, each);
        }

        for (std::size_t n = 0; n < 3; n++) {
            KeyId id;

            assert_true(keys.derive_stored_id(n, kRaw, id));
            if (std::is_sorted(order, order + 3)) {
                expected[n] = id;
            }
            assert_true(id == expected[n]);
        }
    } while (std::next_permutation(order, order + 3));

    assert_true(expected[0] != expected[1] && expected[1] != expected[2]
                && expected[0] != expected[2]);
    assert_true(expected[0] != kRaw);
}

// While a store that did not seal begins to.
UNIT_TEST(a_plain_key_leaves_things_as_they_are)
{
    KeyRing begins, ends, sealed;
    std::string plain = record(State::kept, 5, "body"), opened;
    KeyId id;

    assert_int_equal(int(begins.add_plain()), int(KeyRing::AddResult::added));
    assert_int_equal(int(begins.add_plain()), int(KeyRing::AddResult::duplicate));
    add(begins, 1);
    add(ends, 1);
    assert_int_equal(int(ends.add_plain()), int(KeyRing::AddResult::added));
    add(sealed, 1);

    assert_true(begins.derive_stored_id(begins.sealing_index(), kRaw, id) && id == kRaw);
    assert_int_equal(int(begins.overhead()), 0);
    assert_int_equal(int(ends.overhead()), int(kSealOverhead));

    std::string_view pieces[] = {
        std::string_view(plain).substr(0, 85), {}, std::string_view(plain).substr(85)};
    std::string out(plain.size(), '\0');

    assert_true(begins.seal(kRaw, pieces, 3, reinterpret_cast<unsigned char *>(&out[0])));
    assert_true(out == plain);

    for (KeyRing *keys : {&begins, &ends}) {
        for (const std::string &value : {plain, seal(sealed, kRaw, plain)}) {
            expect(open(*keys, kRaw, value, &opened), SealFault::none);
            assert_true(opened == plain);
        }
        expect(open(*keys, kRaw, plain.substr(0, 79)), SealFault::truncated);
    }

    // no key sealed with it
    std::string forged = seal(sealed, kRaw, plain);

    forged.replace(16, 8, 8, '\0');
    expect(open(begins, kRaw, forged), SealFault::unknown_key);
    expect(open(sealed, kRaw, plain), SealFault::plain);
}

UNIT_TEST(a_key_is_added_once)
{
    KeyRing keys;
    Secret secret;

    for (std::size_t i = 0; i < kMaxSealingKeys; i++) {
        secret.bytes.fill(static_cast<unsigned char>(i));
        assert_int_equal(int(keys.add(secret)), int(KeyRing::AddResult::added));
        if (i + 1 < kMaxSealingKeys) {
            assert_int_equal(int(keys.add(secret)), int(KeyRing::AddResult::duplicate));
        }
    }

    secret.bytes.fill(0xff);
    assert_int_equal(int(keys.add(secret)), int(KeyRing::AddResult::too_many));
    assert_int_equal(int(keys.count()), int(kMaxSealingKeys));
}

}  // namespace
