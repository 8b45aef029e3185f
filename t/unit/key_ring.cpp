#include "cmocka.h"

#include "bytes.h"

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

void add(KeyRing &keys, int from)
{
    Secret secret;

    std::memcpy(secret.bytes.data(), counting(kSecretSize, from).data(), kSecretSize);
    assert_int_equal(int(keys.add(secret)), int(KeyRing::AddResult::added));
}

const KeyId kRaw = {{1, 2, 3}};

std::string record(State state, Token token, const std::string &body = "")
{
    unsigned char out[256];
    RecordHead head;

    head.state = state;
    head.claim.bytes.fill(0xcd);
    head.token = token;
    head.fingerprint.bytes.fill(0xab);
    head.lifetime = 86400000;

    RecordWriter writer(out, head);

    if (state == State::kept) {
        writer.start_response(200, "");
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

    assert_true(keys.seal(id, kRaw, pieces, 3, reinterpret_cast<unsigned char *>(&out[0])));
    return out;
}

SealFault open(KeyRing &keys, const KeyId &id, std::string sealed, std::string *plain = nullptr,
               KeyId *raw_id = nullptr)
{
    std::string_view record;
    KeyId raw;
    SealFault fault =
        keys.open(id, reinterpret_cast<unsigned char *>(&sealed[0]), sealed.size(), record, raw);

    if (fault == SealFault::none && plain != nullptr) {
        *plain = record;
    }

    if (fault == SealFault::none && raw_id != nullptr) {
        *raw_id = raw;
    }

    return fault;
}

void expect(SealFault seen, SealFault expected) { assert_int_equal(int(seen), int(expected)); }

// The output of t/unit/seal_vectors.py.
constexpr char kVectorKeyId[] = "71a2943078f46b5a3c089e8cbc04a62999aa12f4a00cd149414f1bce2340b72d";
constexpr char kVectorIdentity[] =
    "674d3fa550cd06d5139d6d72108180d7941e189a4ccb8eaebffc0b03992efaa2";
constexpr char kVectorClaim[] = "49444d0100000052c0c1c2c3c4c5c6c7c8c9cacbcccdcecf000000000000000000"
                                "0000000526d130abababababababab"
                                "abababababababababababababababababababababababab000000000000000000"
                                "00000005265c000000000f00000000"
                                "b21c94f7000200000009000012677765622d31";
constexpr char kVectorKept[] = "49444d010000004bc0c1c2c3c4c5c6c7c8c9cacbcccdcecf00060a24181e4001000"
                               "0000005265c00ababababababababababababababababababababababababababab"
                               "ababababab0000018bcfe5687b000000000000000000000050000000084cdf9ce80"
                               "0010000003400c90001000b323031204372656174656400000c00000010436f6e74"
                               "656e742d547970656170706c69636174696f6e2f6a736f6e000400000010323aa32"
                               "03f8cdc83150f356d45e057777b226964223a317d";
constexpr char kVectorSealedClaim[] = "49444d0200000052c0c1c2c3c4c5c6c7c8c9cacbcccdcecf000000000000"
                                      "0000000000000526d130f1b6138b437217bcb0b1b2b3b4b5b6b7b8b9babb"
                                      "4920189297e085d74966629dfa6d4c826c83e97021c0eb3c3f9c2a464d68"
                                      "ee508f56010879cbf406405bcea6b4947041179e5fef7fd750d2d0d25cd7"
                                      "9b1990809ec83f83c161012e13281166ac22e32e743687a1cba9fe6c5777"
                                      "1edc2a392d2b964f60e6f5239714c063aa1fe8c8b4b416f9f88944864f7d"
                                      "8df2c2e1a79f38f9336484f7f861751fcef1864382bfc2fa716965b696a2"
                                      "4231b16a980cc9ab3637002406";
constexpr char kVectorGrantedClaim[] = "49444d0200000052c0c1c2c3c4c5c6c7c8c9cacbcccdcecf00060a24181"
                                       "e4001000000000526d130f1b6138b437217bcb0b1b2b3b4b5b6b7b8b9ba"
                                       "bb4920189297e085d74966629dfa6d4c826c83e97021c0eb3c3f9c2a464"
                                       "d68ee508f56010879cbf406405bcea6b4947041179e5fef7fd750d2d0d2"
                                       "5cd79b1990809ec83f83c161012e13281166ac22e32e743687a1cba9fe6"
                                       "c57771edc2a392d2b964f60e6f5239714c063aa1fe8c8b4b416f9f88944"
                                       "864f7d8df2c2e1a79f38f9336484f7f861751fcef1864382bfc2fa71696"
                                       "5b696a24231b16a980cc9ab3637002406";
constexpr char kVectorSealedKept[] = "49444d020000004bc0c1c2c3c4c5c6c7c8c9cacbcccdcecf00060a24181e4"
                                     "0010000000005265c00f1b6138b437217bca0a1a2a3a4a5a6a7a8a9aaabd9"
                                     "a8d338332c8d8b8f40d031776deaa4c814d2eaa1bcc13e0c08e6a6f675bf7"
                                     "88ebfd726a2f6eb27afc09fbfe7b8deee38af5696e3c259f3ea906786323c"
                                     "a0ae635e716654f7e898d54351f579c5562218cb92c288b2248dfca6b8957"
                                     "14d60762bb9c0b2be1a10ce05cecc4cb81d199eff643480782c5bac04bab4"
                                     "bbefe3183df89b98fd8cbfbf2f96cfc4a390c701e2367001c53bec29961bd"
                                     "e27d3b64347b36b9c5a027e65400ff6524ab6552f5dd76db588d6b49a3408"
                                     "f1a64bc73b2f07e8bb279e5c4f1376f65fd9fdf65c17cce67cf2492b08ca7"
                                     "9458fef2f76f641d37b9e53037bcdb9b7cca5774682";

constexpr Token kVectorToken = 1700000000000001;

KeyId vector_id(std::string_view hex)
{
    KeyId id;

    std::memcpy(id.bytes.data(), bytes_of(hex).data(), id.bytes.size());
    return id;
}

std::string vector_scope_tag()
{
    const std::string_view part = "YOUR_API_KEY";
    Digester digester;
    unsigned char tag[kScopeTagSize];

    assert_true(digester.scope_tag({ScopeKind::parts, &part, 1}, vector_id(kVectorKeyId), tag));
    assert_string_equal(hex_of(std::string(reinterpret_cast<char *>(tag), sizeof(tag))).c_str(),
                        "323aa3203f8cdc83150f356d45e05777");
    return {reinterpret_cast<char *>(tag), sizeof(tag)};
}

RecordHead vector_head(State state)
{
    RecordHead head;

    head.state = state;
    head.fingerprint.bytes.fill(0xab);

    for (std::size_t i = 0; i < head.claim.bytes.size(); i++) {
        head.claim.bytes[i] = static_cast<unsigned char>(0xc0 + i);
    }

    return head;
}

UNIT_TEST(records_have_the_bytes_of_another_implementation)
{
    const Header header = {"Content-Type", "application/json", 0};
    const std::string body = "{\"id\":1}";
    unsigned char out[512];
    RecordHead claim = vector_head(State::running), kept = vector_head(State::kept);

    claim.lifetime = 30000 + 86400000;
    claim.hold = 86400000;
    kept.token = kVectorToken;
    kept.since = 1700000000123;
    kept.lifetime = 86400000;

    RecordWriter of_claim(out, claim);

    of_claim.add_holder({4711, "web-1"});
    of_claim.finish(vector_id(kVectorKeyId));
    assert_string_equal(
        hex_of(std::string_view(reinterpret_cast<char *>(out), of_claim.size())).c_str(),
        kVectorClaim);

    RecordWriter of_kept(out, kept);

    of_kept.start_response(201, "201 Created");
    of_kept.add(header);
    of_kept.add_scope_tag(vector_scope_tag());
    of_kept.add_body(body);
    of_kept.finish(vector_id(kVectorKeyId));
    assert_string_equal(
        (hex_of(std::string_view(reinterpret_cast<char *>(out), of_kept.size())) + hex_of(body))
            .c_str(),
        kVectorKept);
}

UNIT_TEST(records_that_another_implementation_sealed_open)
{
    KeyRing keys;
    KeyId raw = vector_id(kVectorKeyId), stored_id;
    std::string plain;
    Record read;

    add(keys, 0);
    assert_true(keys.derive_stored_id(0, raw, stored_id));
    assert_string_equal(hex_of(stored_id.bytes).c_str(), kVectorIdentity);

    std::string sealed = bytes_of(kVectorSealedKept);

    KeyId opened_id{};

    expect(open(keys, stored_id, sealed, &plain, &opened_id), SealFault::none);
    assert_true(opened_id == raw);
    assert_string_equal(hex_of(plain).c_str(), kVectorKept);
    assert_int_equal(int(read_record(plain, raw, read)), int(RecordFault::none));
    assert_true(read.head.token == kVectorToken);
    assert_int_equal(read.status, 201);
    assert_true(read.body == "{\"id\":1}");

    // what is sealed here has the same clear bytes and key tag
    assert_true(seal(keys, stored_id, plain).substr(0, 48) == sealed.substr(0, 48));

    // a claim, before and after the store has granted it
    expect(open(keys, stored_id, bytes_of(kVectorSealedClaim), &plain), SealFault::none);
    assert_int_equal(hold_of(plain), 86400000);
    assert_int_equal(hold_of(bytes_of(kVectorSealedClaim)), 0);
    assert_string_equal(hex_of(plain).c_str(), kVectorClaim);
    expect(open(keys, stored_id, bytes_of(kVectorGrantedClaim), &plain), SealFault::none);
    assert_int_equal(int(read_record(plain, raw, read)), int(RecordFault::none));
    assert_true(read.head.token == kVectorToken);
    assert_int_equal(read.head.hold, 86400000);
    assert_int_equal(read.head.lifetime, 30000 + 86400000);
    assert_true(read.holder.host == "web-1");
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
        assert_true(sealed.substr(0, kClearSize) == "IDM\2" + plain.substr(4, kClearSize - 4));
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
    sealed.replace(kTokenOffset, sizeof(Token), "\0\0\0\0\0\0\1\2", sizeof(Token));
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
            bool is_given = state == State::running && i >= kTokenOffset && i < kLifetimeOffset;

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
    expect(open(keys, kRaw, sealed.substr(0, kRecordHeadSize + kSealOverhead - 1)),
           SealFault::truncated);
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
            nonces.insert(seal(keys, kRaw, record(State::running, 0)).substr(48, 12)).second);
        assert_true(
            nonces.insert(seal(others, kRaw, record(State::running, 0)).substr(48, 12)).second);
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
        std::string_view(plain).substr(0, 105), {}, std::string_view(plain).substr(105)};
    std::string out(plain.size(), '\0');

    assert_true(begins.seal(kRaw, kRaw, pieces, 3, reinterpret_cast<unsigned char *>(&out[0])));
    assert_true(out == plain);

    for (KeyRing *keys : {&begins, &ends}) {
        for (const std::string &value : {plain, seal(sealed, kRaw, plain)}) {
            expect(open(*keys, kRaw, value, &opened), SealFault::none);
            assert_true(opened == plain);
        }
        expect(open(*keys, kRaw, plain.substr(0, 99)), SealFault::truncated);
    }

    // no key sealed with it
    std::string forged = seal(sealed, kRaw, plain);

    forged.replace(kClearSize, 8, 8, '\0');
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
