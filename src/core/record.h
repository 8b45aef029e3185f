// The record of a key: a claim or a result, as both stores keep it.
//
// docs/format.md specifies it byte by byte.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/digest.h"

namespace idempotency {

using Token = std::uint64_t;
using Millis = std::uint64_t;

enum class State : unsigned char {
    running = 'R',   // claimed; the request is at the application
    unknown = 'U',   // the request went out and no whole answer came
    kept = 'K',      // the answer is here
    not_kept = 'N',  // acted on, but the answer could not be kept
};

// What a value of either form begins with: a record as it is, or sealed.
constexpr unsigned char kRecordMagic[] = {'I', 'D', 'M'};
constexpr std::size_t kVersionOffset = 3;
constexpr unsigned char kPlainVersion = 1;
constexpr unsigned char kSealedVersion = 2;

bool has_record_magic(std::string_view bytes);

constexpr std::size_t kRecordHeadSize = 80;
constexpr std::size_t kStateOffset = 7;
constexpr std::size_t kTokenOffset = 8;
constexpr std::size_t kTokenSize = 8;
constexpr std::size_t kFingerprintOffset = 16;

// What a header's flag says: nginx made the field from a slot of its own
// (`headers_out.location`, `last_modified_time`), so a replay fills that slot.
constexpr unsigned char kHeaderFromSlot = 0x01;

// It is a trailer: sent behind the body.
constexpr unsigned char kTrailer = 0x02;

struct Header {
    std::string_view name;
    std::string_view value;
    unsigned char flags = 0;
};

// The part of every record that is the same for all states.
struct RecordHead {
    State state = State::running;
    Token token = 0;
    Fingerprint fingerprint{};
    Millis since = 0;     // the store's clock when this state was reached; 0 in a claim
    Millis lifetime = 0;  // of the lease, or of the result
};

// How much the fields of a result take in a record.
class FieldSizer {
public:
    explicit FieldSizer(std::string_view status_line);
    void add(const Header &header);

    bool fits() const { return fits_; }
    std::uint32_t size() const { return size_; }
    std::uint16_t count() const { return count_; }

private:
    bool fits_ = true;
    std::uint32_t size_ = 0;
    std::uint16_t count_ = 0;
};

// Writes a record up to its body.  `out` has room for kRecordHeadSize and, in
// a result, the bytes that a FieldSizer told.
class RecordWriter {
public:
    RecordWriter(unsigned char *out, const RecordHead &head);

    // Only in a kept result, in this order: its fields ...
    void start_result(std::uint16_t status, std::string_view status_line);
    void add(const Header &header);
    // ... and its body, piece by piece, for the checksum and the length.
    void add_body(std::string_view piece);

    // Fills in what could only be known at the end; `id` is the key's that the
    // record is of.  What was written is [out, out + size()); the body's pieces
    // follow it.
    void finish(const KeyId &id);

    std::size_t size() const { return static_cast<std::size_t>(next_ - out_); }

private:
    unsigned char *out_;
    unsigned char *next_;
    std::uint16_t count_ = 0;
    std::uint32_t body_length_ = 0;
    std::uint32_t body_checksum_;
};

enum class RecordFault {
    none,
    truncated,  // shorter than it says, or longer
    foreign,    // not a record of this module
    sealed,     // it is to be opened first (core/key_ring.h)
    newer,      // of a version that this code does not know
    corrupt,    // the checksum or a field is wrong, or it is another key's
};

const char *describe(RecordFault fault);

// A decoded record; the views are into the bytes it was read from.
struct Record {
    RecordHead head;
    std::uint16_t status = 0;
    std::uint16_t header_count = 0;
    std::string_view status_line;
    std::string_view fields;  // the headers, for a HeaderCursor
    std::string_view body;
};

// Reads bytes that nobody vouches for, found under the key `id`.  After `none`
// every view lies within `bytes`, the headers can be walked to their end, and no
// name or value holds a byte that could end a line of HTTP.
RecordFault read_record(std::string_view bytes, const KeyId &id, Record &record);

// Walks the headers of a record that was read without a fault.
class HeaderCursor {
public:
    explicit HeaderCursor(std::string_view fields) : rest_(fields) {}

    // False at the end, and where the rest is no header.
    bool next(Header &header);
    bool done() const { return rest_.empty(); }

private:
    std::string_view rest_;
};

}  // namespace idempotency
