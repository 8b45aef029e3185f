// A sealed record and a key file: any bytes as a store or a disk may give them
// back, and records sealed by this module and then changed as the input tells.

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "core/key_file.h"
#include "core/key_ring.h"
#include "core/record.h"
#include "fuzz.h"

using namespace idempotency;

namespace {

const KeyId kId = {{'f', 'u', 'z', 'z'}};

// Offsets of docs/format.md, stated anew.
constexpr std::size_t kStateAt = 7;
constexpr std::size_t kTokenAt = 24;
constexpr std::size_t kTokenEnd = 32;
constexpr std::size_t kClearEnd = 40;
constexpr std::size_t kInsideAt = 92;  // behind the identity

struct Keys {
    KeyRing sealing;
    KeyRing beginning;  // takes plain records, too

    Keys()
    {
        Secret secret;

        secret.bytes.fill(7);
        EXPECT(sealing.add(secret) == KeyRing::AddResult::added);
        EXPECT(beginning.add_plain() == KeyRing::AddResult::added);
        EXPECT(beginning.add(secret) == KeyRing::AddResult::added);
    }
};

// A value in a block of its exact size, so that a byte too many is noticed.
struct Value {
    explicit Value(std::string_view bytes)
        : block(new unsigned char[bytes.size()]), size(bytes.size())
    {
        std::copy(bytes.begin(), bytes.end(), block.get());
    }

    SealFault open(KeyRing &keys, const KeyId &id, std::string_view &record)
    {
        KeyId raw_id;
        SealFault fault = keys.open(id, block.get(), size, record, raw_id);

        EXPECT(describe(fault) != nullptr);
        EXPECT(fault != SealFault::failed);
        if (fault == SealFault::none) {
            EXPECT(record.size() >= kRecordHeadSize);
            EXPECT(fuzz::lies_within(record, {reinterpret_cast<char *>(block.get()), size}));
        }
        return fault;
    }

    std::unique_ptr<unsigned char[]> block;
    std::size_t size;
};

void check_any_bytes(Keys &keys, std::string_view bytes)
{
    std::string_view record;

    // nobody but who has the key makes one that opens
    EXPECT(Value(bytes).open(keys.sealing, kId, record) != SealFault::none);

    Value plain(bytes);

    if (plain.open(keys.beginning, kId, record) == SealFault::none) {
        EXPECT(record == bytes && bytes[3] == 1);
    }
}

void check_sealed(Keys &keys, std::string_view input)
{
    static constexpr char states[] = {'R', 'U', 'K', 'N'};
    fuzz::Steering steer(input);
    std::string plain = "IDM\1" + std::string(kRecordHeadSize - 4, '\0');

    plain[kStateAt] = states[steer.number(1) & 3];

    std::size_t piece = steer.number(2);
    std::size_t changed = steer.number(2);
    auto mask = static_cast<unsigned char>(steer.number(1));

    plain += steer.text(input.size());
    piece = kClearEnd + piece % (plain.size() - kClearEnd + 1);

    std::string_view pieces[] = {
        std::string_view(plain).substr(0, piece), {}, std::string_view(plain).substr(piece)};
    auto sealed = std::make_unique<unsigned char[]>(plain.size() + kSealOverhead);
    std::string_view bytes(reinterpret_cast<char *>(sealed.get()), plain.size() + kSealOverhead);

    EXPECT(keys.sealing.seal(kId, kId, pieces, 3, sealed.get()));
    EXPECT(bytes.substr(0, kClearEnd) == "IDM\2" + plain.substr(4, kClearEnd - 4));
    EXPECT(bytes.substr(kInsideAt, plain.size()) != plain);

    std::string_view record;

    for (KeyRing *ring : {&keys.sealing, &keys.beginning}) {
        Value value(bytes);

        EXPECT(value.open(*ring, kId, record) == SealFault::none);
        EXPECT(record == plain);
        EXPECT(record.data() == reinterpret_cast<char *>(value.block.get()) + kInsideAt);
    }

    // one byte that was changed
    changed %= bytes.size();
    sealed[changed] ^= mask;

    bool is_given = plain[kStateAt] == 'R' && changed >= kTokenAt && changed < kTokenEnd;

    EXPECT((Value(bytes).open(keys.sealing, kId, record) == SealFault::none)
           == (is_given || mask == 0));
    sealed[changed] ^= mask;

    // another key's, and one that was cut
    KeyId stranger = kId;

    stranger.bytes[changed % stranger.bytes.size()] ^= 1;
    EXPECT(Value(bytes).open(keys.sealing, stranger, record) != SealFault::none);
    EXPECT(Value(bytes.substr(0, changed)).open(keys.sealing, kId, record) != SealFault::none);
}

void check_key_file(std::string_view file)
{
    Secret secret, again;

    if (parse_key_file(file, secret) != nullptr) {
        return;
    }

    EXPECT(file.size() == 32 || (file.size() >= 44 && file.size() <= 66));

    // there is one secret in it, however it is written
    std::string hex;

    for (unsigned char byte : secret.bytes) {
        hex += "0123456789abcdef"[byte >> 4];
        hex += "0123456789abcdef"[byte & 0xf];
    }

    EXPECT(parse_key_file(hex, again) == nullptr);
    EXPECT(secret.bytes == again.bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size)
{
    static Keys keys;
    std::string_view input = fuzz::view(data, size);

    check_any_bytes(keys, input);
    check_sealed(keys, input);
    check_key_file(input);
    return 0;
}
