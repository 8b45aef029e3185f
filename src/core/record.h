// The record of a key: what a store keeps under the key, the same bytes in every
// store.  docs/format.md specifies it byte by byte.
//
//     +------------------------+----------------------------+------------------+
//     | head (kRecordHeadSize) | extensions: type, length,  | body             |
//     | state, claim, token,   | data; in ascending order   | only in `kept`   |
//     | fingerprint, times     | of their types             |                  |
//     +------------------------+----------------------------+------------------+
//
// A reader skips an extension whose type it does not know, unless the type has the
// bit kMustUnderstand.  So a later version can add to a record what an older one
// does not need.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/digest.h"

namespace idempotency {

using Token = std::uint64_t;
using Millis = std::uint64_t;

enum class State : unsigned char {
    running = 'R',   // claimed: the request is at the application, or the worker has died
    unknown = 'U',   // the request was sent and got no complete response
    kept = 'K',      // the response is in the record
    not_kept = 'N',  // the application has acted; its response could not be kept
    freed = 'F',     // an operator has freed the key: a new claim replaces this record, and the
                     // claim in it can't be renewed or settled any more
};

// A random number that names one claim.  The worker chooses it before it asks the
// store, so it can release a claim whose grant it never received.  Trivial, so that
// it may lie in shared memory.
struct ClaimId {
    std::array<unsigned char, 16> bytes;

    std::string_view view() const
    {
        return {reinterpret_cast<const char *>(bytes.data()), bytes.size()};
    }

    bool operator==(const ClaimId &other) const { return bytes == other.bytes; }
    bool operator!=(const ClaimId &other) const { return bytes != other.bytes; }
};

// The first bytes of every value, of a record as it is or of a sealed one.
constexpr unsigned char kRecordMagic[] = {'I', 'D', 'M'};
constexpr std::size_t kVersionOffset = 3;
constexpr unsigned char kPlainVersion = 1;
constexpr unsigned char kSealedVersion = 2;

bool has_record_magic(std::string_view bytes);

// The offsets that others than the codec need.  A sealed record begins with the same
// kClearSize bytes: the scripts of Redis compare state and claim with one GETRANGE, write
// the token when they grant a claim, and read the lifetime.
constexpr std::size_t kStateOffset = 7;
constexpr std::size_t kClaimOffset = 8;
constexpr std::size_t kTokenOffset = 24;
constexpr std::size_t kLifetimeOffset = 32;
constexpr std::size_t kClearSize = 40;
constexpr std::size_t kFingerprintOffset = 40;
constexpr std::size_t kRecordHeadSize = 100;

static_assert(kClaimOffset == kStateOffset + 1, "state and claim are read with one GETRANGE");
static_assert(kTokenOffset == kClaimOffset + sizeof(ClaimId), "the token follows the claim");
static_assert(kLifetimeOffset == kTokenOffset + sizeof(Token), "the lifetime follows the token");
static_assert(kClearSize == kLifetimeOffset + sizeof(Millis), "the lifetime ends the clear bytes");

// The head of a record, which is the same in all states.
struct RecordHead {
    State state = State::running;

    // `idempotency_unknown hold TIME`: duplicates get a Retry-After header with what is left
    // of the hold.
    bool tells_hold = false;

    ClaimId claim{};
    Token token = 0;  // 0 in a claim that the store has not granted yet
    Fingerprint fingerprint{};
    Millis since = 0;     // the store's clock (Unix time) when the state was reached; 0 in a claim
    Millis lifetime = 0;  // how long the store keeps this value; of a claim: lease + hold

    // Of a claim: how long its outcome is held as unknown once its lease has expired.
    // So the lease has expired when the store has at most `hold` left of the lifetime.
    Millis hold = 0;
};

// How long ago the value was written, by the store's clock.  `remaining` is what the store says is
// left of its lifetime.
inline Millis age_of(const RecordHead &head, Millis remaining)
{
    return head.lifetime > remaining ? head.lifetime - remaining : 0;
}

enum class ExtensionType : std::uint16_t {
    response = 1,   // status and header fields; always in `kept`, and only there
    holder = 2,     // host and worker that made the claim
    hops = 3,       // core/hops.h; in `kept`, if internal redirects have led to the response
    scope_tag = 4,  // whose key it is (Digester::scope_tag); in an outcome, if there is a scope
};

// Types that later versions define, so that their numbers are not used for anything
// else: trace id = 5; with kMustUnderstand: chunks = 1.
constexpr std::uint16_t kMustUnderstand = 0x8000;

constexpr std::size_t kExtensionHeadSize = 2 + 4;  // type, length

// Who made a claim, for people who look into a store.
struct Holder {
    std::uint32_t worker = 0;  // process id
    std::string_view host;     // at most kLongestHost bytes are written
};

constexpr std::size_t kScopeTagExtension = kExtensionHeadSize + kScopeTagSize;

constexpr std::size_t kLongestHost = 64;
constexpr std::size_t kLargestClaim = kRecordHeadSize + kExtensionHeadSize + 4 + kLongestHost;

// Flags of a header field.
constexpr unsigned char kHeaderFromSlot = 0x01;  // nginx made it from headers_out.location etc.
constexpr unsigned char kTrailer = 0x02;         // sent after the body
constexpr unsigned char kHeaderFlags = kHeaderFromSlot | kTrailer;

struct Header {
    std::string_view name;
    std::string_view value;
    unsigned char flags = 0;
};

// Whether a record can hold the header field: the name is not empty and has no colon,
// and neither name nor value has a CR or LF.  All else that nginx passes on is allowed,
// such as names that are no token (RFC 9110, section 5.6.2).  Writer and reader ask the
// same function, so what is written can be read.
bool can_hold(const Header &header);

// How many bytes the response extension takes, and whether a record can hold it.
class ResponseSizer {
public:
    ResponseSizer(unsigned status, std::string_view status_line);

