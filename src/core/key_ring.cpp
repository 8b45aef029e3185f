#include "core/key_ring.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/kdf.h>
#include <openssl/rand.h>

#include "core/openssl.h"
#include "core/wire.h"

namespace idempotency {

namespace {

// The first kClearSize bytes of the record, with another version byte, then the key's tag and
// the nonce.  The encrypted record and the tag of GCM follow.
constexpr std::size_t kTagOffset = kClearSize;
constexpr std::size_t kNonceOffset = kTagOffset + sizeof(SealingKey::tag);

static_assert(kSealedHeadSize == kNonceOffset + kNonceSize, "the nonce ends the clear bytes");

// EVP_CipherUpdate takes an int.
constexpr std::size_t kMaxUpdate = 1 << 30;

static_assert(kMaxUpdate <= std::numeric_limits<int>::max(), "EVP_CipherUpdate takes an int");

}  // namespace

const char *describe(SealFault fault)
{
    switch (fault) {
    case SealFault::none:
        return "is valid";
    case SealFault::foreign:
        return "is not a record of this module";
    case SealFault::plain:
        return "is not sealed, but this store accepts only sealed records";
    case SealFault::newer:
        return "has a format that this version of the module does not know";
    case SealFault::truncated:
        return "is too short for a record";
    case SealFault::unknown_key:
        return "was sealed with a key that is not among \"encryption_key_file\"";
    case SealFault::broken:
        return "does not open: it was changed, or is of another key";
    case SealFault::failed:
        return "could not be opened: OpenSSL failed";
    }

    return "has an unknown fault";
}

KeyRing::KeyRing()
    : cipher_(EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr)),
      cipher_context_(EVP_CIPHER_CTX_new()), digest_(EVP_MD_fetch(nullptr, "SHA256", nullptr)),
      sha_(digest_)
{
    usable_ =
        checked(cipher_ != nullptr && cipher_context_ != nullptr && digest_ != nullptr
                && EVP_CipherInit_ex(cipher_context_, cipher_, nullptr, nullptr, nullptr, 1) == 1);
}

KeyRing::~KeyRing()
{
    EVP_CIPHER_CTX_free(cipher_context_);
    EVP_CIPHER_free(cipher_);
    EVP_MD_free(digest_);
    OPENSSL_cleanse(keys_, sizeof(keys_));
    OPENSSL_cleanse(nonces_, sizeof(nonces_));
}

namespace {

// RFC 2104, section 2.  The key is shorter than a block and is padded with zeros.
HmacKey hmac_key(const Digest &key)
{
    HmacKey out;

    out.inner.fill(0x36);
    out.outer.fill(0x5c);

    for (std::size_t i = 0; i < key.bytes.size(); i++) {
        out.inner[i] ^= key.bytes[i];
        out.outer[i] ^= key.bytes[i];
    }

    return out;
}

}  // namespace

// HKDF-SHA-256 (RFC 5869) without a salt: the secret is random already.
bool KeyRing::derive_keys(const Secret &secret, SealingKey &out)
{
    struct Part {
        const char *purpose;
        unsigned char *out;
        std::size_t size;
    };

    Digest naming, sealing;
    const Part parts[] = {
        {"ngx_http_idempotency_module key tag", out.tag.data(), out.tag.size()},
        {"ngx_http_idempotency_module naming", naming.bytes.data(), naming.bytes.size()},
        {"ngx_http_idempotency_module sealing", sealing.bytes.data(), sealing.bytes.size()},
    };

    char sha256[] = "SHA256";
    EVP_KDF *kdf = EVP_KDF_fetch(nullptr, "HKDF", nullptr);
    EVP_KDF_CTX *context = kdf != nullptr ? EVP_KDF_CTX_new(kdf) : nullptr;
    bool derived = context != nullptr;

    for (const Part &part : parts) {
        OSSL_PARAM parameters[] = {
            OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, sha256, 0),
            OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY,
                                              const_cast<unsigned char *>(secret.bytes.data()),
                                              secret.bytes.size()),
            OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, const_cast<char *>(part.purpose),
                                              std::strlen(part.purpose)),
            OSSL_PARAM_construct_end(),
        };

        if (derived) {
            EVP_KDF_CTX_reset(context);
            derived = EVP_KDF_derive(context, part.out, part.size, parameters) == 1;
        }
    }

    if (derived) {
        out.naming = hmac_key(naming);
        out.sealing = hmac_key(sealing);
    }

    OPENSSL_cleanse(&naming, sizeof(naming));
    OPENSSL_cleanse(&sealing, sizeof(sealing));
    EVP_KDF_CTX_free(context);
    EVP_KDF_free(kdf);
    return checked(derived);
}

