#include "core/record.h"

#include <cstring>
#include <limits>

#include <libdeflate.h>

#include "core/token.h"
#include "core/wire.h"

namespace idempotency {

namespace {

constexpr std::size_t kReservedOffset = 4;
constexpr std::size_t kSinceOffset = 48;
constexpr std::size_t kLifetimeOffset = 56;
constexpr std::size_t kStatusOffset = 64;
constexpr std::size_t kCountOffset = 66;
constexpr std::size_t kFieldsOffset = 68;
constexpr std::size_t kBodyOffset = 72;
constexpr std::size_t kChecksumOffset = 76;

constexpr std::size_t kStatusLineHead = 2;
constexpr std::size_t kHeaderHead = 1 + 2 + 4;

// Without the test an empty view would start the sum anew: the library takes a
// null pointer for 'give me the initial value'.
std::uint32_t checksum(std::uint32_t so_far, const unsigned char *data, std::size_t size)
{
    return size == 0 ? so_far : libdeflate_crc32(so_far, data, size);
}

// Backwards, as what a record says is known: body, fields, head.  The token
// stays out: a store writes it into a claim itself.  The key goes in: a record
// that got under another key is no answer there.
std::uint32_t whole_checksum(std::uint32_t body, const unsigned char *head, std::size_t fields,
                             const KeyId &id)
{
    constexpr std::size_t after_token = kTokenOffset + kTokenSize;
    std::uint32_t sum = checksum(body, head + kRecordHeadSize, fields);

    sum = checksum(sum, head, kTokenOffset);
    sum = checksum(sum, head + after_token, kChecksumOffset - after_token);
    return checksum(sum, id.bytes.data(), id.bytes.size());
}

// An empty view may have a null pointer, which memcpy must not be handed.
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

bool stays_on_its_line(std::string_view value)
{
    for (char c : value) {
        if (c == '\0' || c == '\r' || c == '\n') {
            return false;
        }
    }

    return true;
}

}  // namespace

FieldSizer::FieldSizer(std::string_view status_line)
{
    fits_ = status_line.size() <= std::numeric_limits<std::uint16_t>::max();
    size_ = static_cast<std::uint32_t>(kStatusLineHead + (fits_ ? status_line.size() : 0));
}

void FieldSizer::add(const Header &header)
{
    std::size_t added = kHeaderHead + header.name.size() + header.value.size();

    if (count_ == std::numeric_limits<std::uint16_t>::max()
        || header.name.size() > std::numeric_limits<std::uint16_t>::max()
        || added > std::numeric_limits<std::uint32_t>::max() - size_)
    {
        fits_ = false;
        return;
    }

    count_++;
    size_ += static_cast<std::uint32_t>(added);
}

RecordWriter::RecordWriter(unsigned char *out, const RecordHead &head)
    : out_(out), next_(out + kRecordHeadSize), body_checksum_(0)
{
    std::memset(out, 0, kRecordHeadSize);
    std::memcpy(out, kRecordMagic, sizeof(kRecordMagic));
    out[kVersionOffset] = kPlainVersion;
    out[kStateOffset] = static_cast<unsigned char>(head.state);
    wire::put_u64(out + kTokenOffset, head.token);
    std::memcpy(out + kFingerprintOffset, head.fingerprint.bytes.data(),
                head.fingerprint.bytes.size());
    wire::put_u64(out + kSinceOffset, head.since);
    wire::put_u64(out + kLifetimeOffset, head.lifetime);
}

void RecordWriter::start_result(std::uint16_t status, std::string_view status_line)
{
    wire::put_u16(out_ + kStatusOffset, status);
    wire::put_u16(next_, static_cast<std::uint16_t>(status_line.size()));
    next_ = append(next_ + kStatusLineHead, status_line);
}

void RecordWriter::add(const Header &header)
{
    next_[0] = header.flags;
    wire::put_u16(next_ + 1, static_cast<std::uint16_t>(header.name.size()));
    wire::put_u32(next_ + 3, static_cast<std::uint32_t>(header.value.size()));
    next_ = append(append(next_ + kHeaderHead, header.name), header.value);
    count_++;
}

void RecordWriter::add_body(std::string_view piece)
{
    body_checksum_ = checksum(body_checksum_, wire::octets(piece), piece.size());
    body_length_ += static_cast<std::uint32_t>(piece.size());
}

void RecordWriter::finish(const KeyId &id)
{
    std::size_t fields = size() - kRecordHeadSize;

    wire::put_u16(out_ + kCountOffset, count_);
    wire::put_u32(out_ + kFieldsOffset, static_cast<std::uint32_t>(fields));
    wire::put_u32(out_ + kBodyOffset, body_length_);
    wire::put_u32(out_ + kChecksumOffset, whole_checksum(body_checksum_, out_, fields, id));
}

const char *describe(RecordFault fault)
{
    switch (fault) {
    case RecordFault::none:
        return "is sound";
    case RecordFault::truncated:
        return "is not as long as it says";
    case RecordFault::foreign:
        return "is not a record of this module";
    case RecordFault::sealed:
        return "is sealed, and the store has no \"encryption_key_file\"";
    case RecordFault::newer:
        return "is of a format that this version does not know";
    case RecordFault::corrupt:
        return "is corrupt, or of another key";
    }

    return "is of an unknown kind";
}

bool HeaderCursor::next(Header &header)
{
    if (rest_.size() < kHeaderHead) {
        return false;
    }

    const unsigned char *head = wire::octets(rest_);
    std::size_t name = wire::get_u16(head + 1);
    std::size_t value = wire::get_u32(head + 3);

    if (rest_.size() - kHeaderHead < name || rest_.size() - kHeaderHead - name < value) {
        return false;
    }

    header.flags = head[0];
    header.name = rest_.substr(kHeaderHead, name);
    header.value = rest_.substr(kHeaderHead + name, value);
    rest_.remove_prefix(kHeaderHead + name + value);
    return true;
}

namespace {

bool read_fields(std::string_view fields, Record &record)
{
    if (fields.size() < kStatusLineHead) {
        return false;
    }

    std::size_t line = wire::get_u16(wire::octets(fields));

    if (fields.size() - kStatusLineHead < line) {
        return false;
    }

    record.status_line = fields.substr(kStatusLineHead, line);
    record.fields = fields.substr(kStatusLineHead + line);

    if (!stays_on_its_line(record.status_line)) {
        return false;
    }

    HeaderCursor cursor(record.fields);
    Header header;

    for (std::size_t i = 0; i < record.header_count; i++) {
        if (!cursor.next(header) || (header.flags & ~(kHeaderFromSlot | kTrailer)) != 0
            || !is_token(header.name) || !stays_on_its_line(header.value))
        {
            return false;
        }
    }

    return cursor.done();
}

}  // namespace

bool has_record_magic(std::string_view bytes)
{
    return bytes.size() >= sizeof(kRecordMagic)
           && std::memcmp(bytes.data(), kRecordMagic, sizeof(kRecordMagic)) == 0;
}

RecordFault read_record(std::string_view bytes, const KeyId &id, Record &record)
{
    const unsigned char *in = wire::octets(bytes);

    if (!has_record_magic(bytes)) {
        return RecordFault::foreign;
    }

    if (bytes.size() <= kVersionOffset) {
        return RecordFault::truncated;
    }

    if (in[kVersionOffset] != kPlainVersion) {
        return in[kVersionOffset] == kSealedVersion ? RecordFault::sealed
               : in[kVersionOffset] > kPlainVersion ? RecordFault::newer
                                                    : RecordFault::corrupt;
    }

    if (bytes.size() < kRecordHeadSize) {
        return RecordFault::truncated;
    }

    std::size_t rest = bytes.size() - kRecordHeadSize;
    std::size_t fields = wire::get_u32(in + kFieldsOffset);
    std::size_t body = wire::get_u32(in + kBodyOffset);

    if (fields > rest || body != rest - fields) {
        return RecordFault::truncated;
    }

    if (whole_checksum(checksum(0, in + kRecordHeadSize + fields, body), in, fields, id)
        != wire::get_u32(in + kChecksumOffset))
    {
        return RecordFault::corrupt;
    }

    if (!is_state(in[kStateOffset]) || in[kReservedOffset] != 0 || in[kReservedOffset + 1] != 0
        || in[kReservedOffset + 2] != 0)
    {
        return RecordFault::corrupt;
    }

    record = Record{};
    record.head.state = static_cast<State>(in[kStateOffset]);
    record.head.token = wire::get_u64(in + kTokenOffset);
    std::memcpy(record.head.fingerprint.bytes.data(), in + kFingerprintOffset, sizeof(Digest));
    record.head.since = wire::get_u64(in + kSinceOffset);
    record.head.lifetime = wire::get_u64(in + kLifetimeOffset);
    record.status = wire::get_u16(in + kStatusOffset);
    record.header_count = wire::get_u16(in + kCountOffset);

    if (record.head.state != State::kept) {
        return record.status == 0 && record.header_count == 0 && rest == 0 ? RecordFault::none
                                                                           : RecordFault::corrupt;
    }

    if (record.status < 200 || record.status > 999
        || !read_fields(bytes.substr(kRecordHeadSize, fields), record))
    {
        return RecordFault::corrupt;
    }

    record.body = bytes.substr(kRecordHeadSize + fields);
    return RecordFault::none;
}

}  // namespace idempotency
