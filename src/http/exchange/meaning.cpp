#include "http/exchange/meaning.h"

#include "http/config/upstream_modules.h"
#include "http/exchange/accel_header.h"
#include "http/exchange/guard.h"
#include "nginx/list.h"

namespace idempotency {

namespace {

bool has_application_responded(const ngx_http_upstream_t &u)
{
    // set when the whole response header has arrived (ngx_http_upstream_process_header)
    return u.request_sent && u.state->header_time != static_cast<ngx_msec_t>(-1);
}

bool is_stale([[maybe_unused]] ngx_http_request_t *r)
{
#if (NGX_HTTP_CACHE)
    return r->cached && r->upstream->cache_status == NGX_HTTP_CACHE_STALE;
#else
    return false;
#endif
}

bool is_from_cache([[maybe_unused]] ngx_http_request_t *r)
{
#if (NGX_HTTP_CACHE)
    return r->cached;
#else
    return false;
#endif
}

unsigned status_of(ngx_http_request_t *r)
{
    const ngx_http_upstream_t &u = *r->upstream;

    // a cache that serves a stale response has overwritten u.headers_in
    if (u.state != nullptr && is_stale(r)) {
        return static_cast<unsigned>(u.state->status);
    }

    return static_cast<unsigned>(u.headers_in.status_n);
}

bool is_retriable_status(const Context &context, unsigned status)
{
    return context.conf->retriable->has(status);
}

Origin origin_of_upstream(const Context &context)
{
    ngx_http_request_t *r = context.request;
    const ngx_http_upstream_t &u = *r->upstream;

    // a cache has the response, and the application was not asked
    if (u.state == nullptr) {
        return is_from_cache(r) ? Origin::application : Origin::not_reached;
    }

    // `proxy_cache_use_stale` in place of a response that is lost: what the cache sends is
    // the response to another request
    if (is_stale(r) && has_application_responded(u)) {
        return is_retriable_status(context, status_of(r)) ? Origin::application : Origin::broken;
    }

    if (has_application_responded(u)) {
        return Origin::application;
    }

    // the application may act on the part of the body that it has, unless the client has left
    // before it sent the rest: then no application has got a whole request
    return u.request_sent && !(is_body_missing(r) && context.client_body_incomplete)
               ? Origin::broken
               : Origin::not_reached;
}

// After X-Accel-Redirect or an intercepted error, the response headers of the application
// are only in `u.headers_in`.
void read_accel_headers(Context &context, const ngx_http_upstream_t &u)
{
    for (ngx_table_elt_t &field : HeaderFields(u.headers_in.headers)) {
        if (is_accel_header(field)) {
            parse_word(view(field.value), context.accel_directives);
        }
    }
}

bool may_replace(const Context &context)
{
    return context.meaning.origin == Origin::application && context.meaning.retriable
           && context.passes_status && !context.became_get;
}

}  // namespace

void set_meaning(Context &context, Origin origin, unsigned status)
{
    context.meaning = {true, origin, is_retriable_status(context, status), status};
}

void note_exchange(Context &context)
{
    ngx_http_upstream_t *u = context.request->upstream;

    if (u == nullptr || u == context.noted_upstream
        || (context.meaning.known && !may_replace(context))) {
        return;
    }

    Origin origin = origin_of_upstream(context);

    if (origin == Origin::not_reached) {
        return;
    }

    context.noted_upstream = u;
    context.accel_directives = Word{};

    if (origin == Origin::application) {
        set_meaning(context, origin, status_of(context.request));
        read_accel_headers(context, *u);
    } else {
        set_meaning(context, origin, 0);
    }
}

bool is_handled_without_upstream(const Context &context)
{
    return context.request->upstream == context.previous_upstream && !context.upstream_not_created
           && (context.previous_upstream == nullptr
               || (context.content_handler_called
                   && !is_upstream_handler(context.content_handler)));
}

bool is_noted_without_upstream(const Context &context)
{
    return is_handled_without_upstream(context)
           && (!context.meaning.known || (context.content_handler_called && may_replace(context)));
}

bool note_response(Context &context)
{
    bool was_known = context.meaning.known;

    note_exchange(context);

    if (!is_noted_without_upstream(context)) {
        return !was_known;
    }

    context.accel_directives = Word{};
    set_meaning(context, Origin::application,
                static_cast<unsigned>(context.request->headers_out.status));
    return true;
}

Origin origin_of(const Context &context)
{
    if (context.meaning.known || context.request->upstream == nullptr) {
        return context.meaning.origin;
    }

    return origin_of_upstream(context);
}

}  // namespace idempotency
