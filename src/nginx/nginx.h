// nginx's headers for C++.  This header must be included before those of the C library:
// ngx_config.h sets _FILE_OFFSET_BITS, the size of off_t.

#pragma once

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wextra"
#pragma GCC diagnostic ignored "-Wunused-parameter"

extern "C" {
#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_event_connect.h>
#include <ngx_http.h>
#include <ngx_md5.h>
}

#pragma GCC diagnostic pop

#include <string_view>

namespace idempotency {

// A view of the bytes of an nginx string.  Nothing is copied.
inline std::string_view view(const ngx_str_t &text)
{
    return {reinterpret_cast<const char *>(text.data), text.len};
}

// ASCII only, as ngx_strncasecmp.
inline bool equal_ignoring_case(std::string_view a, std::string_view b)
{
    return a.size() == b.size()
           && ngx_strncasecmp(reinterpret_cast<u_char *>(const_cast<char *>(a.data())),
                              reinterpret_cast<u_char *>(const_cast<char *>(b.data())), a.size())
                  == 0;
}

// An nginx string with the same bytes.  Nothing is copied; nginx must not write to them.
inline ngx_str_t to_ngx(std::string_view text)
{
    ngx_str_t out;

    out.len = text.size();
    out.data = reinterpret_cast<u_char *>(const_cast<char *>(text.data()));
    return out;
}

}  // namespace idempotency
