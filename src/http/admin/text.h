// JSON text that grows in the pool of a request.

#pragma once

#include "nginx/nginx.h"

#include <cstdint>

namespace idempotency {

class JsonText {
public:
    explicit JsonText(ngx_pool_t *pool) : pool_(pool) {}

    void put(std::string_view text);

    // In quotes, with escapes.  Bytes above 127 become \u0080 to \u00ff: the text is valid UTF-8
    // whatever the bytes mean.
    void put_string(std::string_view text) { put_escaped(text, false); }
    void put_base64(std::string_view bytes);
    void put_number(std::uint64_t number);

    // Milliseconds, as seconds with three decimals.
    void put_seconds(std::uint64_t millis);

    // `,"name":`, without the comma behind `{`.
    void put_name(std::string_view name);

    void put_member(std::string_view name, std::string_view text);
    void put_member(std::string_view name, std::uint64_t number);

    // A text that is valid UTF-8.
    void put_utf8_member(std::string_view name, std::string_view text);
    void put_seconds_member(std::string_view name, std::uint64_t millis);

    // Null if there was no memory.
    ngx_buf_t *buffer();

private:
    u_char *reserve(std::size_t size);
    void put_escaped(std::string_view text, bool is_utf8);

    ngx_pool_t *pool_;
    u_char *data_ = nullptr;
    std::size_t size_ = 0;
    std::size_t capacity_ = 0;
    bool failed_ = false;
};

}  // namespace idempotency
