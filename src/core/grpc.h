// The messages of a gRPC answer, counted as its bytes come by.
//
// gRPC over HTTP/2: each message has a head of five bytes, a flag and a length.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace idempotency {

// Trivial: it lies where nginx puts it.
struct GrpcMessages {
    std::uint32_t begun;
    std::uint32_t whole;
    std::uint32_t head_read;  // of the head that comes in
    std::uint32_t length;     // as far as the head has told it
    std::uint32_t left;       // of the message that comes in

    void feed(std::string_view bytes);
};

}  // namespace idempotency
