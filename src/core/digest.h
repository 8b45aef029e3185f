// What the store knows a key and a request by.

#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>

#include <openssl/evp.h>

namespace idempotency {

// A SHA-256.  Trivial, so that it may lie in shared memory.
struct Digest {
    std::array<unsigned char, 32> bytes;

    std::string_view view() const
    {
        return {reinterpret_cast<const char *>(bytes.data()), bytes.size()};
    }
};

// Keys and fingerprints come from clients: a comparison's time tells nothing.
bool operator==(const Digest &a, const Digest &b);
inline bool operator!=(const Digest &a, const Digest &b) { return !(a == b); }

using KeyId = Digest;
using Fingerprint = Digest;

constexpr std::size_t kHexLength = 2 * sizeof(Digest);

// Writes kHexLength lower case digits.
void write_hex(const Digest &digest, char *out);

// Who a key belongs to.
struct Scope {
    bool global = false;  // `idempotency_scope off`
    std::string_view owner;
};

// A running SHA-256.  Every call is false once OpenSSL could not allocate.
class Sha256 {
public:
    // `method` is a fetched EVP_MD and outlives this object: fetching it by
    // name for each digest costs more than digesting a small request.
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

// The two digests of a request.  One object serves a whole process.
class Digester {
public:
    Digester();
    ~Digester();
    Digester(const Digester &) = delete;
    Digester &operator=(const Digester &) = delete;

    bool usable() const { return method_ != nullptr; }
    const EVP_MD *method() const { return method_; }

    // The length of the owner goes in too, so that no owner and key run
    // together into another pair; a global key meets no scoped one.
    bool key_id(const Scope &scope, std::string_view key, KeyId &out);

    // `body` has been fed the request's body and is finished by this; null
    // where the body does not count.  The value comes behind the body, and its
    // length at the end, so that one digest does for both, taken while the body
    // arrives, and no two pairs make the same bytes.
    bool fingerprint(std::string_view value, Sha256 *body, Fingerprint &out);

private:
    EVP_MD *method_;
    Sha256 sha_;
};

}  // namespace idempotency
