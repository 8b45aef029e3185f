// A claimed request goes to the application once, and to its end.
//
// What decides that in nginx stands in the `upstream` configuration of a
// location (ngx_http_upstream_conf_t): whether the exchange ends when the
// client goes away, and which failures are tried again elsewhere.  A claimed
// request gets a copy of its own; others in the same location see the user's.
// An exchange is set up within the call of the location's content handler, so
// that is where the copy is put in place.

#include "http/exchange/guard.h"

#include "http/config/upstream_modules.h"
#include "http/exchange/client_close.h"

namespace idempotency {

namespace {

// With one of these bits nginx asks for `non_idempotent` before it tries
// another server with a request that has gone out (ngx_http_upstream_next).
constexpr ngx_uint_t kNotRepeated = NGX_HTTP_POST | NGX_HTTP_LOCK | NGX_HTTP_PATCH;

void guard(ngx_http_upstream_conf_t &conf)
{
    conf.ignore_client_abort = 1;
    conf.next_upstream &= ~static_cast<ngx_uint_t>(NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT);
}

// Guards a location's upstream configurations for as long as it lives: within
// one call of the content handler, in which no other request has its turn.
class GuardedLocation {
public:
    explicit GuardedLocation(const ngx_array_t &indices, ngx_http_request_t *r)
    {
        auto *index = static_cast<ngx_uint_t *>(indices.elts);

        for (ngx_uint_t i = 0; i < indices.nelts && count_ < kUpstreamModules; i++) {
            auto *conf = static_cast<ngx_http_upstream_conf_t *>(r->loc_conf[index[i]]);

            saved_[count_++] = {conf, conf->ignore_client_abort, conf->next_upstream};
            guard(*conf);
        }
    }

    ~GuardedLocation()
    {
        for (ngx_uint_t i = 0; i < count_; i++) {
            saved_[i].conf->ignore_client_abort = saved_[i].ignore_client_abort;
            saved_[i].conf->next_upstream = saved_[i].next_upstream;
        }
    }

    GuardedLocation(const GuardedLocation &) = delete;
    GuardedLocation &operator=(const GuardedLocation &) = delete;

    bool has(const ngx_http_upstream_conf_t *conf) const
    {
        for (ngx_uint_t i = 0; i < count_; i++) {
            if (saved_[i].conf == conf) {
                return true;
            }
        }

        return false;
    }

private:
    struct Saved {
        ngx_http_upstream_conf_t *conf;
        ngx_flag_t ignore_client_abort;
        ngx_uint_t next_upstream;
    };

    Saved saved_[kUpstreamModules];
    ngx_uint_t count_ = 0;
};

// The copy lives with the request, as its upstream does.
bool copy_upstream_conf(ngx_http_request_t *r)
{
    auto *copy = static_cast<ngx_http_upstream_conf_t *>(
        ngx_palloc(r->pool, sizeof(ngx_http_upstream_conf_t)));

    if (copy == nullptr) {
        return false;
    }

    *copy = *r->upstream->conf;
    r->upstream->conf = copy;
    return true;
}

void restore_method(Context &context)
{
    ngx_http_request_t *r = context.request;

    if (r->method == (context.method | NGX_HTTP_LOCK)) {
        r->method = context.method;
    }
}

// An upstream's `finalize_request`, which comes before any redirect: the
// location of an error page is chosen by the method too (`limit_except`).
void on_exchange_ended(ngx_http_request_t *r, ngx_int_t rc)
{
    Context *context = find_context(r);

    restore_method(*context);
    context->finalize_upstream(r, rc);
}

void watch_end(Context &context)
{
    ngx_http_upstream_t *u = context.request->upstream;

    if (u->finalize_request != on_exchange_ended) {
        context.finalize_upstream = u->finalize_request;
        u->finalize_request = on_exchange_ended;
    }
}

// nginx's ngx_http_handler_pt, in place of the location's content handler
ngx_int_t run_guarded(ngx_http_request_t *r)
{
    Context *context = find_context(r);

    r->content_handler = context->content_handler;
    context->handled = true;
    context->exchange_failed = false;
    context->method = r->method;

    if ((r->method & kNotRepeated) == 0) {
        r->method |= NGX_HTTP_LOCK;
    }

    GuardedLocation location(main_config(r)->upstream_modules, r);
    ngx_int_t rc = r->content_handler(r);

    ignore_stream_reset(r);

    if (r->upstream == nullptr || !location.has(r->upstream->conf)) {
        r->method = context->method;  // it was no exchange with an upstream
        context->exchange_failed = r->upstream == nullptr && rc >= NGX_HTTP_INTERNAL_SERVER_ERROR
                                   && is_upstream_handler(context->content_handler);
        return rc;
    }

    remember_upstream_handler(context->content_handler);
    watch_end(*context);
    return copy_upstream_conf(r) ? rc : NGX_ERROR;
}

// Whether the application is at work for it, so that its client may leave.
bool is_under_way(const Context &context)
{
    return awaits_response(context) || (context.stage == Stage::passing && !context.response_ended);
}

ngx_http_handler_pt handler_of_location(ngx_http_request_t *r)
{
    return static_cast<ngx_http_core_loc_conf_t *>(
               ngx_http_get_module_loc_conf(r, ngx_http_core_module))
        ->handler;
}

// nginx's ngx_http_handler_pt, in place of that of a subrequest
ngx_int_t run_guarded_subrequest(ngx_http_request_t *r)
{
    r->content_handler = handler_of_location(r);

    GuardedLocation location(main_config(r)->upstream_modules, r);
    ngx_int_t rc = r->content_handler(r);

    if (r->upstream == nullptr || !location.has(r->upstream->conf)) {
        return rc;
    }

    return copy_upstream_conf(r) ? rc : NGX_ERROR;
}

}  // namespace

void guard_upstream(Context &context)
{
    ngx_http_request_t *r = context.request;

    ignore_quic_close(r);

    // an exchange that failed at once was not watched
    restore_method(context);

    if (r->content_handler != nullptr && r->content_handler != run_guarded) {
        context.content_handler = r->content_handler;
        r->content_handler = run_guarded;
    }
}

// The content handler of a claimed request may do its work by subrequests
// (`echo_location`), and so does what nginx makes of its answer (SSI): they end
// with their client no more than it does.
void guard_subrequest(ngx_http_request_t *r)
{
    Context *context = find_context(r->main);

    if (context != nullptr && is_under_way(*context) && r->content_handler != nullptr
        && r->content_handler == handler_of_location(r))
    {
        r->content_handler = run_guarded_subrequest;
    }
}

Origin origin_of(const Context &context)
{
    ngx_http_request_t *r = context.request;
    ngx_http_upstream_t *u = r->upstream;

    if (r->cached) {
        return Origin::application;
    }

    if (u == nullptr || u->state == nullptr) {
        return context.previous_origin;
    }

    // set when the whole head is there (ngx_http_upstream_process_header)
    if (u->state->header_time != static_cast<ngx_msec_t>(-1)) {
        return Origin::application;
    }

    // a body that is still coming in is no whole request
    if (u->request_sent && !r->reading_body) {
        return Origin::broken;
    }

    return context.previous_origin;
}

}  // namespace idempotency
