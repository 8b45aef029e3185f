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
    std::string_view value;  // a view of the field or of `buffer`; empty on a fault
};

// Parses the value of one header field.  A value that begins with a quote is a Structured Field
// item (RFC 9651, section 4.2.3) whose bare item is a string; its parameters are checked and
// ignored.  Any other value is a bare key: visible ASCII (VCHAR of RFC 5234).  `"abc"` and `abc`
// are the same key.
//
// White space around the value is ignored: nginx removes spaces in HTTP/1.1, but not in HTTP/2.
// The value of a quoted key is written to `buffer`, so the result is valid as long as both `field`
// and `buffer` are.
ParsedKey parse_key(std::string_view field, char (&buffer)[kMaxKeyLength]);

}  // namespace idempotency
