#include "http/admin/response.h"

#include "core/problem.h"
#include "http/answer/fields.h"

namespace idempotency {

namespace {

ngx_int_t send(ngx_http_request_t *r, ngx_uint_t status, std::string_view type, JsonText &text)
{
    ngx_chain_t out{text.buffer(), nullptr};

    if (out.buf == nullptr || add_field(r, "Cache-Control", "no-store") == nullptr
        || add_field(r, "X-Content-Type-Options", "nosniff") == nullptr)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    const char *line = status >= 400 ? error_status_line(static_cast<unsigned>(status)) : nullptr;

    ngx_str_null(&r->headers_out.status_line);

    if (line != nullptr) {
        r->headers_out.status_line = to_ngx(line);
    }

    r->headers_out.status = status;
    r->headers_out.content_length_n = out.buf->last - out.buf->pos;
    r->headers_out.content_type = to_ngx(type);
    r->headers_out.content_type_len = type.size();
    r->headers_out.content_type_lowcase = nullptr;
    r->headers_out.charset.len = 0;
    r->disable_not_modified = 1;

    ngx_int_t rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    return ngx_http_output_filter(r, &out);
}

}  // namespace

ngx_int_t send_admin_json(ngx_http_request_t *r, ngx_uint_t status, JsonText &text)
{
    text.put("}\n");
    return send(r, status, "application/json", text);
}

ngx_int_t send_admin_problem(ngx_http_request_t *r, const AdminProblem &problem)
{
    JsonText text(r->pool);
    const char *line = error_status_line(static_cast<unsigned>(problem.status));

    if (problem.status == NGX_HTTP_NOT_ALLOWED
        && add_field(r, "Allow", "GET, HEAD, POST, DELETE") == nullptr)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    text.put("{");
    text.put_member("type", "about:blank");
    text.put_member("title", line != nullptr ? line + sizeof("409 ") - 1 : "Error");
    text.put_member("status", static_cast<std::uint64_t>(problem.status));
    text.put_member("detail", problem.detail);
    text.put_member("code", problem.code);
    text.put("}\n");
    return send(r, problem.status, "application/problem+json", text);
}

}  // namespace idempotency
