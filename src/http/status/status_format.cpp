// This file uses no functions of nginx.

#include "http/status/status_format.h"

#include "http/status/status_text.h"

namespace idempotency {

namespace {

constexpr std::string_view kSpace = " \t";

std::string_view trim(std::string_view text)
{
    std::size_t first = text.find_first_not_of(kSpace);

    return first == std::string_view::npos
               ? std::string_view()
               : text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

// Removes the part up to the next `separator` from `rest`, and returns it.
std::string_view take(std::string_view &rest, char separator)
{
    std::size_t end = rest.find(separator);
    std::string_view part = rest.substr(0, end);

    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    return trim(part);
}

char to_lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool is_word(std::string_view text, std::string_view lower)
{
    if (text.size() != lower.size()) {
        return false;
    }

    for (std::size_t i = 0; i < text.size(); i++) {
        if (to_lower(text[i]) != lower[i]) {
            return false;
        }
    }

    return true;
}

// In thousandths; RFC 9110, section 12.4.2.
unsigned parse_quality(std::string_view text)
{
    unsigned quality = 0;
    unsigned place = 1000;

    for (char c : text) {
        if (c >= '0' && c <= '9' && place > 0) {
            quality += static_cast<unsigned>(c - '0') * place;
            place /= 10;
        } else if (c != '.') {
            return 0;
        }
    }

    return quality;
}

struct MediaType {
    std::string_view name;
    StatusFormat format;
};

constexpr MediaType kMediaTypes[] = {
    {"application/json", StatusFormat::json},
    {"application/*", StatusFormat::json},
    {"text/plain", StatusFormat::prometheus},
    {"text/html", StatusFormat::html},
    {"*/*", StatusFormat::json},
};

}  // namespace

void prefer(std::string_view accept, FormatChoice &choice)
{
    while (!accept.empty()) {
        std::string_view range = take(accept, ',');
        std::string_view name = take(range, ';');
        unsigned quality = 1000;

        while (!range.empty()) {
            std::string_view value = take(range, ';');
            std::string_view parameter = take(value, '=');

            if (is_word(parameter, "q")) {
                quality = parse_quality(value);
            }
        }

        for (const MediaType &type : kMediaTypes) {
            if (is_word(name, type.name) && quality > choice.quality) {
                choice = {type.format, quality};
            }
        }
    }
}

bool parse_format(std::string_view name, StatusFormat &format)
{
    if (name == "json") {
        format = StatusFormat::json;
    } else if (name == "prometheus") {
        format = StatusFormat::prometheus;
    } else if (name == "html") {
        format = StatusFormat::html;
    } else {
        return false;
    }

    return true;
}

std::uint64_t started_at(const StatusPage &page)
{
    std::uint64_t started = page.count > 0 ? page.stores[0].metrics.started : 0;

    for (std::size_t i = 1; i < page.count; i++) {
        std::uint64_t other = page.stores[i].metrics.started;

        started = other < started ? other : started;
    }

    return started;
}

std::size_t format_status(StatusFormat format, const StatusPage &page, char *out,
                          std::size_t capacity)
{
    Text text(out, capacity);

    switch (format) {
    case StatusFormat::prometheus:
        put_prometheus(text, page);
        break;
    case StatusFormat::html:
        put_html(text, page);
        break;
    default:
        put_json(text, page);
        break;
    }

    return text.size();
}

}  // namespace idempotency
