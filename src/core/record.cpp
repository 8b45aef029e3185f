#include "core/record.h"

#include <algorithm>
#include <cstring>

#include "core/hops.h"
#include "core/record_layout.h"
#include "core/wire.h"

namespace idempotency {

using namespace record_layout;

namespace {

bool is_state(unsigned char c)
{
    switch (static_cast<State>(c)) {
    case State::running:
    case State::unknown:
    case State::kept:
    case State::not_kept:
    case State::freed:
        return true;
    }

    return false;
}

// Takes bytes from the front of a view; `ok` is false once there were too few.
class Input {
public:
    explicit Input(std::string_view rest) : rest_(rest) {}

    std::string_view take(std::size_t size)
    {
        if (rest_.size() < size) {
            ok_ = false;
            rest_ = {};
            return {};
        }

        std::string_view taken = rest_.substr(0, size);

        rest_.remove_prefix(size);
        return taken;
    }

    std::uint16_t u16() { return number<std::uint16_t>(); }
    std::uint32_t u32() { return number<std::uint32_t>(); }

    std::string_view rest() const { return rest_; }
    bool ok() const { return ok_; }
    bool done() const { return rest_.empty(); }

private:
    template <typename Integer>
    Integer number()
    {
        std::string_view bytes = take(sizeof(Integer));

        return bytes.empty() ? Integer(0) : wire::get<Integer>(wire::octets(bytes));
    }