    void add(const Header &header);

    bool fits() const { return fits_; }
    std::size_t size() const { return size_; }  // with the extension's head
    std::uint16_t count() const { return count_; }

private:
    bool fits_;
    std::size_t size_;
    std::uint16_t count_ = 0;
};

// Writes a record up to its body, in this order: the head (constructor), then either
// `add_holder` or, in a kept record, `start_response`, `add`... and `add_hops`; then
// `add_scope_tag`, in a kept record `add_body`..., and `finish`.  `out` belongs to the caller and
// has space for kLargestClaim bytes or, in a kept record, kRecordHeadSize +
// ResponseSizer::size() + size_of_hops() + kScopeTagExtension.
class RecordWriter {
public:
    RecordWriter(unsigned char *out, const RecordHead &head);

    void add_holder(const Holder &holder);

    // What is added has to fit, as a ResponseSizer has found out.
    void start_response(std::uint16_t status, std::string_view status_line);
    void add(const Header &header);

    // What a HopWriter has written.  Nothing for an empty view.
    void add_hops(std::string_view hops);

    // Nothing for an empty view, else kScopeTagSize bytes.
    void add_scope_tag(std::string_view tag);

    // The body stays where it is; only its length and checksum go into the record.
    void add_body(std::string_view piece);

    // Writes lengths and checksum.  `id` is the key's.  The record is
    // [out, out + size()), then the pieces of the body.
    void finish(const KeyId &id);

    std::size_t size() const { return static_cast<std::size_t>(next_ - out_); }

private:
    unsigned char *start_extension(ExtensionType type);
    void finish_response();

    unsigned char *out_;
    unsigned char *next_;
    unsigned char *response_ = nullptr;  // the data of that extension
    std::uint16_t count_ = 0;
    std::uint32_t body_length_ = 0;
    std::uint32_t body_checksum_ = 0;
};

inline std::size_t size_of_hops(std::string_view hops)
{
    return hops.empty() ? 0 : kExtensionHeadSize + hops.size();
}

enum class RecordFault {
    none,
    truncated,  // shorter than it says, or longer
    foreign,    // not a record of this module
    sealed,     // it has to be opened first (core/key_ring.h)
    newer,      // of a version, or with an extension, that this code does not know
    corrupt,    // the checksum or a field is wrong, or it belongs to another key
};

const char *describe(RecordFault fault);

// A decoded record.  The views point into the bytes it was read from.
struct Record {
    RecordHead head;
    Holder holder;
    std::uint16_t status = 0;
    std::uint16_t header_count = 0;
    std::string_view status_line;
    std::string_view fields;     // the header fields, for a HeaderCursor
    std::string_view hops;       // for a HopCursor; empty if there are none
    std::string_view scope_tag;  // empty if there is none
    std::string_view body;
};

// Reads bytes that were found under the key `id` and that may be anything.  After
// `none`: every view lies within `bytes`, the header fields can be walked to their end,
// and `can_hold` is true for each.
RecordFault read_record(std::string_view bytes, const KeyId &id, Record &record);

// Walks the header fields of a record that was read without a fault.
class HeaderCursor {
public:
    explicit HeaderCursor(std::string_view fields) : rest_(fields) {}

    // False at the end, and if the rest is no header field.
    bool next(Header &header);
    bool done() const { return rest_.empty(); }

private:
    std::string_view rest_;
};

// State and claim of a record, as one piece of its bytes: Call::seen.
std::string_view seen_part(std::string_view record);

// The head of a value that is known to be at least kRecordHeadSize long.
State state_of(std::string_view value);
ClaimId claim_of(std::string_view value);
Token token_of(std::string_view value);

// RecordHead::hold.  0 if the value is a sealed record: its hold is encrypted.
Millis hold_of(std::string_view value);

}  // namespace idempotency
