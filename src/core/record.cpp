#include "core/record.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include <libdeflate.h>

#include "core/hops.h"
#include "core/wire.h"

namespace idempotency {

namespace {

constexpr std::size_t kFlagsOffset = 4;
constexpr std::size_t kReservedOffset = 5;
constexpr std::size_t kSinceOffset = 72;
constexpr std::size_t kHoldOffset = 80;
constexpr std::size_t kExtensionsOffset = 88;
constexpr std::size_t kBodyOffset = 92;
constexpr std::size_t kChecksumOffset = 96;

static_assert(kFingerprintOffset + sizeof(Digest) == kSinceOffset, "no gap in the head");
static_assert(kChecksumOffset + 4 == kRecordHeadSize, "the checksum ends the head");

constexpr unsigned char kTellsHold = 0x01;

constexpr std::size_t kResponseHead = 2 + 2 + 2;  // status, count, length of the status line
constexpr std::size_t kHeaderHead = 1 + 2 + 4;    // flags, length of name, length of value
constexpr std::size_t kHolderHead = 4;            // worker
constexpr std::size_t kLongestLine = std::numeric_limits<std::uint16_t>::max();
constexpr std::size_t kLongestName = std::numeric_limits<std::uint16_t>::max();
constexpr std::size_t kMostHeaders = std::numeric_limits<std::uint16_t>::max();
constexpr std::size_t kLargestResponse = std::numeric_limits<std::uint32_t>::max() / 2;

// The fields of the head that lie between state and lengths, for writer and reader alike.
template <typename Codec, typename Head>
void code_head(Codec &codec, Head &head)
{
    codec.bytes(kClaimOffset, head.claim.bytes);
    codec.u64(kTokenOffset, head.token);
    codec.u64(kLifetimeOffset, head.lifetime);
    codec.bytes(kFingerprintOffset, head.fingerprint.bytes);
    codec.u64(kSinceOffset, head.since);
    codec.u64(kHoldOffset, head.hold);
}

struct HeadEncoder {
    unsigned char *out;

    template <typename Bytes>
    void bytes(std::size_t offset, const Bytes &value) const
    {
        std::memcpy(out + offset, value.data(), value.size());
    }

    void u64(std::size_t offset, std::uint64_t value) const { wire::put_u64(out + offset, value); }
};

struct HeadDecoder {
    const unsigned char *in;

    template <typename Bytes>
    void bytes(std::size_t offset, Bytes &value) const
    {
        std::memcpy(value.data(), in + offset, value.size());
    }

