// Bytes for the tests of keys.

#pragma once

#include <string>

namespace idempotency {

template <class Array>
std::string hex_of(const Array &bytes)
{
    static constexpr char digits[] = "0123456789abcdef";
    std::string out;

    for (char c : bytes) {
        out += digits[static_cast<unsigned char>(c) >> 4];
        out += digits[c & 0xf];
    }

    return out;
}

inline std::string counting(std::size_t size, int from = 0)
{
    std::string out;

    for (std::size_t i = 0; i < size; i++) {
        out += static_cast<char>(from + static_cast<int>(i));
    }

    return out;
}

}  // namespace idempotency
