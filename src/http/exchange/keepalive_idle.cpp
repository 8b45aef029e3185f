#include "http/exchange/keepalive_idle.h"

#include "http/exchange/context.h"
#include "http/exchange/guard.h"

// In nginx the cache of connections replaces the callbacks of the balancer.  In Angie it has
// two callbacks of its own, `connect` and `close`, and the balancer's data must stay as it is.
#if defined(angie_version) && angie_version >= 1008000
#define IDEMPOTENCY_CACHE_HAS_CALLBACKS 1
#endif

namespace idempotency {

namespace {

struct UpstreamConfig {
    ngx_http_upstream_init_peer_pt init_peer;  // what this module has replaced
    bool has_cache;
#if (IDEMPOTENCY_CACHE_HAS_CALLBACKS)
    ngx_event_connect_peer_pt connect;  // those of the cache, for every request
    ngx_event_close_peer_pt close;
#endif
};

// How long a connection of the cache may have been idle for a request.
struct Limit {
    bool exists;  // the request holds a claim, and its response is not complete
    ngx_msec_t time;
};

Limit limit_of(ngx_http_request_t *r)
{
    Context *context = find_context(r->main);
    bool exists = context != nullptr && awaits_response(*context);

    return {exists, exists ? context->conf->keepalive_idle : 0};
}

// When each connection of this worker was last put into a cache, by its number in
// ngx_cycle->connections.
ngx_msec_t *idle_since;

ngx_msec_t &idle_since_of(const ngx_connection_t *c)
{
    return idle_since[c - ngx_cycle->connections];
}

// As ngx_http_upstream_keepalive_close, without a wait for the peer.
void close_connection(ngx_connection_t *c)
{
#if (NGX_HTTP_SSL)
    if (c->ssl != nullptr) {
        c->ssl->no_wait_shutdown = 1;
        c->ssl->no_send_shutdown = 1;
        (void) ngx_ssl_shutdown(c);
    }
#endif

    ngx_destroy_pool(c->pool);
    ngx_close_connection(c);
}

// Closes the connection that comes from the cache if it was idle for too long.  True if a new
// one has to be opened, to the server that the balancer has chosen.
bool refuse_connection(ngx_peer_connection_t *pc, const Limit &limit)
{
    ngx_connection_t *c = pc->connection;

    if (c == nullptr || !limit.exists || ngx_current_msec - idle_since_of(c) <= limit.time) {
        return false;
    }

    pc->connection = nullptr;
    pc->cached = 0;
    close_connection(c);
    return true;
}

#if (IDEMPOTENCY_CACHE_HAS_CALLBACKS)

UpstreamConfig &config_of(const ngx_peer_connection_t *pc)
{
    auto *r = static_cast<ngx_http_request_t *>(pc->ctx);

    return *static_cast<UpstreamConfig *>(
        ngx_http_conf_upstream_srv_conf(r->upstream->upstream, ngx_http_idempotency_module));
}

// Angie's ngx_event_connect_peer_pt.  A connection of QUIC stays: its requests are streams.
ngx_int_t connect_peer(ngx_peer_connection_t *pc, void *data)
{
    ngx_int_t rc = config_of(pc).connect(pc, data);

    if (rc == NGX_OK && pc->cached && pc->type != SOCK_DGRAM
        && refuse_connection(pc, limit_of(static_cast<ngx_http_request_t *>(pc->ctx))))
    {
        return ngx_event_connect(pc, data);
    }

    return rc;
}

// Angie's ngx_event_close_peer_pt
void close_peer(ngx_peer_connection_t *pc, void *data, ngx_uint_t state)
{
    ngx_connection_t *c = pc->connection;

    config_of(pc).close(pc, data, state);

    // the cache has taken it
    if (c != nullptr && pc->connection == nullptr) {
        idle_since_of(c) = ngx_current_msec;
    }
}

bool watch_peer(ngx_http_request_t *r, UpstreamConfig &conf)
{
    ngx_peer_connection_t &pc = r->upstream->peer;

    if (pc.connect == nullptr || pc.close == nullptr) {
        return true;
    }

    conf.connect = pc.connect;
    conf.close = pc.close;
    pc.connect = connect_peer;
    pc.close = close_peer;
    return true;
}

#else

// Stands in for the peer data of one request (ngx_peer_connection_t::data).  Lives in
// the request's pool.
struct Peer {
    void *data;
    ngx_event_get_peer_pt get;
    ngx_event_free_peer_pt free;
    ngx_event_notify_peer_pt notify;
#if (NGX_SSL || NGX_COMPAT)
    ngx_event_set_peer_session_pt set_session;
    ngx_event_save_peer_session_pt save_session;
#endif
    Limit limit;
};

// nginx's ngx_event_get_peer_pt.  NGX_DONE: the connection comes from the cache.
ngx_int_t get_peer(ngx_peer_connection_t *pc, void *data)
{
    auto *peer = static_cast<Peer *>(data);

    ngx_int_t rc = peer->get(pc, peer->data);

    // NGX_OK: nginx opens a new connection
    return rc == NGX_DONE && refuse_connection(pc, peer->limit) ? NGX_OK : rc;
}

// nginx's ngx_event_free_peer_pt
void free_peer(ngx_peer_connection_t *pc, void *data, ngx_uint_t state)
{
    auto *peer = static_cast<Peer *>(data);
    ngx_connection_t *c = pc->connection;

    peer->free(pc, peer->data, state);

    // the cache has taken it
    if (c != nullptr && pc->connection == nullptr) {
        idle_since_of(c) = ngx_current_msec;
    }
}

void notify_peer(ngx_peer_connection_t *pc, void *data, ngx_uint_t type)
{
    auto *peer = static_cast<Peer *>(data);

    peer->notify(pc, peer->data, type);
}

#if (NGX_SSL || NGX_COMPAT)

ngx_int_t set_session(ngx_peer_connection_t *pc, void *data)
{
    auto *peer = static_cast<Peer *>(data);

    return peer->set_session(pc, peer->data);
}

void save_session(ngx_peer_connection_t *pc, void *data)
{
    auto *peer = static_cast<Peer *>(data);

    peer->save_session(pc, peer->data);
}

#endif

// False if there is no memory.
bool watch_peer(ngx_http_request_t *r, UpstreamConfig &)
{
    auto *peer = allocate<Peer>(r->pool);

    if (peer == nullptr) {
        return false;
    }

    ngx_peer_connection_t &pc = r->upstream->peer;

    peer->limit = limit_of(r);
    peer->data = pc.data;
    peer->get = pc.get;
    peer->free = pc.free;
    peer->notify = pc.notify;
    pc.data = peer;
    pc.get = get_peer;
    pc.free = free_peer;
    pc.notify = pc.notify != nullptr ? notify_peer : nullptr;

#if (NGX_SSL || NGX_COMPAT)
    peer->set_session = pc.set_session;
    peer->save_session = pc.save_session;
    pc.set_session = pc.set_session != nullptr ? set_session : nullptr;
    pc.save_session = pc.save_session != nullptr ? save_session : nullptr;
#endif

    return true;
}

#endif

// nginx's ngx_http_upstream_init_peer_pt
ngx_int_t init_peer(ngx_http_request_t *r, ngx_http_upstream_srv_conf_t *upstream)
{
    // one that is not written as a block has no configuration
    auto *conf = upstream->srv_conf != nullptr ? static_cast<UpstreamConfig *>(
                     ngx_http_conf_upstream_srv_conf(upstream, ngx_http_idempotency_module))
                                               : nullptr;
    ngx_int_t rc = conf != nullptr ? conf->init_peer(r, upstream)
                                   : ngx_http_upstream_init_round_robin_peer(r, upstream);

    if (rc != NGX_OK) {
        return rc;
    }

    if (!guard_exchange(r)) {
        return NGX_ERROR;
    }

    if (conf == nullptr || !conf->has_cache || idle_since == nullptr) {
        return NGX_OK;
    }

    return watch_peer(r, *conf) ? NGX_OK : NGX_ERROR;
}

// The first member of ngx_http_upstream_keepalive_srv_conf_t is `max_cached`.
bool has_cache(const ngx_http_upstream_srv_conf_t &upstream, const ngx_module_t &keepalive)
{
    return *static_cast<ngx_uint_t *>(upstream.srv_conf[keepalive.ctx_index]) > 0;
}

}  // namespace

void *create_upstream_config(ngx_conf_t *cf) { return allocate<UpstreamConfig>(cf->pool); }

void watch_upstreams(ngx_conf_t *cf)
{
    ngx_module_t *keepalive = find_module(cf->cycle, "ngx_http_upstream_keepalive_module");
    auto *main = static_cast<ngx_http_upstream_main_conf_t *>(
        ngx_http_conf_get_module_main_conf(cf, ngx_http_upstream_module));
    auto **upstreams = static_cast<ngx_http_upstream_srv_conf_t **>(main->upstreams.elts);

    for (ngx_uint_t i = 0; i < main->upstreams.nelts; i++) {
        ngx_http_upstream_srv_conf_t *upstream = upstreams[i];

        if (upstream->srv_conf != nullptr) {
            auto *conf = static_cast<UpstreamConfig *>(
                ngx_http_conf_upstream_srv_conf(upstream, ngx_http_idempotency_module));

            conf->init_peer = upstream->peer.init;
            conf->has_cache = keepalive != nullptr && has_cache(*upstream, *keepalive);

        } else if (upstream->peer.init != ngx_http_upstream_init_round_robin_peer) {
            continue;
        }

        upstream->peer.init = init_peer;
    }
}

bool start_keepalive_watch(ngx_cycle_t *cycle)
{
    idle_since = static_cast<ngx_msec_t *>(
        ngx_pcalloc(cycle->pool, cycle->connection_n * sizeof(ngx_msec_t)));

    return idle_since != nullptr;
}

}  // namespace idempotency
