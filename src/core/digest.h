// The digests by which a store knows an idempotency key, and a claim its request.

#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>

#include <openssl/evp.h>

namespace idempotency {

// A SHA-256 digest.  Trivial, because it lies in shared memory.
struct Digest {
    std::array<unsigned char, 32> bytes;

    std::string_view view() const
    {
        return {reinterpret_cast<const char *>(bytes.data()), bytes.size()};
    }
};

// In constant time: clients choose keys and requests, and must not learn anything from the time of
// a comparison.
bool operator==(const Digest &a, const Digest &b);
inline bool operator!=(const Digest &a, const Digest &b) { return !(a == b); }

using KeyId = Digest;
using Fingerprint = Digest;

constexpr std::size_t kHexLength = 2 * sizeof(Digest);

// Writes kHexLength lower case digits to `out`, without a NUL.
void write_hex(const Digest &digest, char *out);

// Reads kHexLength hexadecimal digits.  False: `text` is something else.
bool parse_hex(std::string_view text, Digest &out);

// The first byte of the digest input of a key id.  Keys of two kinds are different keys.
enum class ScopeKind : char {
    parts = 'S',   // the values of `idempotency_scope`
    global = 'G',  // `idempotency_scope off`

    // the same with `observe`
    observed_parts = 's',
    observed_global = 'g',
};

// Bytes of the scope tag of a record.
constexpr std::size_t kScopeTagSize = 16;

constexpr std::size_t kMaxScopeParts = 255;  // the number of a part is one byte

// Equal keys of two scopes are different keys.  `parts` points to `count` values, which the caller
// owns; a global scope has none.
struct Scope {
    ScopeKind kind;
    const std::string_view *parts;
    std::size_t count;
};

// Computes SHA-256 digests, one after the other: restart, update ..., finish.  After a call that
// returned false - OpenSSL has no memory -, all are false until the next successful `restart`.
class Sha256 {
public:
    // `method` comes from EVP_MD_fetch and must outlive this object.  To fetch it for each digest
    // would take longer than the digest of a small request.
    explicit Sha256(const EVP_MD *method);
    ~Sha256();
    Sha256(const Sha256 &) = delete;
    Sha256 &operator=(const Sha256 &) = delete;

    bool restart();
    bool update(std::string_view bytes);
    bool finish(Digest &out);

private:
    const EVP_MD *method_;
    EVP_MD_CTX *context_;
    bool running_ = false;
};

// The media type in the value of a Content-Type header: type and subtype, without parameters
// (RFC 9110, section 8.3.1).  A part of `content_type`: case and spaces stay as they are.
std::string_view media_type(std::string_view content_type);

// Starts the digest of a request body for a fingerprint: the length of the media type (8 bytes,
// big-endian), the media type, and the same for the content codings.  Both are case-insensitive,
// and spaces and tabs in them are not digested.  `media_type` has no parameters; `content_encoding`
// is a list with commas (RFC 9110, section 8.4).  False if OpenSSL has no memory.
bool start_body_digest(Sha256 &sha, std::string_view media_type, std::string_view content_encoding);

// Computes the two digests of a request.  One object serves a whole process.
class Digester {
public:
    Digester();
    ~Digester();
    Digester(const Digester &) = delete;
    Digester &operator=(const Digester &) = delete;

    bool usable() const { return method_ != nullptr; }
    const EVP_MD *method() const { return method_; }

    // The id of a key: SHA-256 of the kind of the scope, each part (its number, which is one byte
    // and begins with 1; its length, 8 bytes, big-endian; its value), 'K' and the key.  At most
    // kMaxScopeParts parts.
    //
    // Two pairs of scope and key never give the same bytes.  'K' is the number of part 75 too, but
    // the byte after the number is 0, the first byte of a length, and a key has no byte 0 (key.h).
    bool key_id(const Scope &scope, std::string_view key, KeyId &out);

    // Writes the scope tag of a record, kScopeTagSize bytes (record.h): the beginning of the
    // SHA-256 of 'T', the id of the key (32 bytes) and the kind and the parts of the scope, as in
    // `key_id`.  It is keyed with the id: tags of one scope differ, and nobody can compute the
    // tags of a guessed scope once for all keys.
    bool scope_tag(const Scope &scope, const KeyId &id, unsigned char *out);

    // The fingerprint of a request: SHA-256 of the body, `value`, its length (8 bytes, big-endian)
    // and 'B'; without a body, 'V' instead.  The body comes first, so that it can be digested while
    // it arrives: `body` is the digest that start_body_digest started and that has all of the body;
    // this function finishes it.  Null: the fingerprint does not include the body.  Two requests
    // that differ never give the same bytes.
    bool fingerprint(std::string_view value, Sha256 *body, Fingerprint &out);

private:
    bool add_scope(const Scope &scope);

    EVP_MD *method_;
    Sha256 sha_;
};

}  // namespace idempotency
