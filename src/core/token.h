// The production `token` of HTTP (RFC 9110, section 5.6.2): names of header fields, methods ...

#pragma once

#include <string_view>

namespace idempotency {

struct TokenChars {
    bool has[256] = {};

    constexpr TokenChars()
    {
        for (unsigned c = 0x21; c < 0x7f; c++) {
            has[c] = std::string_view("\"(),/:;<=>?@[\\]{}").find(static_cast<char>(c))
                     == std::string_view::npos;
        }
    }
};

inline constexpr TokenChars kTokenChars;

inline bool is_token_char(char c) { return kTokenChars.has[static_cast<unsigned char>(c)]; }

inline bool is_token(std::string_view text)
{
    for (char c : text) {
        if (!is_token_char(c)) {
            return false;
        }
    }

    return !text.empty();
}

}  // namespace idempotency
