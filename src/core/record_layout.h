// The layout of a record, for those who write and read it.

#pragma once

#include <cstring>
#include <limits>

#include <libdeflate.h>

#include "core/record.h"
#include "core/wire.h"

namespace idempotency::record_layout {

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
inline std::uint32_t checksum(std::uint32_t so_far, const unsigned char *data, std::size_t size)
{
    return size == 0 ? so_far : libdeflate_crc32(so_far, data, size);
}

// Of body, extensions, head, key: in the order in which a writer knows them.  The token
// is left out, because the store writes it.  The key goes in, so that a record which was
// moved to another key is noticed.
inline std::uint32_t whole_checksum(std::uint32_t body, const unsigned char *head,
                                    std::size_t extensions, const KeyId &id)
{
    std::uint32_t sum = checksum(body, head + kRecordHeadSize, extensions);

    sum = checksum(sum, head, kTokenOffset);
    sum = checksum(sum, head + kLifetimeOffset, kChecksumOffset - kLifetimeOffset);
    return checksum(sum, id.bytes.data(), id.bytes.size());
}

inline bool is_one_line(std::string_view text)
{
    return text.find('\r') == std::string_view::npos && text.find('\n') == std::string_view::npos;
}

inline bool can_hold_status(unsigned status, std::string_view line)
{
    return status >= 200 && status <= 999 && line.size() <= kLongestLine && is_one_line(line);
}

}  // namespace idempotency::record_layout
