#include "redis/protocol/redirect.h"

#include <charconv>

namespace idempotency {

namespace {

// Removes the next word and the space after it from the front of `text`.
std::string_view take_word(std::string_view &text)
{
    std::size_t space = text.find(' ');
    std::string_view word = text.substr(0, space);

    text.remove_prefix(space != std::string_view::npos ? space + 1 : text.size());
    return word;
}

template <typename Number>
bool read_number(std::string_view text, Number &out)
{
    const char *end = text.data() + text.size();
    auto [stop, error] = std::from_chars(text.data(), end, out);

    return !text.empty() && error == std::errc() && stop == end;
}

bool read_host(std::string_view text, std::string_view &out)
{
    if (text.size() > 2 && text.front() == '[' && text.back() == ']') {
        text = text.substr(1, text.size() - 2);
    }

    for (char c : text) {
        if (c <= ' ' || c == 0x7f) {
            return false;
        }
    }

    out = text;
    return text.size() <= kMaxRedisHost;
}

}  // namespace

bool parse_redis_redirect(std::string_view error, RedisRedirect &out) noexcept
{
    std::string_view code = take_word(error);
    std::string_view slot = take_word(error);
    std::string_view address = take_word(error);
    std::size_t colon = address.rfind(':');

    out = RedisRedirect();
    out.ask = code == "ASK";

    return (out.ask || code == "MOVED") && read_number(slot, out.slot) && out.slot < kRedisSlots
           && colon != std::string_view::npos && read_host(address.substr(0, colon), out.host)
           && read_number(address.substr(colon + 1), out.port) && out.port != 0;
}

}  // namespace idempotency
