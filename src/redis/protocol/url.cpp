#include "redis/protocol/url.h"

#include <charconv>

namespace idempotency {

namespace {

constexpr const char *kNoScheme = "it must begin with \"redis://\", \"rediss://\" or \"unix:/\"";
constexpr const char *kNoHost = "the host is missing: redis://host[:port][/db]";
constexpr const char *kBadPort = "the port must be a number from 1 to 65535";
constexpr const char *kBadDatabase = "the database must be a number from 0 to 65535";
constexpr const char *kBadEscape = "a \"%\" in user or password must be followed by two "
                                   "hexadecimal digits; write the sign itself as \"%25\"";
constexpr const char *kNulEscape = "\"%00\" must not be in a user or password";
constexpr const char *kNoPassword =
    "the user has no password: write redis://user:password@host, or "
    "redis://:password@host for a password alone";
constexpr const char *kOpenBracket = "the \"]\" of an IPv6 address is missing: "
                                     "redis://[address]:port";
constexpr const char *kSecondColon = "only \":port\" may follow the host; an IPv6 address must be "
                                     "in brackets: redis://[address]:port";
constexpr const char *kComma = "several URLs are separated by spaces, not by commas";
constexpr const char *kAfterBracket = "only \":port\" or \"/db\" may follow the \"]\"";
constexpr const char *kBadHost = "the host has a character that is not allowed in a host name";
constexpr const char *kQuery = "parameters are not supported: write the database as the path, "
                               "redis://host/db";
constexpr const char *kNoPath = "the path of the socket must begin with \"/\": unix:/path[?db=N]";
constexpr const char *kBadParameter = "the only parameter is \"db\": unix:/path?db=N";
constexpr const char *kPathWithPort = "a \":\" and a number after the path of the socket are no "
                                      "database: write it as unix:/path?db=N";
constexpr const char *kLongPath = "the path of the socket must have at most 107 characters";

constexpr std::size_t kMaxPath = 107;  // sun_path with its NUL takes 108 on Linux

bool take_prefix(std::string_view &text, std::string_view prefix)
{
    if (text.size() < prefix.size()) {
        return false;
    }

    for (std::size_t i = 0; i < prefix.size(); i++) {
        char c = text[i];

        if (c >= 'A' && c <= 'Z') {
            c = static_cast<char>(c - 'A' + 'a');
        }

        if (c != prefix[i]) {
            return false;
        }
    }

    text.remove_prefix(prefix.size());
    return true;
}

// Only digits: no sign, no spaces.
template <typename Number>
bool read_number(std::string_view text, Number &out)
{
    const char *end = text.data() + text.size();
    auto [stop, error] = std::from_chars(text.data(), end, out);

    return !text.empty() && error == std::errc() && stop == end && text[0] != '-';
}

const char *read_database(std::string_view text, RedisUrl &out)
{
    std::uint16_t number = 0;

    if (!read_number(text, number)) {
        return kBadDatabase;
    }

    out.database = number;
    out.has_database = true;
    return nullptr;
}

int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }

    c = static_cast<char>(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// Percent-decodes `text` into `buffer`, which then points behind the decoded bytes.
const char *decode(std::string_view text, char *&buffer, std::string_view &out)
{
    char *first = buffer;

    for (std::size_t i = 0; i < text.size(); i++) {
        if (text[i] != '%') {
            *buffer++ = text[i];
            continue;
        }

        int high = i + 2 < text.size() ? hex_value(text[i + 1]) : -1;
        int low = high >= 0 ? hex_value(text[i + 2]) : -1;

        if (low < 0) {
            return kBadEscape;
        }

        if (high == 0 && low == 0) {
            return kNulEscape;
        }

        *buffer++ = static_cast<char>(high << 4 | low);
        i += 2;
    }

    out = {first, static_cast<std::size_t>(buffer - first)};
    return nullptr;
}

const char *read_credentials(std::string_view text, char *buffer, RedisUrl &out)
{
    std::size_t colon = text.find(':');

    if (colon == std::string_view::npos || colon + 1 == text.size()) {
        return kNoPassword;
    }

    const char *fault = decode(text.substr(0, colon), buffer, out.user);

    return fault != nullptr ? fault : decode(text.substr(colon + 1), buffer, out.password);
}

const char *read_port(std::string_view text, RedisUrl &out)
{
    return read_number(text, out.port) && out.port != 0 ? nullptr : kBadPort;
}

const char *read_host(std::string_view text, RedisUrl &out)
{
    if (text.find(',') != std::string_view::npos) {
        return kComma;
    }

    for (char c : text) {
        if (c <= ' ' || c == 0x7f || c == '"' || c == '\\') {
            return kBadHost;
        }
    }

    if (!text.empty() && text[0] == '[') {
        std::size_t bracket = text.find(']');

        if (bracket == std::string_view::npos) {
            return kOpenBracket;
        }

        out.host = text.substr(1, bracket - 1);
        text.remove_prefix(bracket + 1);

        if (!text.empty() && text[0] != ':') {
            return kAfterBracket;
        }
    } else {
        std::size_t colon = text.find(':');

        out.host = text.substr(0, colon);
        text.remove_prefix(out.host.size());

        if (text.find(':', 1) != std::string_view::npos) {
            return kSecondColon;
        }
    }

    if (out.host.empty()) {
        return kNoHost;
    }

    return text.empty() ? nullptr : read_port(text.substr(1), out);
}

const char *read_network(std::string_view text, char *buffer, RedisUrl &out)
{
    // a password may have a "/" or a "?" that is not percent-encoded
    std::size_t at = text.rfind('@');

    if (at != std::string_view::npos) {
        const char *fault = read_credentials(text.substr(0, at), buffer, out);

        if (fault != nullptr) {
            return fault;
        }

        text.remove_prefix(at + 1);
    }

    if (text.find('?') != std::string_view::npos || text.find('#') != std::string_view::npos) {
        return kQuery;
    }

    std::size_t slash = text.find('/');
    const char *fault = read_host(text.substr(0, slash), out);

    if (fault != nullptr || slash == std::string_view::npos || slash + 1 == text.size()) {
        return fault;
    }

    return read_database(text.substr(slash + 1), out);
}

const char *read_socket(std::string_view text, RedisUrl &out)
{
    std::size_t mark = text.find('?');

    out.host = text.substr(0, mark);

    if (out.host.size() < 2 || out.host[0] != '/') {
        return kNoPath;
    }

    if (out.host.size() > kMaxPath) {
        return kLongPath;
    }

    std::size_t colon = out.host.rfind(':');

    if (colon != std::string_view::npos
        && out.host.find_first_not_of("0123456789", colon + 1) == std::string_view::npos)
    {
        return kPathWithPort;
    }

    if (mark == std::string_view::npos) {
        return nullptr;
    }

    text.remove_prefix(mark + 1);
    return take_prefix(text, "db=") ? read_database(text, out) : kBadParameter;
}

}  // namespace

const char *parse_redis_url(std::string_view url, char *buffer, RedisUrl &out) noexcept
{
    out = RedisUrl();

    if (take_prefix(url, "unix:")) {
        out.unix_socket = true;
        return read_socket(url, out);
    }

    if (take_prefix(url, "rediss://")) {
        out.tls = true;
        return read_network(url, buffer, out);
    }

    return take_prefix(url, "redis://") ? read_network(url, buffer, out) : kNoScheme;
}

}  // namespace idempotency
