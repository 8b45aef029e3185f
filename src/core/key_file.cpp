#include "core/key_file.h"

#include <algorithm>
#include <cstring>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "core/wire.h"

namespace idempotency {

namespace {

constexpr std::size_t kHexSize = 2 * kSecretSize;
constexpr std::size_t kBase64Size = (kSecretSize + 2) / 3 * 4;

// What EVP_DecodeBlock writes: it counts the padding as bytes.
constexpr std::size_t kDecodedSize = kBase64Size / 4 * 3;

static_assert(kDecodedSize == kSecretSize + 1, "base64 of a key ends with one '='");

constexpr const char *kExpected =
    "a key of 32 random bytes is needed: as 64 hexadecimal digits, in base64, or as raw bytes; "
    "\"openssl rand -hex 32\" makes one";

int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }

    c = static_cast<char>(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool parse_hex(std::string_view text, Secret &out)
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

// The text has kBase64Size characters.  EVP_DecodeBlock does not check the number of `=`.
bool parse_base64(std::string_view text, Secret &out)
{
    unsigned char decoded[kDecodedSize];
    bool valid = text[kBase64Size - 2] != '=' && text[kBase64Size - 1] == '='
                 && EVP_DecodeBlock(decoded, wire::octets(text), static_cast<int>(text.size()))
                        == static_cast<int>(sizeof(decoded));

    if (valid) {
        std::memcpy(out.bytes.data(), decoded, kSecretSize);
    }

    OPENSSL_cleanse(decoded, sizeof(decoded));
    return valid;
}

// 32 characters of text are a password, or 16 bytes in hexadecimal, not 32 random bytes.
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

const char *parse_key_file(std::string_view contents, Secret &out)
{
    if (contents.size() == kSecretSize && !is_text(contents)) {
        std::memcpy(out.bytes.data(), contents.data(), kSecretSize);
        return nullptr;
    }

    std::string_view line = without_line_end(contents);

    return (line.size() == kHexSize && parse_hex(line, out))
                   || (line.size() == kBase64Size && parse_base64(line, out))
               ? nullptr
               : kExpected;
}

}  // namespace idempotency
