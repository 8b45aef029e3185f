// The encryption keys of a store, and the sealed record: a record that is encrypted and
// authenticated (AES-256-GCM) before it leaves nginx.
//
// Three keys are derived from the secret of a key file: a public tag, which says in a sealed
// record by which key it was sealed; a key that derives the stored id of an idempotency key,
// so that only the owner of the secret can compute it; and a key that derives, for each
// stored id, the key of the cipher.
//
// docs/format.md specifies all of it byte by byte.

#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include <openssl/evp.h>

#include "core/digest.h"
#include "core/key_file.h"
#include "core/record.h"

namespace idempotency {

constexpr std::size_t kMaxSealingKeys = 8;
constexpr std::size_t kNonceSize = 12;   // NIST SP 800-38D: 96 bits
constexpr std::size_t kGcmTagSize = 16;  // the longest one

// Bytes before the encrypted record: the clear bytes of the record, the key's tag, the nonce.
constexpr std::size_t kSealedHeadSize = kClearSize + 8 + kNonceSize;

// By how many bytes a sealed record is longer than the record in it: the id of the idempotency
// key is encrypted in front of the record.
constexpr std::size_t kSealOverhead = kSealedHeadSize + sizeof(KeyId) + kGcmTagSize;

// Why a value could not be opened.
enum class SealFault {
    none,
    foreign,      // not a record of this module
    plain,        // a record that is not sealed, and add_plain() was not called
    newer,        // a version that this code does not know
    truncated,    // too short
    unknown_key,  // sealed by a key that is not in the ring
    broken,       // authentication failed: it was changed, or belongs to another idempotency key
    failed,       // OpenSSL failed: no memory
};

// A text for a log line whose subject is the value ("is not sealed ...").
const char *describe(SealFault fault);

// A key of HMAC-SHA-256, padded and masked for the inner and for the outer digest
// (RFC 2104: K XOR ipad, K XOR opad).
struct HmacKey {
    std::array<unsigned char, 64> inner{};
    std::array<unsigned char, 64> outer{};
};

// The keys that are derived from one secret.  A plain key has no secret: it leaves ids and
// records as they are.
struct SealingKey {
    bool plain = false;
    std::array<unsigned char, 8> tag{};  // public; all 0 in a plain key
    HmacKey naming;                      // derives stored ids
    HmacKey sealing;                     // derives the cipher's key for a stored id
};

// Not thread-safe: one object holds one cipher context.
class KeyRing {
public:
    enum class AddResult { added, duplicate, too_many, failed };

    KeyRing();
    ~KeyRing();
    KeyRing(const KeyRing &) = delete;
    KeyRing &operator=(const KeyRing &) = delete;

    // The first key that is added seals.  Every key opens.
    AddResult add(const Secret &secret);

    // Adds the plain key, for a store that changes from plain records to sealed ones or back.
    // While it is in the ring, plain records can be opened too.
    AddResult add_plain();

    // The keys are sorted by their tags, whatever the order in which they were added: all
    // hosts go through the same keys in the same order.
    std::size_t count() const { return count_; }

    // Index of the key that seals.
    std::size_t sealing_index() const { return sealing_index_; }

    // Derives the id under which the store keeps the idempotency key `id`, by the key at
    // `index`.  False: OpenSSL failed.
    bool derive_stored_id(std::size_t index, const KeyId &id, KeyId &out);

    // By how many bytes the output of `seal` is longer than its input.
    std::size_t overhead() const { return keys_[sealing_index_].plain ? 0 : kSealOverhead; }

    // Writes the sealed record to `out`: overhead() bytes more than the pieces have.  The
    // pieces are one record; its head lies in the first piece.  `stored_id` is the id under
    // which the store keeps it, `id` the idempotency key.  False: there is no key, the first piece
    // is too short, or OpenSSL failed.
    bool seal(const KeyId &stored_id, const KeyId &id, const std::string_view *pieces,
              std::size_t count, unsigned char *out);

    // Decrypts `size` bytes in place.  After `none`, `record` is a view into `bytes`.  The
    // record of a claim gets the token that the store wrote into the clear bytes.  `id` is the
    // idempotency key; for a record that is not sealed it is `stored_id`.
    SealFault open(const KeyId &stored_id, unsigned char *bytes, std::size_t size,
                   std::string_view &record, KeyId &id);

private:
    struct AssociatedData;

    bool derive_keys(const Secret &secret, SealingKey &out);
    AddResult insert(const SealingKey &key);
    bool hmac(const HmacKey &key, std::string_view text, Digest &out);
    bool take_nonce(unsigned char *out);
    bool start_cipher(bool sealing, const SealingKey &key, const KeyId &stored_id,
                      const unsigned char *head);
    bool run_cipher(unsigned char *out, const unsigned char *in, std::size_t size);
    const SealingKey *find(const unsigned char *tag) const;
    SealFault open_plain(unsigned char *bytes, std::size_t size, std::string_view &record) const;

    EVP_CIPHER *cipher_;
    EVP_CIPHER_CTX *cipher_context_;
    EVP_MD *digest_;
    Sha256 sha_;
    bool usable_ = false;

    SealingKey keys_[kMaxSealingKeys];  // sorted by tag
    std::size_t count_ = 0;
    std::size_t sealing_index_ = 0;

    // Nonces in stock: one call of RAND_bytes takes longer than sealing a small record.
    unsigned char nonces_[16][kNonceSize];
    std::size_t nonces_left_ = 0;
};

}  // namespace idempotency
