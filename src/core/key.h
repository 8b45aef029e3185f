// The syntax of an Idempotency-Key.

#pragma once

#include <cstddef>
#include <string_view>

namespace idempotency {

constexpr std::size_t kMaxKeyLength = 255;

enum class KeyFault {
    none,
    empty,
    too_long,
    ill_formed,
};

struct ParsedKey {
    KeyFault fault = KeyFault::none;
    std::string_view value;  // the field itself or `room`; empty on a fault
};

// Reads one field value.  A field that begins with a quote is a Structured
// Field item (RFC 9651, section 4.2.3) whose bare item has to be a string; its
// parameters are checked and ignored.  Anything else is a bare key: visible
// ASCII (RFC 5234's VCHAR).  Both forms of a key have the same value.
//
// White space around the field is ignored: nginx takes spaces off in HTTP/1.1,
// not in HTTP/2.  `room` takes the value of a quoted key, so the result lives as
// long as the shorter lived of the two.
ParsedKey parse_key(std::string_view field, char (&room)[kMaxKeyLength]);

}  // namespace idempotency
