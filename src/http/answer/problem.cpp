// The module's own answers: application/problem+json (RFC 9457).

#include "http/answer/problem.h"

#include "http/answer/capture.h"
#include "http/answer/fields.h"

namespace idempotency {

namespace {

struct Text {
    ngx_uint_t status;
    const char *line;  // of the status; nginx has no phrase for 422
    const char *code;
    const char *title;
    const char *detail;
};

// The status's own phrase: the title of an about:blank (RFC 9457, section 4.2.1).
const char *phrase(const Text &text) { return text.line + sizeof("409 ") - 1; }

const Text &text_of(Problem problem)
{
    static constexpr Text texts[] = {
        {400, "400 Bad Request", "idempotency_key_missing", "An idempotency key is required",
         "This request needs an Idempotency-Key header: a value of your own, new for each "
         "operation, and the same again when you retry it."},
        {400, "400 Bad Request", "idempotency_scope_missing", "No one to keep the answer for",
         "This request has an idempotency key but no credentials that say whose it is."},
        {400, "400 Bad Request", "idempotency_key_invalid", "The idempotency key is not valid",
         "An Idempotency-Key has 1 to 255 visible ASCII characters, or is a quoted string of "
         "RFC 9651, and comes in one header."},
        {422, "422 Unprocessable Content", "idempotency_key_reused", "The idempotency key is taken",
         "This idempotency key was used for another request. Send that request unchanged, or this "
         "one with a new key."},
        {409, "409 Conflict", "request_in_progress", "The first request is still running",
         "A request with this idempotency key is being worked on. Retry in a while to get its "
         "answer."},
        {409, "409 Conflict", "outcome_unknown", "The outcome of the first request is not known",
         "A request with this idempotency key went to the application and got no whole answer, so "
         "it may have been acted on. Look at what has become of it before you go on."},
        {409, "409 Conflict", "response_not_kept", "The answer was not kept",
         "A request with this idempotency key was acted on, but its answer can't be given once "
         "more. The operation is done: do not send it with a new key."},
        {503, "503 Service Unavailable", "store_unavailable",
         "The idempotency store is unavailable",
         "This request can't be protected against being acted on twice now, so it was not acted "
         "on. Retry with the same key."},
        {502, "502 Bad Gateway", "outcome_unknown", "The application's answer broke off",
         "The application's answer did not arrive whole, so the request may have been acted on. "
         "Retry with the same key to learn its state."},
    };

    return texts[static_cast<std::size_t>(problem)];
}

// A base that ends with a word gets a slash before the code.
const char *separator(const ngx_str_t &base)
{
    u_char last = base.data[base.len - 1];
    bool in_word = (last >= '0' && last <= '9') || ((last | 0x20) >= 'a' && (last | 0x20) <= 'z');

    return in_word ? "/" : "";
}

bool format_type(ngx_http_request_t *r, const ngx_str_t &base, const char *code, ngx_str_t &type)
{
    if (base.len == 0) {
        ngx_str_set(&type, "about:blank");
        return true;
    }

    type.data = static_cast<u_char *>(ngx_pnalloc(r->pool, base.len + 1 + ngx_strlen(code)));

    if (type.data == nullptr) {
        return false;
    }

    type.len = static_cast<size_t>(ngx_sprintf(type.data, "%V%s%s", &base, separator(base), code)
                                   - type.data);
    return true;
}

bool add_formatted(ngx_http_request_t *r, const char *name, u_char *start, u_char *end)
{
    return add_field(r, name,
                     {reinterpret_cast<char *>(start), static_cast<std::size_t>(end - start)})
           != nullptr;
}

bool add_link(ngx_http_request_t *r, const ngx_str_t &type)
{
    constexpr char rest[] = "<>; rel=\"describedby\"";
    auto *room = static_cast<u_char *>(ngx_pnalloc(r->pool, type.len + sizeof(rest)));

    return room != nullptr
           && add_formatted(r, "Link", room, ngx_sprintf(room, "<%V>; rel=\"describedby\"", &type));
}

bool add_retry_after(ngx_http_request_t *r, Millis wait)
{
    auto *room = static_cast<u_char *>(ngx_pnalloc(r->pool, NGX_INT64_LEN));

    return room != nullptr
           && add_formatted(r, "Retry-After", room,
                            ngx_sprintf(room, "%uL", static_cast<uint64_t>((wait + 999) / 1000)));
}

// The user's page for a status goes before the problem; the conditions are
// those of ngx_http_special_response_handler.
bool has_error_page(ngx_http_request_t *r, ngx_uint_t status)
{
    auto *core = static_cast<ngx_http_core_loc_conf_t *>(
        ngx_http_get_module_loc_conf(r, ngx_http_core_module));

    if (r->error_page || core->error_pages == nullptr || r->uri_changes == 0) {
        return false;
    }

    auto *page = static_cast<ngx_http_err_page_t *>(core->error_pages->elts);

    for (ngx_uint_t i = 0; i < core->error_pages->nelts; i++) {
        if (page[i].status == static_cast<ngx_int_t>(status)) {
            return true;
        }
    }

    return false;
}

ngx_buf_t *format_body(ngx_http_request_t *r, const Text &text, const ngx_str_t &type, bool typed)
{
    const char *title = typed ? text.title : phrase(text);
    size_t size =
        type.len + ngx_strlen(title) + ngx_strlen(text.detail) + ngx_strlen(text.code) + 128;
    ngx_buf_t *b = ngx_create_temp_buf(r->pool, size);

    if (b == nullptr) {
        return nullptr;
    }

    b->last = ngx_sprintf(b->last,
                          "{\"type\":\"%V\",\"title\":\"%s\",\"status\":%ui,\"detail\":\"%s\","
                          "\"code\":\"%s\"}\n",
                          &type, title, text.status, text.detail, text.code);
    b->last_buf = 1;
    return b;
}

ngx_buf_t *prepare(ngx_http_request_t *r, const LocationConfig &conf, const Text &text)
{
    ngx_str_t type;

    if (!format_type(r, conf.problem_base, text.code, type)
        || (conf.problem_base.len > 0 && !add_link(r, type)))
    {
        return nullptr;
    }

    ngx_buf_t *body = format_body(r, text, type, conf.problem_base.len > 0);

    if (body == nullptr) {
        return nullptr;
    }

    r->headers_out.status = text.status;
    r->headers_out.status_line.data = reinterpret_cast<u_char *>(const_cast<char *>(text.line));
    r->headers_out.status_line.len = ngx_strlen(text.line);
    r->headers_out.content_length_n = body->last - body->pos;
    ngx_str_set(&r->headers_out.content_type, "application/problem+json");
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = nullptr;
    r->headers_out.charset.len = 0;
    return body;
}

}  // namespace

ngx_int_t refuse(Context &context, Status status, Problem problem, Millis wait)
{
    ngx_http_request_t *r = context.request;
    const Text &text = text_of(problem);

    context.stage = Stage::aside;
    context.status = status;

    if (wait > 0 && !add_retry_after(r, wait)) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (has_error_page(r, text.status)) {
        return static_cast<ngx_int_t>(text.status);
    }

    ngx_int_t rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    ngx_chain_t out{prepare(r, *context.conf, text), nullptr};

    if (out.buf == nullptr) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->disable_not_modified = 1;
    rc = ngx_http_send_header(r);

    if (rc != NGX_ERROR && rc <= NGX_OK && !r->header_only) {
        rc = ngx_http_output_filter(r, &out);
    }

    ngx_http_finalize_request(r, rc);
    return NGX_DONE;
}

ngx_int_t send_problem(ngx_http_request_t *r, const LocationConfig &conf, Problem problem)
{
    ngx_http_clean_header(r);

    ngx_chain_t out{prepare(r, conf, text_of(problem)), nullptr};

    if (out.buf == nullptr) {
        return NGX_ERROR;
    }

    ngx_int_t rc = next_header_filter(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    return next_body_filter(r, &out);
}

}  // namespace idempotency
