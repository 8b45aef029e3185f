// Two settings in the `upstream` configuration of a location (ngx_http_upstream_conf_t)
// decide whether the exchange ends when the client disconnects, and which failures are
// retried with another server.  Each exchange of a claimed request gets its own copy of this
// configuration; other requests in the same location use the configured one.
//
// The copy is made when nginx has created the upstream and chooses a server for the first
// time: within `peer.init`, which nginx calls before it connects.  So it does not matter
// which content handler has created the upstream, and whether it was called by another one.

#include "http/exchange/guard.h"

#include <cstddef>

#include "http/config/upstream_modules.h"
#include "http/exchange/client_close.h"

namespace idempotency {

namespace {

// Failures after which no server may have got the request: ngx_http_upstream_next.
constexpr ngx_uint_t kRetriedFailures = NGX_HTTP_UPSTREAM_FT_ERROR | NGX_HTTP_UPSTREAM_FT_TIMEOUT;

void set_guarded(ngx_http_upstream_conf_t &conf)
{
    conf.ignore_client_abort = 1;
    conf.next_upstream &= kRetriedFailures;
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

// What is replaced in an upstream.  Lives in the request's pool, as r->upstream does.
struct UpstreamGuard {
    ngx_http_request_t *request;
    ngx_http_upstream_t *upstream;
    ngx_http_upstream_conf_t conf;
    ngx_output_chain_filter_pt output_filter;
    void *filter_ctx;
    ngx_int_t (*create_request)(ngx_http_request_t *r);
    void (*finalize_request)(ngx_http_request_t *r, ngx_int_t rc);
};

// Only of an upstream that is guarded: its `conf` is the copy in the guard.
UpstreamGuard &guard_of(const ngx_http_upstream_t &u)
{
    return *reinterpret_cast<UpstreamGuard *>(reinterpret_cast<char *>(u.conf)
                                              - offsetof(UpstreamGuard, conf));
}

// nginx's ngx_output_chain_filter_pt: the request is about to be sent.  From now on no other
// server may get it.
ngx_int_t on_output(void *data, ngx_chain_t *in)
{
    auto *guard = static_cast<UpstreamGuard *>(data);
    ngx_http_request_t *r = guard->request;

    guard->conf.next_upstream = 0;

    if (r == r->main) {
        ignore_stream_reset(r);
    }

    return guard->output_filter(guard->filter_ctx, in);
}

// In place of the `finalize_request` of r->upstream, which nginx calls before any redirect.
void on_finalize_upstream(ngx_http_request_t *r, ngx_int_t rc)
{
    Context *context = r == r->main ? find_context(r) : nullptr;

    // ngx_http_upstream_send_request_body: ngx_http_read_unbuffered_request_body has failed;
    // or the request is terminated (ngx_http_upstream_cleanup)
    if (context != nullptr && r->reading_body
        && ((rc >= NGX_HTTP_BAD_REQUEST && rc < NGX_HTTP_INTERNAL_SERVER_ERROR)
            || (rc == NGX_DONE && r->connection->error)))
    {
        context->client_body_incomplete = true;
    }

    guard_of(*r->upstream).finalize_request(r, rc);
}

void replace_output_filter(UpstreamGuard &guard)
{
    ngx_output_chain_ctx_t &output = guard.upstream->output;

    if (output.output_filter == on_output) {
        return;
    }

    guard.output_filter = output.output_filter;
    guard.filter_ctx = output.filter_ctx;

    // ngx_http_upstream_init_request sets them unless they are set
    if (guard.output_filter == nullptr) {
        guard.output_filter = ngx_chain_writer;
        guard.filter_ctx = &guard.upstream->writer;
    }

    output.output_filter = on_output;
    output.filter_ctx = &guard;
}

// In place of the `create_request` of r->upstream, which may set another output filter.
ngx_int_t on_create_request(ngx_http_request_t *r)
{
    UpstreamGuard &guard = guard_of(*r->upstream);
    ngx_int_t rc = guard.create_request(r);

    replace_output_filter(guard);
    return rc;
}

bool replace_in_upstream(ngx_http_request_t *r)
{
    ngx_http_upstream_t *u = r->upstream;

    if (u->finalize_request == on_finalize_upstream) {
        return true;
    }

    auto *guard = allocate<UpstreamGuard>(r->pool);

    if (guard == nullptr) {
        return false;
    }

    guard->request = r;
    guard->upstream = u;
    guard->conf = *u->conf;
    guard->create_request = u->create_request;
    guard->finalize_request = u->finalize_request;

    set_guarded(guard->conf);
    u->conf = &guard->conf;
    u->create_request = on_create_request;
    u->finalize_request = on_finalize_upstream;
    replace_output_filter(*guard);
    return true;
}

// Whether the read handler has to read the request body.  Over HTTP/2 and HTTP/3 all of it may have
// arrived (`rest` is 0) and not have passed the filters yet.
bool is_body_read_later(const ngx_http_request_t *r)
{
    const ngx_http_request_body_t *body = r->request_body;

    // ngx_http_read_client_request_body leaves `rest` at -1 where there is no body.  Without a
    // `post_handler`, nginx does not read the body: Lua does (ngx.req.socket), or it was discarded.
    return body != nullptr
           && (body->rest > 0
               || (body->rest == 0 && !body->last_saved && body->post_handler != nullptr));
}

// `lua_check_client_abort on` ends a request whose client disconnects.
void ignore_client_abort(ngx_http_request_t *r)
{
    if (r->upstream == nullptr && !is_body_read_later(r)) {
        r->read_event_handler = ngx_http_block_reading;
    }
}

// nginx's ngx_http_handler_pt, in place of the location's content handler
ngx_int_t run_guarded(ngx_http_request_t *r)
{
    Context *context = find_context(r);
    ngx_http_handler_pt handler = context->content_handler;

    r->content_handler = handler;
    context->content_handler_called = true;
    context->upstream_not_created = false;

    GuardedLocation location(main_config(r)->upstream_modules, r);
    ngx_int_t rc = handler(r);

    ignore_client_abort(r);
    ignore_stream_reset(r);

    if (r->upstream == nullptr && rc >= NGX_HTTP_INTERNAL_SERVER_ERROR
        && is_upstream_handler(handler)) {
        context->upstream_not_created = true;
    }

    // without `peer.init`: the name of the server is resolved first
    if (r->upstream == nullptr || !location.has(r->upstream->conf)) {
        return rc;
    }

    remember_upstream_handler(handler);
    return replace_in_upstream(r) ? rc : NGX_ERROR;
}

// Whether the exchange must continue if the client disconnects.
bool must_continue(const Context &context)
{
    return has_open_claim(context)
           || (context.stage == Stage::passing_through && !context.response_ended);
}

// nginx's ngx_http_handler_pt, in place of the content handler of a subrequest
ngx_int_t run_guarded_subrequest(ngx_http_request_t *r)
{
    r->content_handler = location_of(r).handler;

    GuardedLocation location(main_config(r)->upstream_modules, r);
    ngx_int_t rc = r->content_handler(r);

    if (r->upstream == nullptr || !location.has(r->upstream->conf)) {
        return rc;
    }

    return replace_in_upstream(r) ? rc : NGX_ERROR;
}

}  // namespace

void guard_upstream(Context &context)
{
    ngx_http_request_t *r = context.request;

    ignore_quic_close(r);

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
        && r->content_handler == location_of(r).handler)
    {
        r->content_handler = run_guarded_subrequest;
    }
}

bool guard_exchange(ngx_http_request_t *r)
{
    Context *context = find_context(r->main);

    if (context == nullptr || r->main->post_action || !must_continue(*context)) {
        return true;
    }

    if (r == r->main) {
        remember_upstream_handler(context->content_handler);
        ignore_stream_reset(r);
    }

    return replace_in_upstream(r);
}

}  // namespace idempotency
