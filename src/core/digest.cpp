#include "core/digest.h"

#include <openssl/crypto.h>

#include "core/openssl.h"
#include "core/wire.h"

namespace idempotency {

bool operator==(const Digest &a, const Digest &b)
{
    return CRYPTO_memcmp(a.bytes.data(), b.bytes.data(), a.bytes.size()) == 0;
}

void write_hex(const Digest &digest, char *out)
{
    static constexpr char digits[] = "0123456789abcdef";

    for (unsigned char byte : digest.bytes) {
        *out++ = digits[byte >> 4];
        *out++ = digits[byte & 0xf];
    }
}

Sha256::Sha256(const EVP_MD *method) : method_(method), context_(EVP_MD_CTX_new()) {}

Sha256::~Sha256() { EVP_MD_CTX_free(context_); }

bool Sha256::restart()
{
    running_ = checked(context_ != nullptr && method_ != nullptr
                       && EVP_DigestInit_ex(context_, method_, nullptr) == 1);
    return running_;
}

bool Sha256::update(std::string_view bytes)
{
    running_ = running_ && checked(EVP_DigestUpdate(context_, bytes.data(), bytes.size()) == 1);
    return running_;
}

bool Sha256::finish(Digest &out)
{
    bool done = running_ && checked(EVP_DigestFinal_ex(context_, out.bytes.data(), nullptr) == 1);

    running_ = false;
    return done;
}

Digester::Digester() : method_(EVP_MD_fetch(nullptr, "SHA256", nullptr)), sha_(method_) {}

Digester::~Digester() { EVP_MD_free(method_); }

bool Digester::key_id(const Scope &scope, std::string_view key, KeyId &out)
{
    unsigned char head[9];

    head[0] = scope.global ? 'G' : 'S';
    wire::put_u64(head + 1, scope.owner.size());

    return sha_.restart() && sha_.update(wire::view(head, sizeof(head))) && sha_.update(scope.owner)
           && sha_.update(key) && sha_.finish(out);
}

bool Digester::fingerprint(std::string_view value, Sha256 *body, Fingerprint &out)
{
    unsigned char tail[9];

    wire::put_u64(tail, value.size());
    tail[8] = body != nullptr ? 'B' : 'V';

    if (body == nullptr && !sha_.restart()) {
        return false;
    }

    Sha256 &sha = body != nullptr ? *body : sha_;

    return sha.update(value) && sha.update(wire::view(tail, sizeof(tail))) && sha.finish(out);
}

}  // namespace idempotency
