// The internal redirects between the claim of a key and the response that was kept: the
// extension `hops` of a record.  A replay passes them again.  docs/format.md specifies the
// bytes.

#pragma once

#include <cstddef>
#include <string_view>

namespace idempotency {

struct Hop {
    std::string_view target;   // a URI without arguments, or a named location (`@name`)
    bool becomes_get = false;  // the request became a GET on the way
    unsigned status = 0;       // which an error page has set for the response; 0: none
    bool ends_pages = false;   // nginx follows no further error page
};

constexpr std::size_t kMostHops = 10;
constexpr std::size_t kLargestHops = 1024;  // bytes of the extension's data

// Writes the data of the extension.  `out` belongs to the caller and has kLargestHops bytes.
class HopWriter {
public:
    explicit HopWriter(unsigned char *out) : out_(out) { out_[0] = 0; }

    void add(const Hop &hop);

    // `location`: the name of the location that has responded.  Call it last.
    void finish(std::string_view location);

    // False if there are too many hops, or they are too long.
    bool fits() const { return fits_; }

    std::string_view data() const { return {reinterpret_cast<const char *>(out_), size_}; }

private:
    void append(std::string_view bytes);

    unsigned char *out_;
    std::size_t size_ = 1;
    bool fits_ = true;
};

// Walks the data of the extension.
class HopCursor {
public:
    explicit HopCursor(std::string_view data);

    // False at the end, and if the rest is no hop.
    bool next(Hop &hop);

    std::size_t left() const { return left_; }

    // Behind the last hop.
    std::string_view location() const { return rest_; }

private:
    std::string_view rest_;
    std::size_t left_;
};

// Whether the bytes are what a HopWriter may have written.
bool are_hops(std::string_view data);

}  // namespace idempotency
