#include "core/digest.h"

#include <openssl/crypto.h>

#include "core/openssl.h"
#include "core/wire.h"

namespace idempotency {

namespace {

bool is_space(char c) { return c == ' ' || c == '\t'; }

char to_lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; }

// Digests tokens (RFC 9110, section 5.6.2) with the characters between them: the length without
// spaces and tabs, then the characters in lower case.
bool update_with_tokens(Sha256 &sha, std::string_view text)
{
    unsigned char length[8];
    char buffer[64];
    std::size_t used = 0;
    std::size_t spaces = 0;

    for (char c : text) {
        spaces += is_space(c) ? 1 : 0;
    }

    wire::put_u64(length, text.size() - spaces);

    if (!sha.update(wire::view(length, sizeof(length)))) {
        return false;
    }

    for (char c : text) {
        if (is_space(c)) {
            continue;
        }

        buffer[used++] = to_lower(c);

        if (used == sizeof(buffer)) {
            if (!sha.update({buffer, used})) {
                return false;
            }

            used = 0;
        }
    }

    return sha.update({buffer, used});
}

}  // namespace

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

bool parse_hex(std::string_view text, Digest &out)
{
    if (text.size() != kHexLength) {
        return false;
    }

    for (std::size_t i = 0; i < text.size(); i++) {
        char c = text[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;

        if (digit < 0) {
            return false;
        }

        unsigned char &byte = out.bytes[i / 2];

        byte = static_cast<unsigned char>(i % 2 == 0 ? digit << 4 : byte | digit);
    }

    return true;
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

std::string_view media_type(std::string_view content_type)
{
    return content_type.substr(0, content_type.find(';'));
}

bool start_body_digest(Sha256 &sha, std::string_view media_type, std::string_view content_encoding)
{
    return sha.restart() && update_with_tokens(sha, media_type)
           && update_with_tokens(sha, content_encoding);
}

Digester::Digester() : method_(EVP_MD_fetch(nullptr, "SHA256", nullptr)), sha_(method_) {}

Digester::~Digester() { EVP_MD_free(method_); }

bool Digester::add_scope(const Scope &scope)
{
    char kind = static_cast<char>(scope.kind);

    if (!sha_.update({&kind, 1})) {
        return false;
    }

    for (std::size_t i = 0; i < scope.count; i++) {
        unsigned char head[9];

        head[0] = static_cast<unsigned char>(i + 1);
        wire::put_u64(head + 1, scope.parts[i].size());

        if (!sha_.update(wire::view(head, sizeof(head))) || !sha_.update(scope.parts[i])) {
            return false;
        }
    }

    return true;
}

bool Digester::key_id(const Scope &scope, std::string_view key, KeyId &out)
{
    return sha_.restart() && add_scope(scope) && sha_.update("K") && sha_.update(key)
           && sha_.finish(out);
}

bool Digester::scope_tag(const Scope &scope, const KeyId &id, unsigned char *out)
{
    Digest digest;

    if (!sha_.restart() || !sha_.update("T") || !sha_.update(id.view()) || !add_scope(scope)
        || !sha_.finish(digest))
    {
        return false;
    }

    std::memcpy(out, digest.bytes.data(), kScopeTagSize);
    return true;
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
