// Text that grows in memory of fixed size, for the formats of the status page.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "http/status/status_format.h"

namespace idempotency {

// A text that is cut off at `capacity` bytes; `size` counts the whole text.
class Text {
public:
    Text(char *out, std::size_t capacity) : out_(out), capacity_(capacity) {}

    std::size_t size() const { return size_; }

    Text &operator<<(std::string_view text)
    {
        if (size_ < capacity_) {
            std::memcpy(out_ + size_, text.data(),
                        text.size() < capacity_ - size_ ? text.size() : capacity_ - size_);
        }

        size_ += text.size();
        return *this;
    }

    Text &operator<<(std::uint64_t number)
    {
        char digits[24];
        int length =
            std::snprintf(digits, sizeof(digits), "%llu", static_cast<unsigned long long>(number));

        return *this << std::string_view(digits, static_cast<std::size_t>(length));
    }

    // `number` of 1 / `unit` (a power of ten), as a decimal fraction.
    Text &put_fraction(std::uint64_t number, std::uint64_t unit)
    {
        char digits[24];
        std::uint64_t rest = number % unit;
        std::size_t length = 0;

        *this << number / unit;

        for (std::uint64_t place = unit / 10; rest > 0; place /= 10) {
            digits[length++] = static_cast<char>('0' + rest / place);
            rest %= place;
        }

        return length > 0 ? *this << "." << std::string_view(digits, length) : *this;
    }

private:
    char *out_;
    std::size_t capacity_;
    std::size_t size_ = 0;
};

// When the oldest counters were created; 0 if there is no store.
std::uint64_t started_at(const StatusPage &page);

void put_json(Text &text, const StatusPage &page);
void put_prometheus(Text &text, const StatusPage &page);
void put_html(Text &text, const StatusPage &page);

}  // namespace idempotency