    std::string_view rest_;
    bool ok_ = true;
};

bool read_response(std::string_view data, Record &record)
{
    Input input(data);

    record.status = input.u16();
    record.header_count = input.u16();
    record.status_line = input.take(input.u16());
    record.fields = input.rest();

    if (!input.ok() || !can_hold_status(record.status, record.status_line)) {
        return false;
    }

    HeaderCursor cursor(record.fields);
    Header header;

    for (std::size_t i = 0; i < record.header_count; i++) {
        if (!cursor.next(header) || !can_hold(header)) {
            return false;
        }
    }

    return cursor.done();
}

bool read_holder(std::string_view data, Record &record)
{
    Input input(data);

    record.holder.worker = input.u32();
    record.holder.host = input.rest();
    return input.ok() && record.holder.host.size() <= kLongestHost;
}

RecordFault read_extensions(std::string_view bytes, Record &record)
{
    Input input(bytes);
    bool has_response = false;
    std::uint32_t last = 0;

    while (!input.done()) {
        std::uint16_t type = input.u16();
        std::string_view data = input.take(input.u32());

        // ascending types: each comes once, and there is one way to write a record
        if (!input.ok() || type <= last) {
            return RecordFault::corrupt;
        }

        last = type;

        switch (static_cast<ExtensionType>(type)) {
        case ExtensionType::response:
            has_response = true;

            if (!read_response(data, record)) {
                return RecordFault::corrupt;
            }
            break;

        case ExtensionType::holder:
            if (!read_holder(data, record)) {
                return RecordFault::corrupt;
            }
            break;

        case ExtensionType::hops:
            if (record.head.state != State::kept || !are_hops(data)) {
                return RecordFault::corrupt;
            }
            record.hops = data;
            break;

        case ExtensionType::scope_tag:
            if (data.size() != kScopeTagSize) {
                return RecordFault::corrupt;
            }
            record.scope_tag = data;
            break;

        default:
            if ((type & kMustUnderstand) != 0) {
                return RecordFault::newer;
            }
        }
    }

    return has_response == (record.head.state == State::kept) ? RecordFault::none
                                                              : RecordFault::corrupt;
}

RecordFault check_version(std::string_view bytes)
{
    if (!has_record_magic(bytes)) {
        return RecordFault::foreign;
    }

    if (bytes.size() <= kVersionOffset) {
        return RecordFault::truncated;
    }

    auto version = static_cast<unsigned char>(bytes[kVersionOffset]);

    if (version == kSealedVersion) {
        return RecordFault::sealed;
    }

    if (version != kPlainVersion) {
        return version > kPlainVersion ? RecordFault::newer : RecordFault::corrupt;
    }

    return bytes.size() < kRecordHeadSize ? RecordFault::truncated : RecordFault::none;
}

}  // namespace

const char *describe(RecordFault fault)
{
    switch (fault) {
    case RecordFault::none:
        return "is valid";
    case RecordFault::truncated:
        return "is not as long as it says";
    case RecordFault::foreign:
        return "is not a record of this module";
    case RecordFault::sealed:
        return "is encrypted, and the store has no \"encryption_key_file\"";
    case RecordFault::newer:
        return "is of a format that this version of the module does not know";
    case RecordFault::corrupt:
        return "is corrupt, or belongs to another key";
    }

    return "is of an unknown kind";
}

bool HeaderCursor::next(Header &header)
{
    Input input(rest_);
    std::string_view flags = input.take(1);
    std::size_t name = input.u16();
    std::size_t value = input.u32();

    header.name = input.take(name);
    header.value = input.take(value);

    if (!input.ok()) {
        return false;
    }

    header.flags = static_cast<unsigned char>(flags.front());
    rest_ = input.rest();
    return true;
}

bool has_record_magic(std::string_view bytes)
{
    return bytes.size() >= sizeof(kRecordMagic)
           && std::memcmp(bytes.data(), kRecordMagic, sizeof(kRecordMagic)) == 0;
}

RecordFault read_record(std::string_view bytes, const KeyId &id, Record &record)
{
    RecordFault fault = check_version(bytes);

    if (fault != RecordFault::none) {
        return fault;
    }

    const unsigned char *in = wire::octets(bytes);
    std::size_t rest = bytes.size() - kRecordHeadSize;
    std::size_t extensions = wire::get_u32(in + kExtensionsOffset);
    std::size_t body = wire::get_u32(in + kBodyOffset);

    if (extensions > rest || body != rest - extensions) {
        return RecordFault::truncated;
    }

    std::uint32_t body_sum = checksum(0, in + kRecordHeadSize + extensions, body);

    if (whole_checksum(body_sum, in, extensions, id) != wire::get_u32(in + kChecksumOffset)) {
        return RecordFault::corrupt;
    }

    // a flag that this version does not know may change the meaning of the record
    if ((in[kFlagsOffset] & ~kTellsHold) != 0 || in[kReservedOffset] != 0
        || in[kReservedOffset + 1] != 0)
    {
        return RecordFault::newer;
    }

    if (!is_state(in[kStateOffset])) {
        return RecordFault::corrupt;
    }

    HeadDecoder decoder{in};

    record = Record{};
    record.head.state = static_cast<State>(in[kStateOffset]);
    record.head.tells_hold = (in[kFlagsOffset] & kTellsHold) != 0;
    code_head(decoder, record.head);

    if (record.head.state != State::kept && body > 0) {
        return RecordFault::corrupt;
    }

    record.body = bytes.substr(kRecordHeadSize + extensions);
    return read_extensions(bytes.substr(kRecordHeadSize, extensions), record);
}

std::string_view seen_part(std::string_view record)
{
    return record.substr(kStateOffset, 1 + sizeof(ClaimId));
}

State state_of(std::string_view value) { return static_cast<State>(value[kStateOffset]); }

ClaimId claim_of(std::string_view value)
{
    ClaimId claim;

    std::memcpy(claim.bytes.data(), value.data() + kClaimOffset, claim.bytes.size());
    return claim;
}

Token token_of(std::string_view value) { return wire::get_u64(wire::octets(value) + kTokenOffset); }

Millis hold_of(std::string_view value)
{
    return static_cast<unsigned char>(value[kVersionOffset]) == kPlainVersion
               ? wire::get_u64(wire::octets(value) + kHoldOffset)
               : 0;
}

}  // namespace idempotency