    void u64(std::size_t offset, std::uint64_t &value) const { value = wire::get_u64(in + offset); }
};

// Not called for an empty view: libdeflate takes a null pointer for 'give me the
// initial value'.
std::uint32_t checksum(std::uint32_t so_far, const unsigned char *data, std::size_t size)
{
    return size == 0 ? so_far : libdeflate_crc32(so_far, data, size);
}

// Of body, extensions, head, key: in the order in which a writer knows them.  The token
// is left out, because the store writes it.  The key goes in, so that a record which was
// moved to another key is noticed.
std::uint32_t whole_checksum(std::uint32_t body, const unsigned char *head, std::size_t extensions,
                             const KeyId &id)
{
    std::uint32_t sum = checksum(body, head + kRecordHeadSize, extensions);

    sum = checksum(sum, head, kTokenOffset);
    sum = checksum(sum, head + kLifetimeOffset, kChecksumOffset - kLifetimeOffset);
    return checksum(sum, id.bytes.data(), id.bytes.size());
}

// memcpy must not get the null pointer of an empty view.
unsigned char *append(unsigned char *out, std::string_view bytes)
{
    if (!bytes.empty()) {
        std::memcpy(out, bytes.data(), bytes.size());
    }

    return out + bytes.size();
}

bool is_state(unsigned char c)
{
    switch (static_cast<State>(c)) {
    case State::running:
    case State::unknown:
    case State::kept:
    case State::not_kept:
        return true;
    }

    return false;
}

bool is_one_line(std::string_view text)
{
    return text.find('\r') == std::string_view::npos && text.find('\n') == std::string_view::npos;
}

bool can_hold_status(unsigned status, std::string_view line)
{
    return status >= 200 && status <= 999 && line.size() <= kLongestLine && is_one_line(line);
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

bool can_hold(const Header &header)
{
    return !header.name.empty() && header.name.size() <= kLongestName
           && header.name.find(':') == std::string_view::npos && is_one_line(header.name)
           && is_one_line(header.value) && (header.flags & ~kHeaderFlags) == 0;
}

ResponseSizer::ResponseSizer(unsigned status, std::string_view status_line)
    : fits_(can_hold_status(status, status_line)),
      size_(kExtensionHeadSize + kResponseHead + status_line.size())
{}

void ResponseSizer::add(const Header &header)
{
    std::size_t added = kHeaderHead + header.name.size() + header.value.size();

    if (!fits_ || !can_hold(header) || count_ == kMostHeaders || added > kLargestResponse - size_) {
        fits_ = false;
        return;
    }

    count_++;
    size_ += added;
}

RecordWriter::RecordWriter(unsigned char *out, const RecordHead &head)
    : out_(out), next_(out + kRecordHeadSize)
{
    HeadEncoder encoder{out};

    std::memset(out, 0, kRecordHeadSize);
    std::memcpy(out, kRecordMagic, sizeof(kRecordMagic));
    out[kVersionOffset] = kPlainVersion;
    out[kFlagsOffset] = head.tells_hold ? kTellsHold : 0;
    out[kStateOffset] = static_cast<unsigned char>(head.state);
    code_head(encoder, head);
}

unsigned char *RecordWriter::start_extension(ExtensionType type)
{
    wire::put_u16(next_, static_cast<std::uint16_t>(type));
    return next_ + kExtensionHeadSize;
}

void RecordWriter::add_holder(const Holder &holder)
{
    std::string_view host = holder.host.substr(0, kLongestHost);
    unsigned char *data = start_extension(ExtensionType::holder);

    wire::put_u32(next_ + 2, static_cast<std::uint32_t>(kHolderHead + host.size()));
    wire::put_u32(data, holder.worker);
    next_ = append(data + kHolderHead, host);
}

void RecordWriter::start_response(std::uint16_t status, std::string_view status_line)
{
    response_ = start_extension(ExtensionType::response);
    wire::put_u16(response_, status);
    wire::put_u16(response_ + 4, static_cast<std::uint16_t>(status_line.size()));
    next_ = append(response_ + kResponseHead, status_line);
}

void RecordWriter::add(const Header &header)
{
    next_[0] = header.flags;
    wire::put_u16(next_ + 1, static_cast<std::uint16_t>(header.name.size()));
    wire::put_u32(next_ + 3, static_cast<std::uint32_t>(header.value.size()));
    next_ = append(append(next_ + kHeaderHead, header.name), header.value);
    count_++;
}

void RecordWriter::finish_response()
{
    if (response_ != nullptr) {
        wire::put_u16(response_ + 2, count_);
        wire::put_u32(response_ - 4, static_cast<std::uint32_t>(next_ - response_));
        response_ = nullptr;
    }
}

void RecordWriter::add_hops(std::string_view hops)
{
    if (hops.empty()) {
        return;
    }

    finish_response();

    unsigned char *data = start_extension(ExtensionType::hops);

    wire::put_u32(data - 4, static_cast<std::uint32_t>(hops.size()));
    next_ = append(data, hops);
}

void RecordWriter::add_body(std::string_view piece)
{
    body_checksum_ = checksum(body_checksum_, wire::octets(piece), piece.size());
    body_length_ += static_cast<std::uint32_t>(piece.size());
}

void RecordWriter::finish(const KeyId &id)
{
    std::size_t extensions = size() - kRecordHeadSize;

    finish_response();
    wire::put_u32(out_ + kExtensionsOffset, static_cast<std::uint32_t>(extensions));
    wire::put_u32(out_ + kBodyOffset, body_length_);
    wire::put_u32(out_ + kChecksumOffset, whole_checksum(body_checksum_, out_, extensions, id));
}

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
