// A Redis and how to use it, as the configuration says.

#pragma once

#include "nginx/nginx.h"

#include "redis/protocol/url.h"

namespace idempotency {

// One server.  What it points to lives as long as the configuration, whose
// pool it is in.
struct RedisServer {
    ngx_str_t name =
        ngx_null_string;  // for the log, without credentials: "host:port", "unix:/path"
    ngx_str_t host = ngx_null_string;  // a name or an address; empty of a unix socket
    in_port_t port = 0;
    ngx_addr_t *addresses = nullptr;  // those of the start, tried in turn
    ngx_uint_t address_count = 0;
    bool unknown = false;  // to the resolver, as the log has been told
};

enum class RedisTopology { standalone, sentinel, cluster };

// What the directives `ssl_*` say; the names of files are whole paths.
struct RedisTlsOptions {
    ngx_str_t trusted_certificate = ngx_null_string;  // empty: what the system trusts
    ngx_str_t certificate = ngx_null_string;
    ngx_str_t certificate_key = ngx_null_string;
    ngx_str_t name = ngx_null_string;  // empty: the host of each server
    bool verify = true;
    ngx_uint_t protocols = 0;  // nginx's bits; 0: not given
};

struct RedisTls;

struct RedisOptions {
    ngx_str_t store = ngx_null_string;  // its name, for the log

    RedisServer *servers = nullptr;  // one; or seeds of a cluster, or sentinels
    ngx_uint_t server_count = 0;
    RedisTopology topology = RedisTopology::standalone;
    ngx_str_t master = ngx_null_string;  // as the sentinels call it

    ngx_str_t user = ngx_null_string;
    ngx_str_t password = ngx_null_string;  // empty: no AUTH
    ngx_str_t sentinel_user = ngx_null_string;
    ngx_str_t sentinel_password = ngx_null_string;
    ngx_uint_t database = 0;
    ngx_str_t prefix = ngx_string("idempotency:");

    const RedisTlsOptions *tls = nullptr;  // null: what is said goes in the clear
    RedisTls *tls_context = nullptr;       // made of it

    ngx_msec_t connect_timeout = 1000;
    ngx_msec_t timeout = 1000;   // of each command, from its start
    ngx_uint_t connections = 1;  // of each worker to each server

    ngx_uint_t replicas = 0;  // `wait_replicas`; 0: off
    ngx_msec_t replica_wait = 0;

    // `resolver` and `resolver_timeout` of http{}, which may stand behind the
    // store: read in a worker.  The first may be null or have no server, the
    // second is NGX_CONF_UNSET_MSEC where it is not given.
    ngx_resolver_t *const *resolver = nullptr;
    const ngx_msec_t *resolver_timeout = nullptr;
};

// Reads a URL of `redis` into `url` and `server`.  Its name is resolved now,
// with all its addresses: it has none where the system does not know it.  Null,
// or what is wrong: that never repeats the URL, which may hold a password; the
// server's name is set as soon as it is known.
const char *read_redis_url(ngx_conf_t *cf, ngx_str_t text, RedisUrl &url,
                           RedisServer &server) noexcept;

}  // namespace idempotency
