// Counts the messages in the body of a gRPC response.
//
// gRPC over HTTP/2, "Length-Prefixed-Message": before each message there are five bytes, a flag of
// one byte and the length as a big-endian integer of four bytes.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace idempotency {

// Trivial, so that nginx can allocate it.  Initially all members are 0.
struct GrpcMessages {
    std::uint32_t begun;      // messages of which at least one byte was read
    std::uint32_t whole;      // messages that were read to their end
    std::uint32_t head_read;  // bytes of the current head
    std::uint32_t length;     // the bytes of the current length that were read
    std::uint32_t left;       // bytes of the current message that were not read yet

    // Reads the next bytes of the body.
    void feed(std::string_view bytes);
};

}  // namespace idempotency
