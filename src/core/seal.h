// Records that are sealed before they leave nginx: AES-256-GCM, under keys that
// come from files, and under identities that only who has a key can compute.
//
// docs/format.md specifies it byte by byte.

#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include <openssl/evp.h>

#include "core/digest.h"

namespace idempotency {

constexpr std::size_t kSecretSize = 32;
constexpr std::size_t kNonceSize = 12;
constexpr std::size_t kMostSealingKeys = 8;

// A sealed record's clear bytes, and all that it is longer than the record.
constexpr std::size_t kSealedHeadSize = 36;
constexpr std::size_t kSealedExtra = kSealedHeadSize + 16;

// What a key file holds.  Gone from memory with the object.
struct Secret {
    std::array<unsigned char, kSecretSize> bytes{};

    Secret() = default;
    ~Secret();
    Secret(const Secret &) = delete;
    Secret &operator=(const Secret &) = delete;
};

// Reads the contents of a key file.  Null, or what is wrong with them.
const char *read_secret(std::string_view file, Secret &out);

enum class SealFault {
    none,
    foreign,      // not a record of this module
    plain,        // a record that was never sealed
    newer,        // of a version that this code does not know
    truncated,    // too short
    unknown_key,  // none of the keys has sealed it
    broken,       // changed since, or of another key
    failed,       // OpenSSL could not go on: there is no memory
};

const char *describe(SealFault fault);

// A key of HMAC-SHA-256, as it goes into the inner and into the outer digest.
struct HmacKey {
    std::array<unsigned char, 64> inner{};
    std::array<unsigned char, 64> outer{};
};

// What is made of one secret.  The one that is plain is none: its identities are
// those that there are, and what it seals stays as it is.
struct SealingKey {
    bool plain = false;
    std::array<unsigned char, 8> tag{};  // public: tells which key sealed a record
    HmacKey naming;                      // makes identities
    HmacKey sealing;                     // makes the key of a record
};

// The keys of a store, and what is done with them.  Not for two threads.
class KeyRing {
public:
    enum class Added { yes, twice, too_many, failed };

    KeyRing();
    ~KeyRing();
    KeyRing(const KeyRing &) = delete;
    KeyRing &operator=(const KeyRing &) = delete;

    // The first key that is added seals, each of them opens.
    Added add(const Secret &secret);

    // In the place of a key, while a store that did not seal begins to, or one
    // that did ceases to.  With it, a record that is not sealed opens too.
    Added add_plain();

    std::size_t count() const { return count_; }

    // The place of the key that seals, in the order that the keys have wherever
    // they are used: that of their tags, whatever the order of the files.
    std::size_t first() const { return first_; }

    // The identity that the `nth` key in that order gives to the key `id`.
    bool identify(std::size_t nth, const KeyId &id, KeyId &out);

    // How much longer than a record what is sealed of it is.
    std::size_t extra() const { return keys_[first_].plain ? 0 : kSealedExtra; }

    // Writes extra() bytes more than the pieces have.  They are one record, whose
    // head is in the first piece; `stored_id` is the identity it is kept under.
    bool seal(const KeyId &stored_id, const std::string_view *pieces, std::size_t count,
              unsigned char *out);

    // Opens the `size` bytes in place.  `record` is then a part of them, with the
    // token that the store gave.
    SealFault open(const KeyId &stored_id, unsigned char *bytes, std::size_t size,
                   std::string_view &record);

private:
    // What is authenticated beside the record.
    struct Associated;

    bool derive(const Secret &secret, SealingKey &out);
    Added insert(const SealingKey &key);
    bool hmac(const HmacKey &key, std::string_view text, Digest &out);
    bool take_nonce(unsigned char *out);
    bool start(bool sealing, const SealingKey &key, const KeyId &stored_id,
               const unsigned char *head);
    bool run(unsigned char *out, const unsigned char *in, std::size_t size);
    const SealingKey *find(const unsigned char *tag) const;
    SealFault open_plain(unsigned char *bytes, std::size_t size, std::string_view &record) const;

    EVP_CIPHER *cipher_;
    EVP_CIPHER_CTX *cipher_context_;
    EVP_MD *digest_;
    Sha256 sha_;
    bool usable_ = false;

    SealingKey keys_[kMostSealingKeys];  // in the order of their tags
    std::size_t count_ = 0;
    std::size_t first_ = 0;

    // OpenSSL takes longer to give 12 random bytes than to seal a small record.
    unsigned char nonces_[16][kNonceSize];
    std::size_t nonces_left_ = 0;
};

}  // namespace idempotency
