// What the module has to know about gRPC: media types, status codes, and the messages in the body
// of a response.
//
// gRPC over HTTP/2, "Length-Prefixed-Message": before each message there are five bytes, a flag of
// one byte and the length as a big-endian integer of four bytes.  gRPC-Web has its trailers in the
// body, in a last frame whose flag has the highest bit set; with `application/grpc-web-text` the
// body is in base64.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace idempotency {

enum class GrpcKind { none, http2, web, web_text };

// Of a media type, which may have parameters.
GrpcKind grpc_kind(std::string_view media_type);

constexpr int kNoGrpcStatus = -1;
constexpr int kGrpcStatuses = 17;  // OK is 0, UNAUTHENTICATED is 16

// The code of a status name such as `UNAVAILABLE`, or kNoGrpcStatus.
int grpc_status_of_name(std::string_view name);

// The value of a `grpc-status` header; kNoGrpcStatus if it is no number.
int parse_grpc_status(std::string_view value);

// CANCELLED and DEADLINE_EXCEEDED: the call was given up, and its handler may still run.
bool is_unknown_outcome(int grpc_status);

// Trivial, so that nginx can allocate it.  Initially all members are 0.
struct GrpcMessages {
    bool is_base64;           // set it for GrpcKind::web_text
    std::uint32_t begun;      // messages of which at least one byte was read
    std::uint32_t head_read;  // bytes of the current head
    std::uint32_t length;     // the bytes of the current length that were read
    std::uint32_t left;  // bytes of the current message or trailer frame that were not read yet

    // Reads the next bytes of the body.
    void feed(std::string_view bytes);

    // The status in the trailer frame of gRPC-Web.
    int status() const { return has_status ? status_code : kNoGrpcStatus; }

    // internal
    std::uint32_t sextets;      // of base64 that are no whole bytes yet
    unsigned char sextet_bits;  // how many bits of `sextets` count
    bool in_trailers;           // the current frame is the trailer frame
    unsigned char name_read;    // characters of "grpc-status:" that the current line begins with
    bool is_other_line;
    bool has_status;
    int status_code;

private:
    void feed_frames(std::string_view bytes);
    void feed_base64(std::string_view text);
    void feed_trailers(std::string_view bytes);
};

}  // namespace idempotency
