// Two settings in the `upstream` configuration of a location (ngx_http_upstream_conf_t)
// decide whether the exchange ends when the client disconnects, and which failures are
// retried with another server.  A claimed request gets its own copy of this
// configuration; other requests in the same location use the configured one.  nginx
// creates the upstream within the call of the location's content handler, so the copy is
// made around this call.

#include "http/exchange/guard.h"

#include "http/config/upstream_modules.h"
#include "http/exchange/client_close.h"

namespace idempotency {

namespace {

// For these methods nginx does not send a request that was sent already to another
// server, except with `proxy_next_upstream non_idempotent` (ngx_http_upstream_next).
constexpr ngx_uint_t kNonIdempotentMethods = NGX_HTTP_POST | NGX_HTTP_LOCK | NGX_HTTP_PATCH;

void set_guarded(ngx_http_upstream_conf_t &conf)
{
    conf.ignore_client_abort = 1;
    conf.next_upstream &= ~static_cast<ngx_uint_t>(NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT);
}

// Changes the upstream configurations of a location, and restores them in the destructor.
// It lives during one call of the content handler, in which no other request runs.
class GuardedLocation {
public:
    explicit GuardedLocation(const ngx_array_t &indices, ngx_http_request_t *r)
    {
        auto *index = static_cast<ngx_uint_t *>(indices.elts);

        for (ngx_uint_t i = 0; i < indices.nelts && count_ < kUpstreamModules; i++) {
            auto *conf = static_cast<ngx_http_upstream_conf_t *>(r->loc_conf[index[i]]);

            saved_[count_++] = {conf, conf->ignore_client_abort, conf->next_upstream};
            set_guarded(*conf);
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

// The copy lives in the request's pool, as r->upstream does.
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

    if (r->method == (context.original_method | NGX_HTTP_LOCK)) {
        r->method = context.original_method;
    }
}

// In place of the `finalize_request` of r->upstream, which nginx calls before any
// redirect.  The method must be restored by then, since the location of an error page
// checks it (`limit_except`).
void on_finalize_upstream(ngx_http_request_t *r, ngx_int_t rc)
{
    Context *context = find_context(r);

    restore_method(*context);

    // ngx_http_upstream_send_request_body: ngx_http_read_unbuffered_request_body has failed;
    // or the request is terminated (ngx_http_upstream_cleanup)
    if (r->reading_body
        && ((rc >= NGX_HTTP_BAD_REQUEST && rc < NGX_HTTP_INTERNAL_SERVER_ERROR)
            || (rc == NGX_DONE && r->connection->error)))
    {
        context->client_body_incomplete = true;
    }

    context->original_finalize(r, rc);
}

void replace_finalize(Context &context)
{
    ngx_http_upstream_t *u = context.request->upstream;

    if (u->finalize_request != on_finalize_upstream) {
        context.original_finalize = u->finalize_request;
        u->finalize_request = on_finalize_upstream;
    }
}

// `lua_check_client_abort on` ends a request whose client disconnects.
void ignore_client_abort(ngx_http_request_t *r)
{
    if (r->upstream == nullptr && (r->request_body == nullptr || r->request_body->rest <= 0)) {
        r->read_event_handler = ngx_http_block_reading;
    }
}

// nginx's ngx_http_handler_pt, in place of the location's content handler
ngx_int_t run_guarded(ngx_http_request_t *r)
{
    Context *context = find_context(r);

    r->content_handler = context->content_handler;
    context->content_handler_called = true;
    context->upstream_not_created = false;
    context->original_method = r->method;

    if ((r->method & kNonIdempotentMethods) == 0) {
        r->method |= NGX_HTTP_LOCK;
    }

    GuardedLocation location(main_config(r)->upstream_modules, r);
    ngx_int_t rc = r->content_handler(r);

    ignore_client_abort(r);
    ignore_stream_reset(r);

    if (r->upstream == nullptr || !location.has(r->upstream->conf)) {
        r->method = context->original_method;  // there is no exchange with an upstream
        context->upstream_not_created = r->upstream == nullptr
                                        && rc >= NGX_HTTP_INTERNAL_SERVER_ERROR
                                        && is_upstream_handler(context->content_handler);
        return rc;
    }

    remember_upstream_handler(context->content_handler);
    replace_finalize(*context);
    return copy_upstream_conf(r) ? rc : NGX_ERROR;
}

// Whether the exchange must continue if the client disconnects.
bool must_continue(const Context &context)
{
    return has_open_claim(context)
           || (context.stage == Stage::passing_through && !context.response_ended);
}

ngx_http_handler_pt content_handler_of_location(ngx_http_request_t *r)
{
    return static_cast<ngx_http_core_loc_conf_t *>(
               ngx_http_get_module_loc_conf(r, ngx_http_core_module))
        ->handler;
}

// nginx's ngx_http_handler_pt, in place of the content handler of a subrequest
ngx_int_t run_guarded_subrequest(ngx_http_request_t *r)
{
    r->content_handler = content_handler_of_location(r);

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

    // `on_finalize_upstream` did not run for an exchange that failed at once
    restore_method(context);

    if (r->content_handler != nullptr && r->content_handler != run_guarded) {
        context.content_handler = r->content_handler;
        r->content_handler = run_guarded;
    }
}

// The content handler of a claimed request may use subrequests (`echo_location`), and so
// may the filters of its response (SSI).  They must not end either if the client
// disconnects.
void guard_subrequest(ngx_http_request_t *r)
{
    Context *context = find_context(r->main);

    if (context != nullptr && must_continue(*context) && r->content_handler != nullptr
        && r->content_handler == content_handler_of_location(r))
    {
        r->content_handler = run_guarded_subrequest;
    }
}

}  // namespace idempotency
