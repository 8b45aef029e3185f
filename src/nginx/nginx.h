// nginx's headers, as C++ may include them: first of all, since they set the
// 64-bit off_t.

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
}

#pragma GCC diagnostic pop

#include <string_view>

namespace idempotency {

// Between nginx's strings and C++'s, without a copy.
inline std::string_view view(const ngx_str_t &text)
{
    return {reinterpret_cast<const char *>(text.data), text.len};
}

inline bool equal_ignoring_case(std::string_view a, std::string_view b)
{
    return a.size() == b.size()
           && ngx_strncasecmp(reinterpret_cast<u_char *>(const_cast<char *>(a.data())),
                              reinterpret_cast<u_char *>(const_cast<char *>(b.data())), a.size())
                  == 0;
}

inline ngx_str_t to_ngx(std::string_view text)
{
    ngx_str_t out;

    out.len = text.size();
    out.data = reinterpret_cast<u_char *>(const_cast<char *>(text.data()));
    return out;
}

}  // namespace idempotency