KeyRing::AddResult KeyRing::add(const Secret &secret)
{
    SealingKey key;
    AddResult result = usable_ && derive_keys(secret, key) ? insert(key) : AddResult::failed;

    OPENSSL_cleanse(&key, sizeof(key));
    return result;
}

KeyRing::AddResult KeyRing::add_plain()
{
    SealingKey key;

    key.plain = true;
    return insert(key);
}

KeyRing::AddResult KeyRing::insert(const SealingKey &key)
{
    if (count_ == kMaxSealingKeys) {
        return AddResult::too_many;
    }

    if (find(key.tag.data()) != nullptr) {
        return AddResult::duplicate;
    }

    SealingKey *place = std::find_if(keys_, keys_ + count_,
                                     [&](const SealingKey &other) { return key.tag < other.tag; });
    auto index = static_cast<std::size_t>(place - keys_);

    std::move_backward(place, keys_ + count_, keys_ + count_ + 1);
    *place = key;

    if (count_ > 0 && index <= sealing_index_) {
        sealing_index_++;
    }

    count_++;
    return AddResult::added;
}

const SealingKey *KeyRing::find(const unsigned char *tag) const
{
    for (std::size_t i = 0; i < count_; i++) {
        if (std::memcmp(keys_[i].tag.data(), tag, keys_[i].tag.size()) == 0) {
            return &keys_[i];
        }
    }

    return nullptr;
}

// Two digests take half the time of OpenSSL's HMAC, which sets up its key in each call.
bool KeyRing::hmac(const HmacKey &key, std::string_view text, Digest &out)
{
    return sha_.restart() && sha_.update(wire::view(key.inner.data(), key.inner.size()))
           && sha_.update(text) && sha_.finish(out) && sha_.restart()
           && sha_.update(wire::view(key.outer.data(), key.outer.size())) && sha_.update(out.view())
           && sha_.finish(out);
}

bool KeyRing::derive_stored_id(std::size_t index, const KeyId &id, KeyId &out)
{
    if (keys_[index].plain) {
        out = id;
        return true;
    }

    return hmac(keys_[index].naming, id.view(), out);
}

// A fork would copy the stock, and both processes would use the same nonces.  A worker does
// not fork, and the master, which does, seals nothing.
bool KeyRing::take_nonce(unsigned char *out)
{
    if (nonces_left_ == 0) {
        if (!checked(RAND_bytes(nonces_[0], sizeof(nonces_)) == 1)) {
            return false;
        }

        nonces_left_ = sizeof(nonces_) / kNonceSize;
    }

    std::memcpy(out, nonces_[--nonces_left_], kNonceSize);
    return true;
}

struct KeyRing::AssociatedData {
    // the lifetime and the key's tag
    static constexpr std::size_t kAfterToken = kNonceOffset - kLifetimeOffset;

    unsigned char bytes[kTokenOffset + kAfterToken + sizeof(Digest)];

    // Without the token: the store writes it into the record of a claim.
    AssociatedData(const unsigned char *head, const KeyId &stored_id)
    {
        std::memcpy(bytes, head, kTokenOffset);
        std::memcpy(bytes + kTokenOffset, head + kLifetimeOffset, kAfterToken);
        std::memcpy(bytes + kTokenOffset + kAfterToken, stored_id.bytes.data(), sizeof(Digest));
    }
};

// Random nonces of 96 bits are safe for 2^32 records under one key (NIST SP 800-38D, section
// 8.3).  So the cipher gets another key for each stored id.
bool KeyRing::start_cipher(bool sealing, const SealingKey &key, const KeyId &stored_id,
                           const unsigned char *head)
{
    Digest record_key;
    AssociatedData associated(head, stored_id);
    int size;

    bool started = hmac(key.sealing, stored_id.view(), record_key)
                   && EVP_CipherInit_ex(cipher_context_, nullptr, nullptr, record_key.bytes.data(),
                                        head + kNonceOffset, sealing ? 1 : 0)
                          == 1
                   && EVP_CipherUpdate(cipher_context_, nullptr, &size, associated.bytes,
                                       sizeof(associated.bytes))
                          == 1;

    OPENSSL_cleanse(&record_key, sizeof(record_key));
    return checked(started);
}

bool KeyRing::run_cipher(unsigned char *out, const unsigned char *in, std::size_t size)
{
    while (size > 0) {
        std::size_t n = std::min(size, kMaxUpdate);
        int written;

        bool done = EVP_CipherUpdate(cipher_context_, out, &written, in, static_cast<int>(n)) == 1;

        if (!checked(done)) {
            return false;
        }

        out += n;
        in += n;
        size -= n;
    }

    return true;
}

