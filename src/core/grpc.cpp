#include "core/grpc.h"

namespace idempotency {

namespace {

constexpr std::uint32_t kHeadSize = 5;
constexpr unsigned char kTrailerFlag = 0x80;
constexpr std::string_view kStatusName = "grpc-status:";

constexpr std::string_view kStatusNames[kGrpcStatuses] = {
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
};

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; }

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool begins_with(std::string_view text, std::string_view prefix)
{
    if (text.size() < prefix.size()) {
        return false;
    }

    for (std::size_t i = 0; i < prefix.size(); i++) {
        if (lower(text[i]) != prefix[i]) {
            return false;
        }
    }

    return true;
}

// -1: no character of base64
int sextet_of(char c)
{
    if (c >= 'A' && c <= 'Z') {
        return c - 'A';
    }
    if (c >= 'a' && c <= 'z') {
        return c - 'a' + 26;
    }
    if (is_digit(c)) {
        return c - '0' + 52;
    }

    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

}  // namespace

GrpcKind grpc_kind(std::string_view media_type)
{
    if (begins_with(media_type, "application/grpc-web-text")) {
        return GrpcKind::web_text;
    }
    if (begins_with(media_type, "application/grpc-web")) {
        return GrpcKind::web;
    }

    return begins_with(media_type, "application/grpc") ? GrpcKind::http2 : GrpcKind::none;
}

int grpc_status_of_name(std::string_view name)
{
    for (int i = 0; i < kGrpcStatuses; i++) {
        if (name == kStatusNames[i]) {
            return i;
        }
    }

    return kNoGrpcStatus;
}

int parse_grpc_status(std::string_view value)
{
    int status = 0;

    if (value.empty() || value.size() > 3) {
        return kNoGrpcStatus;
    }

    for (char c : value) {
        if (!is_digit(c)) {
            return kNoGrpcStatus;
        }

        status = status * 10 + (c - '0');
    }

    return status;
}

bool is_unknown_outcome(int grpc_status) { return grpc_status == 1 || grpc_status == 4; }

void GrpcMessages::feed(std::string_view bytes)
{
    if (is_base64) {
        feed_base64(bytes);
    } else {
        feed_frames(bytes);
    }
}

// Each frame may be encoded, and padded, for itself.
void GrpcMessages::feed_base64(std::string_view text)
{
    for (char c : text) {
        int sextet = sextet_of(c);

        if (sextet < 0) {
            sextet_bits = 0;
            continue;
        }

        sextets = (sextets << 6 | static_cast<std::uint32_t>(sextet)) & 0xfff;
        sextet_bits = static_cast<unsigned char>(sextet_bits + 6);

        if (sextet_bits >= 8) {
            sextet_bits = static_cast<unsigned char>(sextet_bits - 8);

            char byte = static_cast<char>(sextets >> sextet_bits & 0xff);

            feed_frames({&byte, 1});
        }
    }
}

void GrpcMessages::feed_frames(std::string_view bytes)
{
    while (!bytes.empty()) {
        if (left > 0) {
            std::size_t n = bytes.size() < left ? bytes.size() : left;

            if (in_trailers) {
                feed_trailers(bytes.substr(0, n));
            }

            left -= static_cast<std::uint32_t>(n);
            bytes.remove_prefix(n);
            continue;
        }

        std::uint32_t byte = static_cast<unsigned char>(bytes.front());

        if (head_read == 0) {
            in_trailers = (byte & kTrailerFlag) != 0;
            begun += in_trailers ? 0 : 1;
        }

        bytes.remove_prefix(1);
        length = head_read == 0 ? 0 : length << 8 | byte;
        head_read++;

        if (head_read == kHeadSize) {
            head_read = 0;
            left = length;
        }
    }
}

void GrpcMessages::feed_trailers(std::string_view bytes)
{
    for (char c : bytes) {
        if (c == '\n') {
            name_read = 0;
            is_other_line = false;

        } else if (is_other_line) {
            continue;

        } else if (name_read < kStatusName.size()) {
            is_other_line = lower(c) != kStatusName[name_read];
            name_read++;

        } else if (is_digit(c) && status_code < 1000) {
            status_code = status_code * 10 + (c - '0');
            has_status = true;
        }
    }
}

}  // namespace idempotency
