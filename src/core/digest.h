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

// The owner of a key: keys of two owners are different keys.
struct Scope {
    bool global = false;  // `idempotency_scope off`
    std::string_view owner;
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

// Computes the two digests of a request.  One object serves a whole process.
class Digester {
public:
    Digester();
    ~Digester();
    Digester(const Digester &) = delete;
    Digester &operator=(const Digester &) = delete;

    bool usable() const { return method_ != nullptr; }
    const EVP_MD *method() const { return method_; }

    // The id of a key: SHA-256 of 'G' (global) or 'S' (scoped), the length of the owner (8 bytes,
    // big-endian), the owner and the key.  Two pairs of owner and key never give the same bytes.
    bool key_id(const Scope &scope, std::string_view key, KeyId &out);

    // The fingerprint of a request: SHA-256 of the body, `value`, its length (8 bytes, big-endian)
    // and 'B'; without a body, 'V' instead.  The body comes first, so that it can be digested while
    // it arrives: `body` is the digest of all of it, which this function finishes.  Null: the
    // fingerprint does not include the body.  Two pairs never give the same bytes.
    bool fingerprint(std::string_view value, Sha256 *body, Fingerprint &out);

private:
    EVP_MD *method_;
    Sha256 sha_;
};

}  // namespace idempotency
