// The filters run in the place of third-party filters (HTTP_AUX_FILTER): after the copy
// filter, before `add_header`, `sub_filter`, SSI and gzip.  So the held response is that
// of the application, and these filters are applied to each replay again.

#include "http/answer/capture.h"

#include "http/answer/deliver.h"
#include "http/answer/fields.h"
#include "http/answer/malformed_body.h"
#include "http/answer/own_fields.h"
#include "http/answer/pass_through.h"
#include "http/answer/problem.h"
#include "http/answer/settle.h"
#include "http/answer/stream.h"
#include "http/answer/subrequest.h"
#include "http/exchange/exchange.h"
#include "http/exchange/redirect.h"

namespace idempotency {

ngx_http_output_header_filter_pt next_header_filter;
ngx_http_output_body_filter_pt next_body_filter;

namespace {

Context *main_request_context(ngx_http_request_t *r)
{
    return r == r->main ? find_context(r) : nullptr;
}

bool is_too_large(ngx_http_request_t *r, const LocationConfig &conf)
{
    return r->headers_out.content_length_n > 0
           && static_cast<size_t>(r->headers_out.content_length_n) > conf.max_body;
}

// `release` and `no-store`: the response need not be held.  But with a Content-Length the client has
// the whole response before `hold_end` can wait for the store, and might retry too early.
bool may_pass_at_once(const Context &context)
{
    return context.from_upstream && context.facts.origin == Origin::application
           && (context.facts.word.release || context.facts.word.no_store)
           && (context.request->headers_out.content_length_n < 0 || is_stream(context));
}

ngx_int_t begin_response(Context &context)
{
    ngx_http_request_t *r = context.request;

    read_response_head(context);
    r->allow_ranges = 0;

    // a module that sends a header only (`dav_methods PUT`) does not call the body filter
    if (r->header_only) {
        return settle(context);
    }

    if (is_too_large(r, *context.conf) || may_pass_at_once(context)) {
        return start_pass_through(context, nullptr, Outcome::not_kept_size);
    }

    // later filters say so in their header filter, which runs too late for nginx to keep the
    // request body for a subrequest
    r->preserve_body = 1;
    r->main_filter_need_in_memory = 1;
    r->filter_need_in_memory = 1;

    if (r->headers_out.content_length_n > 0) {
        context.exchange->response().expect(static_cast<size_t>(r->headers_out.content_length_n));
    }

    if (is_stream(context)) {
        return start_stream(context);
    }

    if (!advance(context, Stage::capturing)) {
        return NGX_ERROR;
    }

    watch_for_malformed_body(context);
    await_grpc_trailers(context);
    return NGX_OK;
}

// 101 (Switching Protocols): the connection becomes a tunnel, whose data can't be
// replayed.
void stop_covering(Context &context)
{
    if (!advance(context, Stage::inactive)) {
        return;
    }

    context.status = Status::none;
    context.exchange->settle(Outcome::released_upgrade, 0, on_settled);
}

// nginx's ngx_http_output_header_filter_pt
ngx_int_t on_header(ngx_http_request_t *r)
{
    Context *context = main_request_context(r);

    // what follows is an error page, not the rest of the stream
    if (context != nullptr && context->stage == Stage::streaming && context->response_replaced
        && !stop_recording(*context, Outcome::not_kept_stream))
    {
        return NGX_ERROR;
    }

    if (context == nullptr || context->stage != Stage::executing) {
        if (r == r->main) {
            clean_fields(r, context, r->headers_out.headers);
        }

        return next_header_filter(r);
    }

    if (r->headers_out.status >= NGX_HTTP_OK) {
        if (is_refused(*context)) {
            release_refused(*context);
            return next_header_filter(r);
        }

        return begin_response(*context);
    }

    if (r->headers_out.status == NGX_HTTP_SWITCHING_PROTOCOLS) {
        stop_covering(*context);
        return next_header_filter(r);
    }

    // nginx before 1.29 takes an interim response of the application (1xx) for the response,
    // and what follows for its body
    return start_pass_through(*context, nullptr, Outcome::not_kept_stream);
}

// The response turns out to be a stream with the last byte that was held: the rest of the chain
// comes after it.
ngx_int_t turn_into_stream(Context &context, ngx_chain_t *rest)
{
    ngx_int_t rc = start_stream(context);

    if (rc == NGX_ERROR || rest == nullptr) {
        return rc;
    }

    return stream_body(context, rest);
}

ngx_int_t capture_body(Context &context, ngx_chain_t *in)
{
    ngx_http_request_t *r = context.request;

    if (has_subrequests(r)) {
        return start_pass_through_before_subrequests(context, in);
    }

    for (ngx_chain_t *link = in; link != nullptr; link = link->next) {
        ngx_buf_t *b = link->buf;

        if (ngx_buf_in_memory(b)) {
            std::string_view bytes{reinterpret_cast<const char *>(b->pos),
                                   static_cast<size_t>(b->last - b->pos)};

            if (bytes.size() > context.conf->max_body - context.exchange->response().body_size()) {
                return start_pass_through(context, link, Outcome::not_kept_size);
            }

            if (context.grpc_kind != GrpcKind::none) {
                context.grpc_messages.feed(bytes);
            }

            std::size_t appended = context.exchange->response().append(bytes);

            if (appended < bytes.size()) {
                b->pos += appended;
                return start_pass_through(context, link, Outcome::not_kept_size);
            }
        }

        mark_sent(b);

        if (is_truncated(context, b) || (b->last_buf && has_wrong_length(context))) {
            return settle_incomplete(context);
        }

        if (b->last_buf) {
            return settle(context);
        }

        if (context.grpc_messages.begun > 1) {
            return turn_into_stream(context, link->next);
        }
    }

    return NGX_OK;
}

// In the other stages.  The key of a request that something else refused may be being released: its
// error page is held until then, because a client that has it might send the next request at once.
ngx_int_t send_uncovered(Context &context, ngx_chain_t *in)
{
    if (context.exchange == nullptr || !context.exchange->is_settling()) {
        return next_body_filter(context.request, in);
    }

    if (ngx_chain_add_copy(context.request->pool, &context.held, in) != NGX_OK) {
        return NGX_ERROR;
    }

    wait_for_store(context);
    return NGX_AGAIN;
}

// nginx's ngx_http_output_body_filter_pt
ngx_int_t on_body(ngx_http_request_t *r, ngx_chain_t *in)
{
    if (r != r->main) {
        return on_subrequest_body(r, in);
    }

    Context *context = find_context(r);
    bool has_trailers = r->headers_out.trailers.part.nelts > 0;

    // while the response is held or recorded, its end reads the trailers
    if (has_trailers && (context == nullptr || !has_open_claim(*context))) {
        clean_fields(r, context, r->headers_out.trailers);
    }

    if (context == nullptr) {
        return next_body_filter(r, in);
    }

    switch (context->stage) {
    case Stage::capturing:
        return capture_body(*context, in);

    case Stage::settling:
        mark_all_sent(in);
        return NGX_AGAIN;

    case Stage::streaming:
        return stream_body(*context, in);

    case Stage::passing_through:
        return pass_through(*context, in);

    default:
        return context->awaits_error_page ? follow_error_page(*context, in)
                                          : send_uncovered(*context, in);
    }
}

}  // namespace

void install_capture()
{
    next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = on_header;
    next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = on_body;
}

}  // namespace idempotency
