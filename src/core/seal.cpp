#include "core/seal.h"

#include <algorithm>
#include <cstring>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/kdf.h>
#include <openssl/rand.h>

#include "core/openssl.h"
#include "core/record.h"
#include "core/wire.h"

namespace idempotency {

namespace {

constexpr std::size_t kTagOffset = 16;
constexpr std::size_t kNonceOffset = 24;
constexpr std::size_t kProofSize = 16;

static_assert(kNonceOffset + kNonceSize == kSealedHeadSize, "the nonce ends the clear bytes");
static_assert(kSealedHeadSize + kProofSize == kSealedExtra, "the proof comes last");

// OpenSSL counts in int.
constexpr std::size_t kLargestUpdate = 1 << 30;

constexpr const char *kWanted =
    "a key of 32 random bytes is needed: as 64 hexadecimal digits, in base64, or as they are; "
    "\"openssl rand -hex 32\" makes one";

int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }

    c = static_cast<char>(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool read_hex(std::string_view text, Secret &out)
{
    for (std::size_t i = 0; i < kSecretSize; i++) {
        int high = hex_value(text[2 * i]);
        int low = hex_value(text[2 * i + 1]);

        if (high < 0 || low < 0) {
            return false;
        }

        out.bytes[i] = static_cast<unsigned char>(high << 4 | low);
    }

    return true;
}

// 43 digits and one `=`.
bool read_base64(std::string_view text, Secret &out)
{
    unsigned char room[kSecretSize + 1];
    bool read = text[42] != '=' && text[43] == '='
                && EVP_DecodeBlock(room, wire::octets(text), static_cast<int>(text.size()))
                       == static_cast<int>(sizeof(room));

    if (read) {
        std::memcpy(out.bytes.data(), room, kSecretSize);
    }

    OPENSSL_cleanse(room, sizeof(room));
    return read;
}

// 32 characters are a password, or 16 bytes in hexadecimal: no 32 random bytes.
bool is_text(std::string_view bytes)
{
    return std::all_of(bytes.begin(), bytes.end(), [](char c) {
        return (c >= ' ' && c <= '~') || c == '\n' || c == '\r' || c == '\t';
    });
}

std::string_view without_line_end(std::string_view text)
{
    if (!text.empty() && text.back() == '\n') {
        text.remove_suffix(1);
    }
    if (!text.empty() && text.back() == '\r') {
        text.remove_suffix(1);
    }

    return text;
}

}  // namespace

Secret::~Secret() { OPENSSL_cleanse(bytes.data(), bytes.size()); }

const char *read_secret(std::string_view file, Secret &out)
{
    if (file.size() == kSecretSize && !is_text(file)) {
        std::memcpy(out.bytes.data(), file.data(), kSecretSize);
        return nullptr;
    }

    std::string_view line = without_line_end(file);

    return (line.size() == 2 * kSecretSize && read_hex(line, out))
                   || (line.size() == 44 && read_base64(line, out))
               ? nullptr
               : kWanted;
}

const char *describe(SealFault fault)
{
    switch (fault) {
    case SealFault::none:
        return "is sound";
    case SealFault::foreign:
        return "is not a record of this module";
    case SealFault::plain:
        return "is not sealed, as all that this store keeps is";
    case SealFault::newer:
        return "is of a format that this version does not know";
    case SealFault::truncated:
        return "is too short for a record";
    case SealFault::unknown_key:
        return "was sealed with a key that is not among \"encryption_key_file\"";
    case SealFault::broken:
        return "does not open: it was changed, or is of another key";
    case SealFault::failed:
        return "could not be opened: OpenSSL failed";
    }

    return "is of an unknown kind";
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

// RFC 2104.
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

// HKDF without a salt: the secret is random already.
bool KeyRing::derive(const Secret &secret, SealingKey &out)
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

KeyRing::Added KeyRing::add(const Secret &secret)
{
    SealingKey key;
    Added added = usable_ && derive(secret, key) ? insert(key) : Added::failed;

    OPENSSL_cleanse(&key, sizeof(key));
    return added;
}

KeyRing::Added KeyRing::add_plain()
{
    SealingKey key;

    key.plain = true;
    return insert(key);
}

KeyRing::Added KeyRing::insert(const SealingKey &key)
{
    if (count_ == kMostSealingKeys) {
        return Added::too_many;
    }

    if (find(key.tag.data()) != nullptr) {
        return Added::twice;
    }

    SealingKey *place = std::find_if(keys_, keys_ + count_,
                                     [&](const SealingKey &other) { return key.tag < other.tag; });
    auto nth = static_cast<std::size_t>(place - keys_);

    std::move_backward(place, keys_ + count_, keys_ + count_ + 1);
    *place = key;

    if (count_ > 0 && nth <= first_) {
        first_++;
    }

    count_++;
    return Added::yes;
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

// Two digests cost half of what OpenSSL's HMAC does, which takes its key anew
// each time.
bool KeyRing::hmac(const HmacKey &key, std::string_view text, Digest &out)
{
    return sha_.restart() && sha_.update(wire::view(key.inner.data(), key.inner.size()))
           && sha_.update(text) && sha_.finish(out) && sha_.restart()
           && sha_.update(wire::view(key.outer.data(), key.outer.size())) && sha_.update(out.view())
           && sha_.finish(out);
}

bool KeyRing::identify(std::size_t nth, const KeyId &id, KeyId &out)
{
    if (keys_[nth].plain) {
        out = id;
        return true;
    }

    return hmac(keys_[nth].naming, id.view(), out);
}

// A process that forks would hand out its nonces twice.  A worker does not, and
// nothing is sealed before there are workers.
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

struct KeyRing::Associated {
    unsigned char bytes[kTokenOffset + sizeof(SealingKey::tag) + sizeof(Digest)];

    // The token stays out: a store writes it into a claim itself.
    Associated(const unsigned char *head, const KeyId &stored_id)
    {
        std::memcpy(bytes, head, kTokenOffset);
        std::memcpy(bytes + kTokenOffset, head + kTagOffset, sizeof(SealingKey::tag));
        std::memcpy(bytes + kTokenOffset + sizeof(SealingKey::tag), stored_id.bytes.data(),
                    sizeof(Digest));
    }
};

// Random nonces of 96 bits are good for 2^32 records under one key: so each
// idempotency key has a key of its own for its records.
bool KeyRing::start(bool sealing, const SealingKey &key, const KeyId &stored_id,
                    const unsigned char *head)
{
    Digest record_key;
    Associated associated(head, stored_id);
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

bool KeyRing::run(unsigned char *out, const unsigned char *in, std::size_t size)
{
    while (size > 0) {
        std::size_t n = std::min(size, kLargestUpdate);
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

bool KeyRing::seal(const KeyId &stored_id, const std::string_view *pieces, std::size_t count,
                   unsigned char *out)
{
    const SealingKey &key = keys_[first_];
    unsigned char *next = out + kSealedHeadSize;
    unsigned char end[1];
    int size;

    if (count_ == 0 || count == 0 || pieces[0].size() < kTokenOffset + kTokenSize) {
        return false;
    }

    if (key.plain) {
        join(pieces, count, out);
        return true;
    }

    std::memcpy(out, pieces[0].data(), kTokenOffset + kTokenSize);
    out[kVersionOffset] = kSealedVersion;
    std::memcpy(out + kTagOffset, key.tag.data(), key.tag.size());

    if (!take_nonce(out + kNonceOffset) || !start(true, key, stored_id, out)) {
        return false;
    }

    for (std::size_t i = 0; i < count; i++) {
        if (!run(next, wire::octets(pieces[i]), pieces[i].size())) {
            return false;
        }

        next += pieces[i].size();
    }

    return checked(EVP_CipherFinal_ex(cipher_context_, end, &size) == 1
                   && EVP_CIPHER_CTX_ctrl(cipher_context_, EVP_CTRL_AEAD_GET_TAG, kProofSize, next)
                          == 1);
}

SealFault KeyRing::open_plain(unsigned char *bytes, std::size_t size,
                              std::string_view &record) const
{
    static constexpr unsigned char tag[sizeof(SealingKey::tag)] = {};

    if (find(tag) == nullptr) {
        return SealFault::plain;
    }

    record = wire::view(bytes, size);
    return size < kRecordHeadSize ? SealFault::truncated : SealFault::none;
}

SealFault KeyRing::open(const KeyId &stored_id, unsigned char *bytes, std::size_t size,
                        std::string_view &record)
{
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

    if (size < kRecordHeadSize + kSealedExtra) {
        return SealFault::truncated;
    }

    const SealingKey *key = find(bytes + kTagOffset);

    if (key == nullptr || key->plain) {
        return SealFault::unknown_key;
    }

    unsigned char *inside = bytes + kSealedHeadSize;
    std::size_t length = size - kSealedExtra;
    unsigned char end[1];
    int none;

    if (!start(false, *key, stored_id, bytes) || !run(inside, inside, length)
        || !checked(
            EVP_CIPHER_CTX_ctrl(cipher_context_, EVP_CTRL_AEAD_SET_TAG, kProofSize, inside + length)
            == 1))
    {
        return SealFault::failed;
    }

    if (!checked(EVP_CipherFinal_ex(cipher_context_, end, &none) == 1)) {
        return SealFault::broken;
    }

    // a claim has the token that the store gave, all else the one that it was sealed with
    if (bytes[kStateOffset] == static_cast<unsigned char>(State::running)) {
        std::memcpy(inside + kTokenOffset, bytes + kTokenOffset, kTokenSize);

    } else if (std::memcmp(inside + kTokenOffset, bytes + kTokenOffset, kTokenSize) != 0) {
        return SealFault::broken;
    }

    record = wire::view(inside, length);
    return SealFault::none;
}

}  // namespace idempotency
