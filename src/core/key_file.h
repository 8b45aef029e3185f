// A key file of `encryption_key_file` (docs/encryption.md).

#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace idempotency {

constexpr std::size_t kSecretSize = 32;

// The 32 random bytes of a key file.  The destructor erases them.
struct Secret {
    std::array<unsigned char, kSecretSize> bytes{};

    Secret() = default;
    ~Secret();
    Secret(const Secret &) = delete;
    Secret &operator=(const Secret &) = delete;
};

// Parses the contents of a key file: 64 hexadecimal digits or 44 digits of base64 (with or
// without a line end), or 32 raw bytes.  Returns null, or the text of an error: a string
// literal that says what a key file has to hold.
const char *parse_key_file(std::string_view contents, Secret &out);

}  // namespace idempotency
