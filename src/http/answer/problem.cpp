#include "http/answer/problem.h"

#include "http/answer/capture.h"
#include "http/answer/deliver.h"
#include "http/answer/fields.h"
#include "http/exchange/exchange.h"
#include "http/exchange/grpc_request.h"
#include "http/exchange/redirect.h"

namespace idempotency {

namespace {

// The reason phrase: with the type "about:blank" it is the title (RFC 9457, section
// 4.2.1).
const char *reason_phrase(const ProblemText &text)
{
    const char *line = error_status_line(text.status);

    return line != nullptr ? line + sizeof("409 ") - 1 : text.title;
}

// A base that ends with a letter or digit gets a slash before the code.
const char *separator(const ngx_str_t &base)
{
    u_char last = base.data[base.len - 1];
    bool is_letter_or_digit =
        (last >= '0' && last <= '9') || ((last | 0x20) >= 'a' && (last | 0x20) <= 'z');

    return is_letter_or_digit ? "/" : "";
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
    constexpr char suffix[] = "<>; rel=\"describedby\"";
    auto *buffer = static_cast<u_char *>(ngx_pnalloc(r->pool, type.len + sizeof(suffix)));

    return buffer != nullptr
           && add_formatted(r, "Link", buffer,
                            ngx_sprintf(buffer, "<%V>; rel=\"describedby\"", &type));
}

bool add_retry_after(ngx_http_request_t *r, Millis retry_after)
{
    auto *buffer = static_cast<u_char *>(ngx_pnalloc(r->pool, NGX_INT64_LEN));

    return buffer != nullptr
           && add_formatted(
               r, "Retry-After", buffer,
               ngx_sprintf(buffer, "%uL", static_cast<uint64_t>((retry_after + 999) / 1000)));
}

// Whether `error_page` has a page for this status, which then takes precedence.  The
// conditions are those of ngx_http_special_response_handler.
bool has_error_page(ngx_http_request_t *r, ngx_uint_t status)
{
    const ngx_http_core_loc_conf_t &location = location_of(r);

    if (r->error_page || location.error_pages == nullptr || r->uri_changes == 0) {
        return false;
    }

    auto *page = static_cast<ngx_http_err_page_t *>(location.error_pages->elts);

    for (ngx_uint_t i = 0; i < location.error_pages->nelts; i++) {
        if (page[i].status == static_cast<ngx_int_t>(status)) {
            return true;
        }
    }

    return false;
}

ngx_buf_t *format_body(ngx_http_request_t *r, const ProblemText &text, const ngx_str_t &type,
                       bool has_type)
{
    const char *title = has_type ? text.title : reason_phrase(text);
    size_t size =
        type.len + ngx_strlen(title) + ngx_strlen(text.detail) + ngx_strlen(text.code) + 128;
    ngx_buf_t *b = ngx_create_temp_buf(r->pool, size);

    if (b == nullptr) {
        return nullptr;
    }

    b->last =
        ngx_sprintf(b->last,
                    "{\"type\":\"%V\",\"title\":\"%s\",\"status\":%ui,\"detail\":\"%s\","
                    "\"code\":\"%s\"}\n",
                    &type, title, static_cast<ngx_uint_t>(text.status), text.detail, text.code);
    b->last_buf = 1;
    return b;
}

// Without it nginx, which does not know 422, would send the status alone.
void set_status_line(ngx_http_request_t *r, unsigned status)
{
    const char *line = error_status_line(status);

    ngx_str_null(&r->headers_out.status_line);

    if (line != nullptr) {
        r->headers_out.status_line = to_ngx(line);
    }
}

// To a gRPC request: a response with trailers only, which are its header.  False if there is no
// memory.
bool prepare_grpc_problem(ngx_http_request_t *r, const ProblemText &text, int status)
{
    auto *digits = static_cast<u_char *>(ngx_pnalloc(r->pool, NGX_INT_T_LEN));

    if (digits == nullptr
        || !add_formatted(r, "grpc-status", digits, ngx_sprintf(digits, "%d", status))
        || add_field(r, "grpc-message", text.detail) == nullptr)
    {
        return false;
    }

    r->headers_out.status = NGX_HTTP_OK;
    ngx_str_null(&r->headers_out.status_line);
    r->headers_out.content_type = r->headers_in.content_type->value;
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = nullptr;
    r->headers_out.charset.len = 0;

    // gRPC-Web over HTTP/1.1 needs a length
    if (r->http_version < NGX_HTTP_VERSION_20) {
        r->headers_out.content_length_n = 0;
    } else {
        r->headers_out.content_length_n = -1;
        r->header_only = 1;
    }

    return true;
}

// Sets the status and the headers.  Returns the body, or null if there is no memory.
ngx_buf_t *prepare_problem(ngx_http_request_t *r, const LocationConfig &conf, Problem problem)
{
    const ProblemText text = problem_text(conf, problem);
    ngx_str_t type;

    if (!format_type(r, conf.problem_base, text.code, type)
        || (conf.problem_base.len > 0 && !add_link(r, type)))
    {
        return nullptr;
    }

    if (is_grpc_request(r)) {
        auto *empty = allocate<ngx_buf_t>(r->pool);

        if (empty == nullptr || !prepare_grpc_problem(r, text, grpc_status_of(problem))) {
            return nullptr;
        }

        empty->last_buf = 1;
        return empty;
    }

    ngx_buf_t *body = format_body(r, text, type, conf.problem_base.len > 0);

    if (body == nullptr) {
        return nullptr;
    }

    r->headers_out.status = text.status;
    set_status_line(r, text.status);
    r->headers_out.content_length_n = body->last - body->pos;
    ngx_str_set(&r->headers_out.content_type, "application/problem+json");
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = nullptr;
    r->headers_out.charset.len = 0;
    return body;
}

bool has_upstream_ended(const Context &context)
{
    return context.from_upstream && context.request->upstream->cleanup == nullptr;
}

// nginx follows an error page outside of the filters: ngx_http_writer ends the request with what
// the body filter returns.
ngx_int_t await_error_page(Context &context, Problem problem)
{
    ngx_http_request_t *r = context.request;

    if (!advance(context, Stage::problem)) {
        return NGX_ERROR;
    }

    context.problem = problem;
    context.awaits_error_page = true;
    r->buffered |= kBuffered;
    ngx_post_event(r->connection->write, &ngx_posted_events);
    return NGX_AGAIN;
}

// The status of the request stays: that of a request whose response broke off is not that of a
// refused one.
ngx_int_t refuse_with(Context &context, Problem problem, Millis retry_after)
{
    ngx_http_request_t *r = context.request;
    const ProblemText text = problem_text(*context.conf, problem);

    bool is_repeated = context.stage == Stage::problem;

    context.stage = Stage::inactive;
    context.problem_code = text.code;

    // the client may take its time to read this response
    if (context.exchange != nullptr) {
        context.exchange->free_value();
    }

    if (retry_after > 0 && !add_retry_after(r, retry_after)) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (!is_repeated && has_error_page(r, text.status)) {
        context.stage = Stage::problem;
        context.problem = problem;
        return static_cast<ngx_int_t>(text.status);
    }

    ngx_int_t rc = discard_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    ngx_chain_t out{prepare_problem(r, *context.conf, problem), nullptr};

    if (out.buf == nullptr) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->err_status = 0;
    r->disable_not_modified = 1;
    rc = ngx_http_send_header(r);

    if (rc != NGX_ERROR && rc <= NGX_OK && !r->header_only) {
        rc = ngx_http_output_filter(r, &out);
    }

    ngx_http_finalize_request(r, rc);
    return NGX_DONE;
}

}  // namespace

ProblemText problem_text(const LocationConfig &conf, Problem problem)
{
    ProblemText text = default_problem_text(problem);

    if (conf.answers == nullptr) {
        return text;
    }

    const AnswerOverride &answer = conf.answers[static_cast<std::size_t>(problem)];

    if (answer.status != 0) {
        text.status = static_cast<unsigned>(answer.status);
    }

    if (answer.code != nullptr) {
        text.code = answer.code;
    }

    return text;
}

ngx_int_t discard_body(ngx_http_request_t *r)
{
    // a client that waits for 100 (Continue) need not send its body any more, and may not know
    // that the server waits for it: so the connection is closed
    if (r->headers_in.expect != nullptr && !r->expect_tested
        && r->http_version < NGX_HTTP_VERSION_20) {
        r->expect_tested = 1;
        r->keepalive = 0;
    }

    return ngx_http_discard_request_body(r);
}

Problem problem_of(Status status)
{
    switch (status) {
    case Status::missing:
        return Problem::key_missing;
    case Status::unscoped:
        return Problem::scope_missing;
    case Status::invalid:
        return Problem::key_invalid;
    case Status::reused:
        return Problem::key_reused;
    case Status::in_progress:
        return Problem::in_progress;
    case Status::unknown:
        return Problem::outcome_unknown;
    case Status::not_kept:
        return Problem::response_not_kept;
    case Status::quota:
        return Problem::quota_exceeded;
    case Status::store_error:
    case Status::none:
    case Status::fresh:
    case Status::replayed:
    case Status::bypass:
        break;
    }

    return Problem::store_unavailable;
}

ngx_int_t refuse_request(Context &context, Status status, Millis retry_after)
{
    context.status = status;
    return refuse_with(context, problem_of(status), retry_after);
}

ngx_int_t continue_to_error_page(Context &context)
{
    note_redirect(context);

    if (!context.became_get) {
        return refuse_with(context, context.problem, 0);
    }

    return take_body_away(context.request) ? NGX_DECLINED : NGX_HTTP_INTERNAL_SERVER_ERROR;
}

ngx_int_t follow_error_page(Context &context, ngx_chain_t *in)
{
    ngx_http_request_t *r = context.request;

    if (in != nullptr) {
        return NGX_AGAIN;
    }

    context.awaits_error_page = false;
    r->buffered &= static_cast<unsigned>(~kBuffered) & 0xf;
    r->main_filter_need_in_memory = 0;
    r->filter_need_in_memory = 0;
    return static_cast<ngx_int_t>(problem_text(*context.conf, context.problem).status);
}

ngx_int_t send_problem(Context &context, Problem problem)
{
    ngx_http_request_t *r = context.request;
    const ProblemText text = problem_text(*context.conf, problem);

    context.problem_code = text.code;
    ngx_http_clean_header(r);

    // another content handler than an upstream, such as Lua, may still be running
    if (has_upstream_ended(context) && has_error_page(r, text.status)) {
        return await_error_page(context, problem);
    }

    if (!advance(context, Stage::passing_through)) {
        return NGX_ERROR;
    }

    ngx_chain_t out{prepare_problem(r, *context.conf, problem), nullptr};

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
