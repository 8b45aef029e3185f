// A claimed request goes to the application once, and to its end.
//
// What decides that in nginx stands in the `upstream` configuration of a
// location (ngx_http_upstream_conf_t): whether the exchange ends when the
// client goes away, and which failures are tried again elsewhere.  A claimed
// request gets a copy of its own; others in the same location see the user's.
// An exchange is set up within the call of the location's content handler, so
// that is where the copy is put in place.

#include "http/steps.h"

namespace idempotency {

namespace {

// Their location configuration begins with an ngx_http_upstream_conf_t.
constexpr const char *kUpstreamModules[] = {
    "ngx_http_proxy_module", "ngx_http_fastcgi_module", "ngx_http_uwsgi_module",
    "ngx_http_scgi_module",  "ngx_http_grpc_module",    "ngx_http_memcached_module",
};

constexpr ngx_uint_t kMostModules = sizeof(kUpstreamModules) / sizeof(kUpstreamModules[0]);

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

        for (ngx_uint_t i = 0; i < indices.nelts && count_ < kMostModules; i++) {
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

    Saved saved_[kMostModules];
    ngx_uint_t count_ = 0;
};

// The copy lives with the request, as its upstream does.
bool give_own_copy(ngx_http_request_t *r)
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

void unmark(Context &context)
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

    unmark(*context);
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

// The content handlers that set up an exchange: of locations that name their
// upstream, or seen by this worker.
ngx_http_handler_pt exchanging[kMostModules];

void remember_exchanging(ngx_http_handler_pt handler)
{
    for (ngx_http_handler_pt &known : exchanging) {
        if (known == nullptr) {
            known = handler;
        }

        if (known == handler) {
            return;
        }
    }
}

bool is_exchanging(ngx_http_handler_pt handler)
{
    for (ngx_http_handler_pt known : exchanging) {
        if (known == handler) {
            return true;
        }
    }

    return false;
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

    outlast_reset(r);

    if (r->upstream == nullptr || !location.has(r->upstream->conf)) {
        r->method = context->method;    // it was no exchange with an upstream
        context->exchange_failed = r->upstream == nullptr && rc >= NGX_HTTP_INTERNAL_SERVER_ERROR
                                   && is_exchanging(context->content_handler);
        return rc;
    }

    remember_exchanging(context->content_handler);
    watch_end(*context);
    return give_own_copy(r) ? rc : NGX_ERROR;
}

// Whether the application is at work for it, so that its client may leave.
bool is_under_way(const Context &context)
{
    return awaits_answer(context)
           || (context.stage == Stage::passing && !context.answer_ended);
}

ngx_http_handler_pt handler_of_location(ngx_http_request_t *r)
{
    return static_cast<ngx_http_core_loc_conf_t *>(
               ngx_http_get_module_loc_conf(r, ngx_http_core_module))->handler;
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

    return give_own_copy(r) ? rc : NGX_ERROR;
}

}  // namespace

bool find_upstream_modules(ngx_conf_t *cf, ngx_array_t &indices)
{
    if (ngx_array_init(&indices, cf->pool, kMostModules, sizeof(ngx_uint_t)) != NGX_OK) {
        return false;
    }

    for (const char *name : kUpstreamModules) {
        ngx_module_t *module = find_module(cf->cycle, name);

        if (module != nullptr) {
            *static_cast<ngx_uint_t *>(ngx_array_push(&indices)) = module->ctx_index;
        }
    }

    return true;
}

void learn_exchanging(ngx_conf_t *cf, const ngx_array_t &indices)
{
    auto *core = static_cast<ngx_http_core_loc_conf_t *>(
        ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module));
    void **conf = static_cast<ngx_http_conf_ctx_t *>(cf->ctx)->loc_conf;
    auto *index = static_cast<ngx_uint_t *>(indices.elts);

    for (ngx_uint_t i = 0; i < indices.nelts && core->handler != nullptr; i++) {
        if (static_cast<ngx_http_upstream_conf_t *>(conf[index[i]])->upstream != nullptr) {
            remember_exchanging(core->handler);
        }
    }
}

void guard_upstream(Context &context)
{
    ngx_http_request_t *r = context.request;

    outlast_quic(r);

    // an exchange that failed at once was not watched
    unmark(context);

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

    if (context != nullptr && is_under_way(*context)
        && r->content_handler != nullptr && r->content_handler == handler_of_location(r))
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
        return context.origin_so_far;
    }

    // set when the whole head is there (ngx_http_upstream_process_header)
    if (u->state->header_time != static_cast<ngx_msec_t>(-1)) {
        return Origin::application;
    }

    // a body that is still coming in is no whole request
    if (u->request_sent && !r->reading_body) {
        return Origin::broken;
    }

    return context.origin_so_far;
}

}  // namespace idempotency