namespace {

void join(const std::string_view *pieces, std::size_t count, unsigned char *out)
{
    for (std::size_t i = 0; i < count; i++) {
        if (!pieces[i].empty()) {
            std::memcpy(out, pieces[i].data(), pieces[i].size());
            out += pieces[i].size();
        }
    }
}

}  // namespace

bool KeyRing::seal(const KeyId &stored_id, const KeyId &id, const std::string_view *pieces,
                   std::size_t count, unsigned char *out)
{
    const SealingKey &key = keys_[sealing_index_];
    unsigned char *next = out + kSealedHeadSize;
    unsigned char end[1];
    int size;

    if (count_ == 0 || count == 0 || pieces[0].size() < kClearSize) {
        return false;
    }

    if (key.plain) {
        join(pieces, count, out);
        return true;
    }

    std::memcpy(out, pieces[0].data(), kClearSize);
    out[kVersionOffset] = kSealedVersion;
    std::memcpy(out + kTagOffset, key.tag.data(), key.tag.size());

    if (!take_nonce(out + kNonceOffset) || !start_cipher(true, key, stored_id, out)
        || !run_cipher(next, id.bytes.data(), sizeof(KeyId)))
    {
        return false;
    }

    next += sizeof(KeyId);

    for (std::size_t i = 0; i < count; i++) {
        if (!run_cipher(next, wire::octets(pieces[i]), pieces[i].size())) {
            return false;
        }

        next += pieces[i].size();
    }

    return checked(EVP_CipherFinal_ex(cipher_context_, end, &size) == 1
                   && EVP_CIPHER_CTX_ctrl(cipher_context_, EVP_CTRL_AEAD_GET_TAG, kGcmTagSize, next)
                          == 1);
}

SealFault KeyRing::open_plain(unsigned char *bytes, std::size_t size,
                              std::string_view &record) const
{
    static constexpr unsigned char plain_tag[sizeof(SealingKey::tag)] = {};

    if (find(plain_tag) == nullptr) {
        return SealFault::plain;
    }

    record = wire::view(bytes, size);
    return size < kRecordHeadSize ? SealFault::truncated : SealFault::none;
}

SealFault KeyRing::open(const KeyId &stored_id, unsigned char *bytes, std::size_t size,
                        std::string_view &record, KeyId &id)
{
    id = stored_id;

    if (!has_record_magic(wire::view(bytes, size))) {
        return SealFault::foreign;
    }

    if (size <= kVersionOffset) {
        return SealFault::truncated;
    }

    if (bytes[kVersionOffset] == kPlainVersion) {
        return open_plain(bytes, size, record);
    }

    if (bytes[kVersionOffset] != kSealedVersion) {
        return bytes[kVersionOffset] > kSealedVersion ? SealFault::newer : SealFault::broken;
    }

    if (size < kRecordHeadSize + kSealOverhead) {
        return SealFault::truncated;
    }

    const SealingKey *key = find(bytes + kTagOffset);

    if (key == nullptr || key->plain) {
        return SealFault::unknown_key;
    }

    unsigned char *raw_id = bytes + kSealedHeadSize;
    unsigned char *inside = raw_id + sizeof(KeyId);
    std::size_t length = size - kSealOverhead;
    unsigned char end[1];
    int none;

    if (!start_cipher(false, *key, stored_id, bytes)
        || !run_cipher(raw_id, raw_id, sizeof(KeyId) + length)
        || !checked(EVP_CIPHER_CTX_ctrl(cipher_context_, EVP_CTRL_AEAD_SET_TAG, kGcmTagSize,
                                        inside + length)
                    == 1))
    {
        return SealFault::failed;
    }

    if (!checked(EVP_CipherFinal_ex(cipher_context_, end, &none) == 1)) {
        return SealFault::broken;
    }

    // the store assigns the token of a claim; any other record has the token inside, too
    if (bytes[kStateOffset] == static_cast<unsigned char>(State::running)) {
        std::memcpy(inside + kTokenOffset, bytes + kTokenOffset, sizeof(Token));

    } else if (std::memcmp(inside + kTokenOffset, bytes + kTokenOffset, sizeof(Token)) != 0) {
        return SealFault::broken;
    }

    std::memcpy(id.bytes.data(), raw_id, sizeof(KeyId));
    record = wire::view(inside, length);
    return SealFault::none;
}

}  // namespace idempotency
