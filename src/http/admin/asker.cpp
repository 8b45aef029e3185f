#include "http/admin/asker.h"

#include "core/printable.h"

namespace idempotency {

namespace {

constexpr std::size_t kLongestUser = 64;

// A user name may have any bytes.
u_char *put_printable(u_char *out, std::string_view text)
{
    PrintableText<kLongestUser> shown(text);

    return ngx_cpymem(out, shown.data(), shown.size());
}

}  // namespace

Asker::Asker(ngx_http_request_t *r)
{
    u_char *end = text;

    if (ngx_http_auth_basic_user(r) == NGX_OK && r->headers_in.user.len > 0) {
        *end++ = '"';
        end = put_printable(end, view(r->headers_in.user));
        end = ngx_cpymem(end, "\" at ", sizeof("\" at ") - 1);
    }

    end = put_printable(end, view(r->connection->addr_text));
    size = static_cast<std::size_t>(end - text);
}

}  // namespace idempotency
